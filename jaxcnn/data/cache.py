"""How does the second start avoid decoding all images again?

Beside the record files of a prepared data set lies `jaxcnn_decoded/SPLIT.npz`: the decoded arrays
and a key that says which record files they came from. Removing it is always safe.
"""

import contextlib
import functools
import hashlib
import json
import logging
import os
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import numpy as np

from jaxcnn.data.splits import Split

FOLDER = "jaxcnn_decoded"
_FORMAT = 1  # raise it when decoding gives other arrays than before
_logger = logging.getLogger(__name__)


def read_or_make(directory: Path, split: str, count: int, make: Callable[[], Split]) -> Split:
    """Returns the decoded split from the cache, or makes it and puts it there.

    Args:
        directory: The version directory of a prepared data set.
        split: Name of the whole split.
        count: Its number of examples.
        make: Decodes it.

    Returns:
        The split. A damaged, outdated or unwritable cache is no error: it costs the decoding.
    """
    path, key = directory / FOLDER / f"{split}.npz", _key(directory)
    cached = _read(path, key, count)
    if cached is not None:
        return cached
    # Outside of any lock: two processes that both find nothing do the work twice, and agree.
    made = make()
    try:
        _write(path, key, made)
    except OSError as error:
        warn_unwritable(path.parent, error.strerror or str(error))
    return made


@functools.cache  # so that it is said once, not for every split
def warn_unwritable(folder: Path, reason: str) -> None:
    """Says that nothing can be kept in a folder, and why."""
    _logger.warning(
        "cannot keep the decoded images in %s (%s): every start decodes them again", folder, reason
    )


def _key(directory: Path) -> str:
    """Names the record files: the descriptions that TFDS wrote, and every file's name and size.

    Not the time of change, so that a copied directory keeps its cache.
    """
    files = sorted(path for path in directory.iterdir() if path.is_file())
    digest = hashlib.sha256()
    for path in files:
        digest.update(json.dumps([path.name, path.stat().st_size]).encode())
        if path.suffix == ".json":
            digest.update(path.read_bytes())
    return f"{_FORMAT}:{directory.name}:{digest.hexdigest()}"


def _read(path: Path, key: str, count: int) -> Split | None:
    try:
        # Reading checks the CRC-32. np.load does not close a damaged file that it opened itself.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            if str(arrays["key"]) != key:
                return None
            split = Split(arrays["images"], arrays["labels"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        _logger.warning("decoding again, as %s is damaged (%s)", path, error)
        return None
    images, labels = split
    if (
        (images.dtype, labels.dtype) != (np.uint8, np.int32)
        or images.ndim != 4
        or images.shape[0] != count
        or labels.shape != (count,)
    ):
        _logger.warning("decoding again, as %s has other shapes than expected", path)
        return None
    return split


def _write(path: Path, key: str, split: Split) -> None:
    with replacing(path) as file:
        np.savez(file, key=np.array(key), images=split.images, labels=split.labels)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Yields a new file, to be written and read, that takes the place of `path` when it is whole.

    Nobody ever reads half a file, and two processes may race. The folder is made if need be.
    """
    path.parent.mkdir(exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.stem}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w+b") as file:
            yield file
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(name, 0o666 & ~umask)  # mkstemp's 0600 would lock others out of shared data
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
