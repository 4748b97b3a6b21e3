"""What the pickle inside a PyTorch file describes: read as data, without executing anything.

A pickle is a program for a small stack machine, and its instructions may name any function of any
module and have it called. Here a closed list of instructions is carried out, on the values of
`torch_values` alone.
"""

import pickletools
from collections.abc import Callable
from typing import Any

from jaxcnn.exchange.torch_values import (
    CALLED,
    STORAGES,
    Name,
    RefusedPickleError,
    Storage,
    checked,
    count_of,
    key_of,
    permitted,
)

LARGEST = 16 << 20
"""Bytes of the longest pickle that is read; that of a network of 1,000 tensors has 100 kB."""

_MARK = object()


def load(data: bytes) -> Any:
    """Returns what a pickle describes: tensors in dicts, lists and tuples, numbers and texts.

    Raises:
        RefusedPickleError: If it is damaged, or holds anything else.
    """
    if len(data) > LARGEST:
        raise RefusedPickleError(
            f"its pickle has {len(data):,} bytes, at most {LARGEST:,} are read"
        )
    machine = _Machine()
    try:
        for opcode, argument, _ in pickletools.genops(data):
            if opcode.name == "STOP":
                (result,) = machine.stack
                return result
            machine.step(opcode.name, argument)
    except RefusedPickleError:
        raise
    except Exception as error:  # a damaged pickle leads to almost any error
        raise RefusedPickleError(f"its pickle is damaged ({type(error).__name__})") from error
    raise RefusedPickleError("its pickle has no end")


class _Machine:
    """The stack and the memo of a pickle that is being read."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def step(self, opcode: str, argument: Any) -> None:
        """Carries out one instruction."""
        if opcode in _PUSHED:
            self.stack.append(argument)
        elif opcode in _CONSTANTS:
            self.stack.append(_CONSTANTS[opcode]())
        elif opcode in _TUPLES:
            size = _TUPLES[opcode]
            self.stack[-size:] = [tuple(self.stack[-size:])]
        elif opcode in ("BINPUT", "LONG_BINPUT"):
            self.memo[argument] = self.stack[-1]
        elif opcode in ("BINGET", "LONG_BINGET"):
            self.stack.append(self.memo[argument])
        elif opcode in _ACTIONS:
            _ACTIONS[opcode](self, argument)
        else:
            raise RefusedPickleError(f"its pickle has the instruction {opcode}, tensors need none")

    def to_mark(self) -> list[Any]:
        """Takes what lies above the last mark from the stack, and the mark."""
        place = len(self.stack) - 1
        while self.stack[place] is not _MARK:
            place -= 1
        above = self.stack[place + 1 :]
        del self.stack[place:]
        return above

    def memoize(self, _: Any) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def pop(self, _: Any) -> None:
        self.stack.pop()

    def make_tuple(self, _: Any) -> None:
        self.stack.append(tuple(self.to_mark()))

    def append(self, _: Any) -> None:
        value = self.stack.pop()
        checked(list, self.stack[-1]).append(value)

    def appends(self, _: Any) -> None:
        values = self.to_mark()
        checked(list, self.stack[-1]).extend(values)

    def set_item(self, _: Any) -> None:
        key, value = self.stack[-2:]
        del self.stack[-2:]
        checked(dict, self.stack[-1])[key_of(key)] = value

    def set_items(self, _: Any) -> None:
        values = self.to_mark()
        pairs = zip(values[::2], values[1::2], strict=True)
        checked(dict, self.stack[-1]).update({key_of(key): value for key, value in pairs})

    def name(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self.stack.append(permitted(module, name))

    def stack_name(self, _: Any) -> None:
        module, name = self.stack[-2:]
        self.stack[-2:] = [permitted(checked(str, module), checked(str, name))]

    def reduce(self, _: Any) -> None:
        """Where a pickle has a function called: what PyTorch's would return is made here."""
        function, arguments = self.stack[-2:]
        make = CALLED.get(checked(Name, function))
        if make is None:
            raise RefusedPickleError(f"it calls {function.module}.{function.name}")
        self.stack[-2:] = [make(*checked(tuple, arguments))]

    def build(self, _: Any) -> None:
        """Attributes of a state dict (`_metadata`: versions of its modules) are not needed."""
        self.stack.pop()
        checked(dict, self.stack[-1])

    def storage(self, _: Any) -> None:
        """What PyTorch calls a persistent id: ("storage", type, key, device, count)."""
        tag, kind, key, _, count = checked(tuple, self.stack[-1])
        kind = checked(Name, kind)
        if tag != "storage" or kind.module != "torch":
            raise RefusedPickleError("it refers to something other than a storage of numbers")
        self.stack[-1] = Storage(STORAGES[kind.name], checked(str, key), count_of(count))


_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "MARK": lambda: _MARK,
}
# genops gives their value as it is.
_PUSHED = (
    *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINBYTES", "SHORT_BINBYTES"),
)
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_ACTIONS: dict[str, Callable[[_Machine, Any], None]] = {
    "PROTO": lambda machine, _: None,
    "FRAME": lambda machine, _: None,
    "MEMOIZE": _Machine.memoize,
    "POP": _Machine.pop,
    "TUPLE": _Machine.make_tuple,
    "APPEND": _Machine.append,
    "APPENDS": _Machine.appends,
    "SETITEM": _Machine.set_item,
    "SETITEMS": _Machine.set_items,
    "GLOBAL": _Machine.name,
    "STACK_GLOBAL": _Machine.stack_name,
    "REDUCE": _Machine.reduce,
    "BUILD": _Machine.build,
    "BINPERSID": _Machine.storage,
}
