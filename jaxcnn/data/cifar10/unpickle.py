"""How is a CIFAR batch of the python version read without letting a pickle run anything?

A pickle is a program: it may name any callable of any module and call it. The batches need three
callables of NumPy, to rebuild one array. Here those three names stand for inert classes of this
file that only remember what they were given, and every other name is refused. So no foreign code
runs, not even NumPy's, and NumPy's renaming of its modules does not matter.
"""

import io
import pickle
from typing import Any

import numpy as np


class RefusedPickleError(ValueError):
    """The pickle is damaged, or holds more than the plain data of a batch."""


class _DType:
    """Stands for `numpy.dtype`: remembers its name."""

    def __init__(self, name: Any, *flags: Any) -> None:
        self.name = name

    def __setstate__(self, state: Any) -> None:
        """Ignores byte order and alignment: single bytes have neither."""


class _Array:
    """Stands for `numpy.ndarray`: remembers its state."""

    def __init__(self, *arguments: Any) -> None:
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


def _reconstruct(*arguments: Any) -> _Array:
    return _Array()


def _encode(text: str, encoding: str) -> bytes:
    """Stands for `_codecs.encode`, by which Python 3 writes bytes in pickles of protocol 2."""
    return text.encode("latin-1")


_STAND_INS = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,  # the same one since NumPy 2
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _DType,
    ("_codecs", "encode"): _encode,
}


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """Returns the stand-in of a permitted name; every way to name a callable comes here."""
        try:
            return _STAND_INS[module, name]
        except KeyError:
            raise RefusedPickleError(f"it asks for {module}.{name}, which no batch needs") from None


def read_batch(data: bytes) -> dict[str, Any]:
    """Reads the pickled dictionary of one batch.

    Args:
        data: The file's content.

    Returns:
        Its entries by name; an array of bytes as uint8 array of its own shape.

    Raises:
        RefusedPickleError: For anything else.
    """
    try:
        # Python 2 wrote the official batches; its strings are bytes.
        batch = _Reader(io.BytesIO(data), encoding="bytes").load()
        if not isinstance(batch, dict):
            raise RefusedPickleError("it is not a dictionary")
        return {
            key.decode() if isinstance(key, bytes) else str(key): _to_numpy(value)
            for key, value in batch.items()
        }
    except RefusedPickleError:
        raise
    except Exception as error:  # a damaged pickle makes the reader raise almost anything
        raise RefusedPickleError(f"it is damaged ({type(error).__name__})") from error


def _to_numpy(value: Any) -> Any:
    if not isinstance(value, _Array):
        return value
    # ndarray.__setstate__: version, shape, dtype, Fortran order, content
    _, shape, dtype, fortran, content = value.state
    if not isinstance(dtype, _DType) or dtype.name not in ("u1", b"u1") or fortran:
        raise RefusedPickleError("its array is not one of bytes in C order")
    return np.frombuffer(content, np.uint8).reshape(shape)
