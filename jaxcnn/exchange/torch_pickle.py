"""What the pickle inside a PyTorch file describes: read as data, without executing anything.

A pickle is a program for a small stack machine, and its instructions may name any function of any
module and have it called. Here a closed list of instructions is carried out on values of this file
alone. Names of functions are compared with a closed list of those that tensors need. None is ever
looked up, let alone called.
"""

import pickletools
from collections.abc import Callable
from typing import Any, NamedTuple

LARGEST = 16 << 20
"""Bytes of the longest pickle that is read; that of a network of 1,000 tensors has 100 kB."""

_LONGEST_NAME = 300

STORAGES = {
    "FloatStorage": "f4",
    "HalfStorage": "f2",
    "BFloat16Storage": "bfloat16",
    "DoubleStorage": "f8",
    "LongStorage": "i8",
    "IntStorage": "i4",
    "ShortStorage": "i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "b1",
}
"""The kind of numbers of each of PyTorch's storages, in NumPy's letters, or bfloat16."""


class RefusedPickleError(ValueError):
    """The pickle is damaged or describes more than tensors; the message says what was found."""


class Storage(NamedTuple):
    """A row of numbers in a file of its own.

    Attributes:
        kind: A value of `STORAGES`.
        key: The file's name.
        size: How many numbers there are.
    """

    kind: str
    key: str
    size: int


class Tensor(NamedTuple):
    """A view of a storage.

    Attributes:
        storage: Where the numbers are.
        offset: The first one.
        shape: Its sizes.
        strides: Numbers between two neighbors along each axis.
    """

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Name(NamedTuple):
    """A function or class that the pickle names."""

    module: str
    name: str


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
        _as(list, self.stack[-1]).append(value)

    def appends(self, _: Any) -> None:
        values = self.to_mark()
        _as(list, self.stack[-1]).extend(values)

    def set_item(self, _: Any) -> None:
        key, value = self.stack[-2:]
        del self.stack[-2:]
        _as(dict, self.stack[-1])[_key(key)] = value

    def set_items(self, _: Any) -> None:
        values = self.to_mark()
        pairs = zip(values[::2], values[1::2], strict=True)
        _as(dict, self.stack[-1]).update({_key(key): value for key, value in pairs})

    def name(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self.stack.append(_permitted(module, name))

    def stack_name(self, _: Any) -> None:
        module, name = self.stack[-2:]
        self.stack[-2:] = [_permitted(_as(str, module), _as(str, name))]

    def reduce(self, _: Any) -> None:
        """Where a pickle has a function called: what PyTorch's would return is made here."""
        function, arguments = self.stack[-2:]
        make = _CALLED.get(_as(_Name, function))
        if make is None:
            raise RefusedPickleError(f"it calls {function.module}.{function.name}")
        self.stack[-2:] = [make(*_as(tuple, arguments))]

    def build(self, _: Any) -> None:
        """Attributes of a state dict (`_metadata`: versions of its modules) are not needed."""
        self.stack.pop()
        _as(dict, self.stack[-1])

    def storage(self, _: Any) -> None:
        """What PyTorch calls a persistent id: ("storage", type, key, device, count)."""
        tag, kind, key, _, count = _as(tuple, self.stack[-1])
        kind = _as(_Name, kind)
        if tag != "storage" or kind.module != "torch":
            raise RefusedPickleError("it refers to something other than a storage of numbers")
        self.stack[-1] = Storage(STORAGES[kind.name], _as(str, key), _count(count))


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


def _as(kind: type, value: Any) -> Any:
    """Returns a value of a kind; RefusedPickleError for any other."""
    if not isinstance(value, kind):
        raise RefusedPickleError(
            f"its pickle has a {type(value).__name__} where a {kind.__name__.lstrip('_')} belongs"
        )
    return value


def _key(value: Any) -> str | int:
    """Returns the key of a dict: no tuples, whose hash may take for ever."""
    return value if isinstance(value, int) else _as(str, value)


def _count(value: Any) -> int:
    number = _as(int, value)
    if not 0 <= number < 1 << 48:
        raise RefusedPickleError(f"it has a size or place of {str(number)[:40]}")
    return number


def _counts(values: Any) -> tuple[int, ...]:
    return tuple(_count(value) for value in _as(tuple, values))


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *rest: Any) -> Tensor:
    """`torch._utils._rebuild_tensor_v2`; the rest is about gradients, of which there are none."""
    return Tensor(_as(Storage, storage), _count(offset), _counts(shape), _counts(strides))


def _parameter(data: Any, *rest: Any) -> Tensor:
    """`torch._utils._rebuild_parameter`."""
    return _as(Tensor, data)


def _ordered_dict(items: Any = ()) -> dict[str | int, Any]:
    """`collections.OrderedDict`; every dict keeps its order."""
    pairs = items if isinstance(items, tuple) else _as(list, items)
    return {_key(key): value for key, value in pairs}


_CALLED: dict[_Name, Callable[..., Any]] = {
    _Name("torch._utils", "_rebuild_tensor_v2"): _tensor,
    _Name("torch._utils", "_rebuild_parameter"): _parameter,
    _Name("collections", "OrderedDict"): _ordered_dict,
}
_NAMES = {*_CALLED, *(_Name("torch", storage) for storage in STORAGES)}


def _permitted(module: str, name: str) -> _Name:
    if (found := _Name(module, name)) not in _NAMES:
        raise RefusedPickleError(f"it asks for {shown(f'{module}.{name}')}, which no tensor needs")
    return found


def shown(text: str) -> str:
    """Returns a foreign text as it can stand in a line: printable, and not long."""
    plain = "".join(letter if letter.isprintable() else "?" for letter in text)
    return plain if len(plain) <= _LONGEST_NAME else plain[:_LONGEST_NAME] + "..."
