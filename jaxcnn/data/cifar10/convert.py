"""How do the bytes of a CIFAR file become images and labels?"""

import numpy as np

from jaxcnn.data.cifar10 import unpickle
from jaxcnn.data.cifar10.archive import Files
from jaxcnn.data.cifar10.published import PIXEL_BYTES, Cifar
from jaxcnn.data.writer import Contents, Records
from jaxcnn.errors import UserError


def contents(files: Files, cifar: Cifar) -> Contents:
    """Returns what is written of the files; raises UserError as `parse`."""
    return Contents(
        parse(files, cifar),
        files.origin,
        files.modified,
        cifar.label_keys,
        cifar.class_names,
        id_digits=5,
    )


def parse(files: Files, cifar: Cifar) -> dict[str, Records]:
    """Returns the records of the splits `train` and `test`.

    Raises:
        UserError: A file is damaged.
    """
    splits = {"train": files.layout.train, "test": files.layout.test}
    return {
        split: _concatenate([_parse_file(name, files, cifar) for name in names])
        for split, names in splits.items()
    }


def _parse_file(name: str, files: Files, cifar: Cifar) -> Records:
    """Raises UserError unless the file is a whole number of records with permitted labels."""
    data = files.content[name]
    try:
        pixels, labels = (_from_pickle if files.layout.pickled else _from_binary)(data, cifar)
    except ValueError as error:
        raise UserError(f"{name} of {files.origin} cannot be used: {error}") from error
    # Stored plane by plane: 1,024 red bytes, then green, then blue, row-major.
    return Records(pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), labels)


def _from_binary(data: bytes, cifar: Cifar) -> tuple[np.ndarray, np.ndarray]:
    label_bytes = len(cifar.label_keys)
    record_bytes = label_bytes + PIXEL_BYTES
    if not data or len(data) % record_bytes:
        raise ValueError(f"its {len(data):,} bytes are not whole records of {record_bytes:,}")
    rows = np.frombuffer(data, np.uint8).reshape(-1, record_bytes)
    return rows[:, label_bytes:], _checked(rows[:, :label_bytes], cifar)


def _from_pickle(data: bytes, cifar: Cifar) -> tuple[np.ndarray, np.ndarray]:
    batch = unpickle.read_batch(data)
    if missing := {"data", *cifar.python_labels} - batch.keys():
        raise ValueError(f"it lacks {', '.join(sorted(missing))}")
    pixels = batch["data"]
    if not isinstance(pixels, np.ndarray) or pixels.ndim != 2 or pixels.shape[1] != PIXEL_BYTES:
        raise ValueError(f"its data is not an array of N x {PIXEL_BYTES} bytes")
    columns = [batch[key] for key in cifar.python_labels]
    if not len(pixels) or not all(_is_integers(column, len(pixels)) for column in columns):
        raise ValueError("it has not one whole number as label for every image")
    return pixels, _checked(np.array(columns).T, cifar)


def _is_integers(values: object, count: int) -> bool:
    return (
        isinstance(values, list)
        and len(values) == count
        and all(isinstance(value, int) for value in values)
    )


def _checked(labels: np.ndarray, cifar: Cifar) -> np.ndarray:
    # CIFAR-100 has two labels an image, coarse and fine, each with a limit of its own.
    limits = np.array([len(names) for names in cifar.class_names])
    if labels.dtype.kind not in "iu" or np.any(labels < 0) or np.any(labels >= limits):
        raise ValueError(f"a label is not among 0..{' or 0..'.join(str(n - 1) for n in limits)}")
    return labels.astype(np.uint8)


def _concatenate(parts: list[Records]) -> Records:
    return Records(
        np.concatenate([part.images for part in parts]),
        np.concatenate([part.labels for part in parts]),
    )
