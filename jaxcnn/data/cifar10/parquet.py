"""How are Hugging Face's parquet files of a CIFAR data set read?

A row holds an image, as the bytes of a PNG file, and its labels. Records of the binary layout are
made of them, whose checksums are published: they say that these are the published images, whatever
the files' compression. The files of the binary layout are told apart by the same checksums, in
whichever order they come.
"""

import hashlib
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from jaxcnn.data.cifar10.published import IMAGE_SHAPE, PIXEL_BYTES, Cifar
from jaxcnn.data.meter import Meter
from jaxcnn.errors import UserError

_SUFFIX = ".parquet"
SPLITS = ("train", "test")
_ROWS = 1000  # that are decoded at a time
_MOST_ROWS = 1_000_000  # a file of more is something else


def is_meant(path: Path) -> bool:
    """Tells whether a file of this name should be a parquet file."""
    return path.suffix.lower() == _SUFFIX


def find(paths: Iterable[Path]) -> dict[str, list[Path]]:
    """Returns the parquet files of each split, in order; {} if there are none.

    Args:
        paths: Files, and folders in which to look for them. A file's split is in its name or, as
            in `train/0000.parquet`, in that of its folder.

    Raises:
        UserError: Which split a file holds cannot be told, or one has none.
    """
    found: dict[str, list[Path]] = {}
    for path in paths:
        inside = sorted(path.rglob(f"*{_SUFFIX}")) if path.is_dir() else [path]
        for file in inside:
            if is_meant(file):
                found.setdefault(_split(file), []).append(file)
    for split in SPLITS:
        if found and split not in found:
            some = next(iter(found.values()))[0]
            raise UserError(
                f"{some} comes without the parquet file of {split}: name the folder of both, or "
                "both files, each with an --archive of its own"
            )
    return found


def _split(file: Path) -> str:
    for name in (file.name, file.parent.name):
        named = [split for split in SPLITS if split in name.lower()]
        if len(named) == 1:
            return named[0]
    raise UserError(
        f"{file}: its name does not say whether it holds the training or the test images: name it "
        "train.parquet or test.parquet"
    )


def read(files: Mapping[str, Sequence[Path]], cifar: Cifar) -> dict[str, bytes]:
    """Returns the content of the files of the binary layout, by name.

    Args:
        files: Parquet files of the splits `train` and `test`.
        cifar: Which data set to expect.

    Raises:
        UserError: A file is damaged or something else, or pyarrow is missing.
        OSError: A file cannot be read.
    """
    content: dict[str, bytes] = {}
    for split, published in zip(SPLITS, (cifar.binary.train, cifar.binary.test), strict=True):
        records = np.concatenate([_records(file, cifar) for file in files[split]])
        parts = [part.tobytes() for part in np.array_split(records, len(published))]
        by_checksum = {hashlib.new(cifar.binary.checksum, part).hexdigest(): part for part in parts}
        if by_checksum.keys() == set(published.values()):
            parts = [by_checksum[checksum] for checksum in published.values()]
        content |= zip(published, parts, strict=True)
    return content


def _records(path: Path, cifar: Cifar) -> np.ndarray:
    """Returns uint8 `[N, labels + 3072]`: label bytes and color planes of each row."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise UserError(
            f"{path} cannot be read without pyarrow: pip install 'jaxcnn[parquet]'"
        ) from error
    columns = ["img", *cifar.hub_labels]
    try:
        with path.open("rb") as raw, parquet.ParquetFile(raw) as file:
            names, count = file.schema_arrow.names, file.metadata.num_rows
            if missing := set(columns) - set(names):
                raise UserError(
                    f"{path} is no parquet file of {cifar.name}: it has the columns "
                    f"{', '.join(names[:10])}, and lacks {', '.join(sorted(missing))}"
                )
            if not 0 < count <= _MOST_ROWS:
                raise UserError(f"{path} is no parquet file of {cifar.name}: it has {count:,} rows")
            records = np.empty((count, len(cifar.hub_labels) + PIXEL_BYTES), np.uint8)
            with Meter(f"reading {path.name}", count, "images") as meter:
                for index, row in enumerate(_rows(file, columns)):
                    try:
                        records[index] = _record(row)
                    except Exception as error:  # decoders raise many kinds for bad bytes
                        reason = " ".join(str(error).split()) or type(error).__name__
                        raise UserError(
                            f"row {index} of {path} is damaged ({reason}): get the file again"
                        ) from error
                    meter.advance()
    except (pyarrow.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno:  # the system's, not that of the format
            raise
        reason = " ".join(str(error).split())[:100]
        raise UserError(
            f"{path} is truncated or damaged, or no parquet file ({reason}): get it again"
        ) from error
    return records


def _rows(file: Any, columns: Sequence[str]) -> Iterator[list[Any]]:
    for batch in file.iter_batches(_ROWS, columns=columns):
        yield from zip(*(batch.column(name).to_pylist() for name in columns), strict=True)


def _record(row: Sequence[Any]) -> np.ndarray:
    """Returns uint8 `[labels + 3072]`; ValueError for another row than expected."""
    cell, *labels = row
    with Image.open(io.BytesIO(cell["bytes"]), formats=("PNG",)) as image:
        if (image.height, image.width, len(image.getbands())) != IMAGE_SHAPE:
            raise ValueError(f"an image of {image.width} x {image.height}, {image.mode}")
        planes = np.asarray(image).transpose(2, 0, 1)
    if not all(isinstance(label, int) and 0 <= label < 256 for label in labels):
        raise ValueError(f"the label {labels}")
    return np.concatenate([np.array(labels, np.uint8), planes.ravel()])
