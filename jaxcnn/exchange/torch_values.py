"""What a PyTorch file may describe, as values of this program: tensors, their storages, names.

Names of functions are compared with a closed list of those that tensors need. None is ever looked
up, let alone called.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

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


class Name(NamedTuple):
    """A function or class that the pickle names."""

    module: str
    name: str


def checked(kind: type, value: Any) -> Any:
    """Returns a value of a type; RefusedPickleError for one of another type."""
    if not isinstance(value, kind):
        raise RefusedPickleError(
            f"its pickle has a {type(value).__name__} where a {kind.__name__} belongs"
        )
    return value


def key_of(value: Any) -> str | int:
    """Returns the key of a dict: no tuples, whose hash may take for ever."""
    return value if isinstance(value, int) else checked(str, value)


def count_of(value: Any) -> int:
    """Returns a size or place; RefusedPickleError unless it is a number that a file can have."""
    number = checked(int, value)
    if not 0 <= number < 1 << 48:
        raise RefusedPickleError(f"it has a size or place of {str(number)[:40]}")
    return number


def _counts(values: Any) -> tuple[int, ...]:
    return tuple(count_of(value) for value in checked(tuple, values))


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *rest: Any) -> Tensor:
    """`torch._utils._rebuild_tensor_v2`; the rest is about gradients, of which there are none."""
    return Tensor(checked(Storage, storage), count_of(offset), _counts(shape), _counts(strides))


def _parameter(data: Any, *rest: Any) -> Tensor:
    """`torch._utils._rebuild_parameter`."""
    return checked(Tensor, data)


def _ordered_dict(items: Any = ()) -> dict[str | int, Any]:
    """`collections.OrderedDict`; every dict keeps its order."""
    pairs = items if isinstance(items, tuple) else checked(list, items)
    return {key_of(key): value for key, value in pairs}


CALLED: dict[Name, Callable[..., Any]] = {
    Name("torch._utils", "_rebuild_tensor_v2"): _tensor,
    Name("torch._utils", "_rebuild_parameter"): _parameter,
    Name("collections", "OrderedDict"): _ordered_dict,
}
_NAMES = {*CALLED, *(Name("torch", storage) for storage in STORAGES)}


def permitted(module: str, name: str) -> Name:
    """Returns a name that tensors need; RefusedPickleError for any other."""
    if (found := Name(module, name)) not in _NAMES:
        raise RefusedPickleError(f"it asks for {shown(f'{module}.{name}')}, which no tensor needs")
    return found


def shown(text: str) -> str:
    """Returns a foreign text as it can stand in a line: printable, and not long."""
    plain = "".join(letter if letter.isprintable() else "?" for letter in text)
    return plain if len(plain) <= _LONGEST_NAME else plain[:_LONGEST_NAME] + "..."
