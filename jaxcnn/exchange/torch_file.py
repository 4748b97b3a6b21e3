"""Files of `torch.save`: the arrays of a state dict, read and written without PyTorch.

Since PyTorch 1.6 such a file is a zip archive without compression: a pickle, `NAME/data.pkl`, and
the bytes of each storage, `NAME/data/KEY`.
"""

import math
import os
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np

from jaxcnn.errors import UserError
from jaxcnn.exchange import torch_pickle
from jaxcnn.exchange.torch_values import RefusedPickleError, Storage, Tensor, shown

LARGEST = 4 << 30
"""Bytes of the longest file that is read."""

MOST_ENTRIES = 20_000
"""Most files inside one."""

# Keys under which the training scripts of public repositories put the state dict.
_CHECKPOINT_KEYS = ("state_dict", "model_state_dict", "model", "net")
# What wrappers put before all names: DataParallel, torch.compile, Lightning.
_PREFIXES = ("module.", "_orig_mod.", "model.")
_ByteOrder = Literal["<", ">"]
# Bytes of an entry's header before its name.
_HEADER = 30
# What the library of zip archives raises for a damaged one.
_DAMAGE = (
    *(zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, struct.error),
    *(ValueError, KeyError, OverflowError),
)
_REMEDY = "save the weights alone: torch.save(model.state_dict(), FILE), with PyTorch 1.6 or later"


def read(path: Path) -> dict[str, np.ndarray]:
    """Returns the arrays of the state dict in a file, by name and in its order.

    Numbers of 16 bits are returned as they are, bfloat16 as float32. A prefix that a wrapper put
    before all names is left out.

    Raises:
        UserError: If it cannot be read, is damaged, or holds more than tensors, naming what.
    """
    try:
        with open(path, "rb") as file:
            _check_kind(file.read(4))
            if (size := os.fstat(file.fileno()).st_size) > LARGEST:
                raise RefusedPickleError(f"it has {size:,} bytes, at most {LARGEST:,} are read")
            with zipfile.ZipFile(file) as archive:
                folder = _checked_folder(archive, size)
                content = torch_pickle.load(archive.read(f"{folder}/data.pkl"))
                return _arrays(_state_dict(content), archive, folder)
    except RefusedPickleError as error:
        raise UserError(f"{path} is not read, {error}: {_REMEDY}") from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"cannot read {path} ({reason}): name a file that is there") from error
    except _DAMAGE as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path} is damaged ({shown(reason)}): get a whole copy") from error


def _check_kind(start: bytes) -> None:
    if start[:2] == b"\x80\x02":
        raise RefusedPickleError("it has the format of PyTorch before 1.6")
    if start != b"PK\x03\x04":
        raise RefusedPickleError("it is no file of torch.save")


def _checked_folder(archive: zipfile.ZipFile, size: int) -> str:
    """Returns the name of the archive's only folder; refuses what torch.save does not write."""
    entries = archive.infolist()
    if len(entries) > MOST_ENTRIES:
        raise RefusedPickleError(f"it has {len(entries):,} entries, at most {MOST_ENTRIES:,}")
    for entry in entries:
        # Without compression, nothing inside can be larger than the file.
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
            raise RefusedPickleError(f"its entry {shown(entry.filename)} is compressed")
    if sum(entry.file_size for entry in entries) > size:
        raise RefusedPickleError("its entries overlap")
    names = [entry.filename for entry in entries]
    if len(set(names)) < len(names):
        raise RefusedPickleError("two of its entries have one name")
    if any("/code/" in name for name in names):
        raise RefusedPickleError("it is a TorchScript program")
    folders = [name.removesuffix("/data.pkl") for name in names if name.endswith("/data.pkl")]
    if len(folders) != 1:
        raise RefusedPickleError(f"it has {len(folders)} entries data.pkl in place of one")
    return folders[0]


def _state_dict(content: Any) -> dict[str, Tensor]:
    """Returns the tensors by name, which may lie under a key of a checkpoint."""
    if not isinstance(content, dict):
        raise RefusedPickleError(f"it holds a {type(content).__name__.lower()}, no state dict")
    inner = (content.get(key) for key in _CHECKPOINT_KEYS)
    found = next((value for value in inner if isinstance(value, dict)), content)
    others = [str(name) for name, value in found.items() if not isinstance(value, Tensor)]
    if others or not found:
        some = ", ".join(map(shown, others[:5])) or "nothing"
        raise RefusedPickleError(f"it has no state dict: beside tensors it holds {some}")
    names = [str(name) for name in found]
    for prefix in _PREFIXES:
        if all(name.startswith(prefix) for name in names):
            names = [name.removeprefix(prefix) for name in names]
    for name in names:
        if shown(name) != name:
            raise RefusedPickleError(f"a tensor has the name {shown(name)}")
    return dict(zip(names, found.values(), strict=True))


def _arrays(
    tensors: Mapping[str, Tensor], archive: zipfile.ZipFile, folder: str
) -> dict[str, np.ndarray]:
    order: _ByteOrder = "<"
    if f"{folder}/byteorder" in archive.namelist():
        order = ">" if archive.read(f"{folder}/byteorder") == b"big" else "<"
    storages: dict[Storage, np.ndarray] = {}
    arrays = {}
    for name, tensor in tensors.items():
        if tensor.storage not in storages:
            storages[tensor.storage] = _numbers(tensor.storage, archive, folder, order)
        arrays[name] = _view(storages[tensor.storage], tensor, name)
    return arrays


def _numbers(
    storage: Storage, archive: zipfile.ZipFile, folder: str, order: _ByteOrder
) -> np.ndarray:
    """Returns the numbers of a storage, one-dimensional."""
    try:
        content = archive.read(f"{folder}/data/{storage.key}")
    except KeyError:
        raise RefusedPickleError(f"its entry data/{shown(storage.key)} is missing") from None
    is_bfloat16 = storage.kind == "bfloat16"
    dtype = np.dtype("u2" if is_bfloat16 else storage.kind).newbyteorder(order)
    if len(content) != storage.size * dtype.itemsize:
        raise RefusedPickleError(
            f"its entry data/{shown(storage.key)} has {len(content)} bytes in place of "
            f"{storage.size * dtype.itemsize}"
        )
    numbers = np.frombuffer(content, dtype).astype(dtype.newbyteorder("="))
    # A bfloat16 is the upper half of a float32.
    return (numbers.astype(np.uint32) << 16).view(np.float32) if is_bfloat16 else numbers


def _view(numbers: np.ndarray, tensor: Tensor, name: str) -> np.ndarray:
    """Returns the tensor as an array of its own, [shape]."""
    shape, strides, count = tensor.shape, tensor.strides, math.prod(tensor.shape)
    last = tensor.offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=False))
    fits = len(shape) == len(strides) <= 8 and count <= numbers.size
    if not fits or (count and last >= numbers.size):
        raise RefusedPickleError(f"{name} reaches beyond its storage of {numbers.size} numbers")
    if not count:
        return np.zeros(shape, numbers.dtype)
    view = np.lib.stride_tricks.as_strided(
        numbers[tensor.offset :], shape, [step * numbers.itemsize for step in strides]
    )
    return view.copy()


_WRITTEN = {"float32": "FloatStorage", "float16": "HalfStorage", "int64": "LongStorage"}
_ALIGNMENT = 64


def write(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes arrays as the state dict that `torch.load(path, weights_only=True)` gives back.

    The same arrays give the same bytes.

    Args:
        path: The file; one that is there is written over.
        arrays: By name: float32, float16 or int64.
    """
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        _add(archive, "archive/data.pkl", _pickled(arrays))
        _add(archive, "archive/byteorder", b"little")
        for key, array in enumerate(arrays.values()):
            content = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()
            _add(archive, f"archive/data/{key}", content)
        _add(archive, "archive/version", b"3\n")


def _add(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    """Adds an entry whose content begins at a multiple of 64 bytes, as torch.save has it."""
    entry = zipfile.ZipInfo(name)  # of 1980, so that equal arrays give equal files
    file: IO[bytes] = archive.fp  # type: ignore[assignment] # it is open
    begin = file.tell() + _HEADER + len(name) + 4
    padding = -begin % _ALIGNMENT
    entry.extra = b"FB" + struct.pack("<H", padding) + b"Z" * padding
    archive.writestr(entry, content)


def _pickled(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Returns the pickle, protocol 2, of an OrderedDict of tensors in C order."""
    parts = [b"\x80\x02", _ORDERED_DICT, b"("]
    for key, (name, array) in enumerate(arrays.items()):
        kind, strides = _WRITTEN[array.dtype.name], [1]
        for size in reversed(array.shape[1:]):
            strides.insert(0, strides[0] * size)
        parts += [
            *(_text(name), b"ctorch._utils\n_rebuild_tensor_v2\n("),
            # ("storage", its type, its key, its device, its length), a persistent id.
            *(b"(", _text("storage"), f"ctorch\n{kind}\n".encode(), _text(str(key)), _text("cpu")),
            *(_int(array.size), b"tQ"),
            *(_int(0), _tuple(array.shape), _tuple(strides if array.ndim else ())),
            *(b"\x89", _ORDERED_DICT, b"tR"),  # no gradient, no hooks
        ]
    return b"".join([*parts, b"u."])


_ORDERED_DICT = b"ccollections\nOrderedDict\n)R"


def _text(text: str) -> bytes:
    content = text.encode()
    return b"X" + struct.pack("<I", len(content)) + content


def _int(number: int) -> bytes:
    return b"J" + struct.pack("<i", number)


def _tuple(numbers: Any) -> bytes:
    return b"(" + b"".join(map(_int, numbers)) + b"t"
