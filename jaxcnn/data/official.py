"""Which small data sets are prepared from their official files, and what do these hold?

MNIST, Fashion-MNIST and KMNIST are IDX files (LeCun, Cortes & Burges,
http://yann.lecun.com/exdb/mnist/: a magic number, the sizes, big-endian, then bytes), SVHN is
Matlab files (Netzer et al. 2011, http://ufldl.stanford.edu/housenumbers/). Where they are published
and their checksums are known to TFDS.
"""

import gzip
import hashlib
import io
import struct
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from jaxcnn.data import download
from jaxcnn.data.writer import Contents, Records
from jaxcnn.errors import UserError

SVHN = "svhn_cropped"
NAMES = ("mnist", "fashion_mnist", "kmnist", SVHN)
_IDX: dict[str, tuple[str, ...]] = {
    "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
    "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
}
_MATLAB: dict[str, tuple[str, ...]] = {"train": ("train_32x32.mat",), "test": ("test_32x32.mat",)}
_IDX_SHAPE = (28, 28)
_CLASSES = 10
_MOST_BYTES = 1 << 28  # of a file, uncompressed; the largest published one has 182 MB


def files(name: str) -> dict[str, tuple[str, ...]]:
    """Returns the names of the published files of each split, images first."""
    return _MATLAB if name == SVHN else _IDX


def fetch(name: str, root: Path) -> dict[str, Path]:
    """Returns the published files by name, downloading what is not there.

    Raises:
        UserError: As `download.fetch_file`.
    """
    infos = _url_infos(name)
    names = [file for split in files(name).values() for file in split]
    ways_out = (
        f"three ways out: get {', '.join(names)} by other means and run `jaxcnn prepare {name} "
        "--archive FOLDER`; or let --data_dir or TFDS_DATA_DIR name a directory in which "
        f"{name} is prepared; or train on the embedded data set: --config mobilenet:digits"
    )
    return {
        file: download.fetch_file(*infos[file], name=name, root=root, ways_out=ways_out)
        for file in names
    }


def _url_infos(name: str) -> dict[str, tuple[str, Any]]:
    """Returns URL, size and SHA-256 of each published file, by its name."""
    infos = tfds.builder_cls(name).url_infos
    return {url.rpartition("/")[2]: (url, info) for url, info in infos.items()}


def find(name: str, paths: Sequence[Path]) -> dict[str, Path]:
    """Returns the published files by name, or the same without .gz, among paths and in folders.

    Raises:
        UserError: One is not there.
    """
    places = [place for path in paths for place in (path, path / "raw")]  # as torchvision has them
    found = {}
    for file in (file for split in files(name).values() for file in split):
        wanted = (file, file.removesuffix(".gz"))
        candidates = [place / other for other in wanted for place in places]
        candidates += [path for path in paths if path.name in wanted]
        existing = [path for path in candidates if path.is_file()]
        if not existing:
            raise UserError(
                f"{' and '.join(map(str, paths))}: there is no {file}; name the folder of "
                f"{', '.join(f for split in files(name).values() for f in split)}"
            )
        found[file] = existing[0]
    return found


def read(name: str, found: Mapping[str, Path], *, allow_modified: bool) -> Contents:
    """Reads the published files.

    Args:
        name: One of `NAMES`.
        found: Their paths, by name.
        allow_modified: Whether to accept what is not the published data.

    Raises:
        UserError: A file is damaged, or modified and that is not allowed.
    """
    infos = _url_infos(name)
    modified = False
    for file, path in found.items():
        _check_size(path)
        try:
            with path.open("rb") as opened:
                sha256 = hashlib.file_digest(opened, "sha256").hexdigest()
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror or error}") from error
        if sha256 == infos[file][1].checksum:
            continue
        modified = True
        if not allow_modified:
            raise UserError(
                f"{path} is not the published {file}: its SHA-256 is {sha256}, that of the "
                f"published one {infos[file][1].checksum}; get the published one, or add "
                "--allow-modified to use this one, which every run will then say"
            )
    splits = {}
    for split, names in files(name).items():
        paths = [found[file] for file in names]
        try:
            splits[split] = _svhn(paths[0]) if name == SVHN else _idx(paths[0], paths[1])
        except (OSError, EOFError, zlib.error, ValueError, KeyError, TypeError) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UserError(
                f"{' or '.join(map(str, paths))} is damaged, or something else ({reason}): get it "
                "again"
            ) from error
    origin = ", ".join(path.name for path in found.values())
    return Contents(splits, origin, modified, id_digits=6 if name == SVHN else 0)


def _check_size(path: Path) -> None:
    size = path.stat().st_size
    if size > _MOST_BYTES:
        raise UserError(f"{path} has {size:,} bytes, more than any published file: it is no such")


def _idx(images: Path, labels: Path) -> Records:
    """Returns what two IDX files hold; ValueError for other content."""
    pixels, classes = _array(images, 3), _array(labels, 1)
    if pixels.shape[1:] != _IDX_SHAPE or len(pixels) != len(classes) or not len(pixels):
        raise ValueError(f"images {pixels.shape} and labels {classes.shape}")
    return Records(pixels[..., None], _checked(classes))


def _array(path: Path, axes: int) -> np.ndarray:
    """Returns the uint8 array with so many axes that an IDX file holds."""
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        content = file.read(_MOST_BYTES + 1)
    header = 4 + 4 * axes
    if len(content) > _MOST_BYTES or len(content) < header:
        raise ValueError("it is too large or too small")
    # Two zeros, 8 for unsigned bytes, the number of axes; then the sizes.
    magic, *shape = struct.unpack(f">{1 + axes}I", content[:header])
    if magic != 0x0800 + axes or len(content) != header + int(np.prod(shape, dtype=object)):
        raise ValueError(f"its header {content[:header].hex()} does not fit its size")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def _svhn(path: Path) -> Records:
    """Returns what a Matlab file of SVHN holds; ValueError for other content."""
    # Comes with scikit-learn; imported here because only this data set needs it.
    from scipy import io as matlab

    try:
        content = matlab.loadmat(io.BytesIO(path.read_bytes()), variable_names=("X", "y"))
    except Exception as error:  # the reader raises many kinds for bad bytes
        raise ValueError(f"no Matlab file, {type(error).__name__}") from error
    images, labels = content["X"], content["y"].reshape(-1)
    if images.dtype != np.uint8 or images.shape != (32, 32, 3, len(labels)) or not len(labels):
        raise ValueError(f"images {images.dtype} {images.shape} and labels {labels.shape}")
    if labels.dtype.kind not in "iu" or labels.min() < 1 or labels.max() > _CLASSES:
        raise ValueError("a label is not among 1..10")
    # The digit 0 is stored as 10.
    return Records(images.transpose(3, 0, 1, 2), _checked(labels % _CLASSES))


def _checked(labels: np.ndarray) -> np.ndarray:
    if np.any(labels >= _CLASSES):
        raise ValueError(f"a label is not among 0..{_CLASSES - 1}")
    return labels.astype(np.uint8)[:, None]
