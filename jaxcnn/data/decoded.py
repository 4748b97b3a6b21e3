"""How do image files of any size become one array, decoded once and in little memory?

The images are written into a file as they are decoded, which is then mapped into memory: what is
read of it, the system can drop again. Beside `PLACE.u8`, the images, lies `PLACE.json`, which says
of which files they are, their checksum, and which files could not be read. Removing both is safe.
"""

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from jaxcnn.data import cache, image_files
from jaxcnn.data.meter import Meter
from jaxcnn.errors import UserError

_FORMAT = 1  # raise it when decoding gives other pixels than before
_CHUNK = 256  # files at a time: their images are all that is held in memory
_MOST_THREADS = 8  # each may hold a whole photograph
_logger = logging.getLogger(__name__)

Shape = tuple[int, int, int]


class Decoded(NamedTuple):
    """The images of a list of files.

    Attributes:
        images: uint8 `[N, H, W, C]`, 0..255, read-only: of the files that can be read, in order.
        refused: What is wrong with each of the other files, by its place in the list.
    """

    images: np.ndarray
    refused: dict[int, str]


def read_or_make(folder: Path, names: Sequence[str], shape: Shape, place: Path) -> Decoded:
    """Returns the images of files, from the cache if they were decoded before.

    A file counts as the same while its name, size and time of change are. A damaged, outdated or
    unwritable cache is no error: it costs the decoding.

    Args:
        folder: Where the files are.
        names: Their paths below it.
        shape: (H, W, C) of the images, see `image_files.read`.
        place: Path of the cache, without a suffix.

    Raises:
        UserError: There is no room for the decoded images.
    """
    images, note = place.with_name(f"{place.name}.u8"), place.with_name(f"{place.name}.json")
    key = _key(folder, names, shape)
    found = _read(images, note, key, len(names), shape)
    if found is not None:
        return found
    try:
        with cache.replacing(images) as file:
            made, checksum = _decode(folder, names, shape, file, place.name)
        with cache.replacing(note) as file:
            content = {"key": key, "sha256": checksum, "refused": list(made.refused.items())}
            file.write(json.dumps(content).encode())
        return made
    except OSError as error:
        cache.warn_unwritable(place.parent, error.strerror or str(error))
    try:
        with tempfile.TemporaryFile() as file:
            return _decode(folder, names, shape, file, place.name)[0]
    except OSError as error:
        raise UserError(
            f"no room for {len(names) * int(np.prod(shape)) / 1e6:,.0f} MB of decoded images, "
            f"neither in {place.parent} nor among temporary files ({error.strerror or error}): "
            "make room, or let TMPDIR name a folder that has it"
        ) from error


def _key(folder: Path, names: Sequence[str], shape: Shape) -> str:
    digest = hashlib.sha256(json.dumps([_FORMAT, shape]).encode())
    for name in names:
        try:
            status = os.stat(folder / name)
            facts = [name, status.st_size, status.st_mtime_ns]
        except OSError:  # reading it will say what is wrong
            facts = [name]
        digest.update(json.dumps(facts).encode())
    return digest.hexdigest()


def _read(images: Path, note: Path, key: str, count: int, shape: Shape) -> Decoded | None:
    try:
        content: Any = json.loads(note.read_bytes())
        if content["key"] != key:
            return None
        refused = {int(index): str(reason) for index, reason in content["refused"]}
        with images.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != content["sha256"]:
                raise ValueError("its checksum differs")
            return Decoded(_mapped(file, count - len(refused), shape), refused)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        _logger.warning("decoding again, as %s is damaged (%s)", images, error)
        return None


def _decode(
    folder: Path, names: Sequence[str], shape: Shape, file: IO[bytes], task: str
) -> tuple[Decoded, str]:
    """Returns the images, mapped from `file`, into which they are written, and their SHA-256."""

    def decode(name: str) -> np.ndarray | str:
        try:
            return image_files.decode(folder / name, shape)
        except image_files.Refused as error:
            return str(error).removeprefix(f"{folder / name}: ")

    refused: dict[int, str] = {}
    digest = hashlib.sha256()
    threads = min(_MOST_THREADS, os.cpu_count() or 1)
    with (
        Meter(f"decoding {task} (once)", len(names), "images") as meter,
        image_files.decoding(),
        ThreadPoolExecutor(threads) as pool,
    ):
        for start in range(0, len(names), _CHUNK):
            results = pool.map(decode, names[start : start + _CHUNK])
            for index, result in enumerate(results, start):
                if isinstance(result, str):
                    refused[index] = result
                else:
                    file.write(result.data)
                    digest.update(result.data)
                meter.advance()
    file.flush()
    images = _mapped(file, len(names) - len(refused), shape)
    return Decoded(images, refused), digest.hexdigest()


def _mapped(file: IO[bytes], count: int, shape: Shape) -> np.ndarray:
    """Returns uint8 `[count, *shape]` from a file; ValueError if it has another size."""
    size = os.fstat(file.fileno()).st_size
    if size != count * int(np.prod(shape)):
        raise ValueError(f"it has {size:,} bytes")
    if not count:  # nothing cannot be mapped
        return np.empty((0, *shape), np.uint8)
    return np.asarray(np.memmap(file, np.uint8, "r", shape=(count, *shape)))
