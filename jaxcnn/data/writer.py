"""How do arrays become a directory that TFDS reads, without TensorFlow?

TFDS's own builders need TensorFlow to read the published files and to encode PNG. A subclass gets
arrays instead and encodes with Pillow; everything else (features, order, file format, atomic
renaming) is TFDS's, so `tfds.data_source` reads the result like any other. The key of an example,
which decides where it stands, is its place in the published files, as in TFDS's builders.
"""

import io
import itertools
import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from jaxcnn.data import unprepared
from jaxcnn.data.locate import SOURCE_FILE
from jaxcnn.data.meter import Meter

_CHUNK = 500  # images per piece of work: enough to hide the cost of handing it to a thread


class Records(NamedTuple):
    """The examples of one split in published order.

    Attributes:
        images: uint8 `[N, H, W, C]`, 0..255.
        labels: uint8 `[N, L]`, one column per label feature of the data set.
    """

    images: np.ndarray
    labels: np.ndarray


class Contents(NamedTuple):
    """What is written.

    Attributes:
        splits: The examples of each split.
        origin: For people: the name of what they were read from.
        modified: Whether it is anything but the published data.
        label_keys: The label features.
        class_names: For each label feature, a name per label; () for those that TFDS knows.
        id_digits: Digits of an example's number in its feature `id`; 0 without that feature.
    """

    splits: Mapping[str, Records]
    origin: str
    modified: bool
    label_keys: tuple[str, ...] = ("label",)
    class_names: tuple[tuple[str, ...], ...] = ()
    id_digits: int = 0


def write(name: str, root: Path, contents: Contents) -> Path:
    """Writes a data set below the data directory `root`; returns the directory of its version.

    Raises:
        OSError: It cannot be written; nothing is left that looks like a prepared data set.
    """
    with unprepared.builders():
        builder = _builder_class(name)(data_dir=root, contents=contents, file_format="array_record")
    tfds.disable_progress_bar()  # Meter shows the progress instead
    builder.download_and_prepare()
    return Path(builder.data_dir)


def _builder_class(name_of_set: str) -> Any:
    parent: Any = tfds.builder_cls(name_of_set)

    with tfds.core.registered.skip_registration():  # TFDS has a builder of this name already

        class Builder(parent):
            name = name_of_set
            pkg_dir_path = getattr(parent, "pkg_dir_path", None)  # where TFDS has its description

            def __init__(self, *, contents: Contents, **arguments: Any) -> None:
                self._contents = contents
                super().__init__(**arguments)

            def _log_download_bytes(self) -> None:
                """Keeps TFDS from announcing a download of unknown size."""

            def _log_download_done(self) -> None:
                """Leaves it to the caller to say that it is done."""

            def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[Any]]:
                contents = self._contents
                for key, names in zip(contents.label_keys, contents.class_names, strict=False):
                    self.info.features[key].names = names
                # data_path is the temporary directory here, so this appears with all the rest
                (self.data_path / SOURCE_FILE).write_text(
                    json.dumps({"origin": contents.origin, "modified": contents.modified}),
                    encoding="utf-8",
                )
                return {split: self._generate_examples(split) for split in contents.splits}

            def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
                images, labels = self._contents.splits[split]
                keys, digits = self._contents.label_keys, self._contents.id_digits
                with Meter(f"preparing {name_of_set} {split}", len(images), "images") as meter:
                    for index, png in enumerate(_encode_all(images)):
                        example = dict(zip(keys, labels[index], strict=True)) | {"image": png}
                        if digits:
                            example["id"] = f"{split}_{index:0{digits}d}"
                        yield index, example
                        meter.advance()

    return Builder


def _encode_all(images: np.ndarray) -> Iterator[bytes]:
    """Yields PNG bytes in order; Pillow compresses without holding the interpreter lock."""
    chunks = (images[start : start + _CHUNK] for start in range(0, len(images), _CHUNK))
    with ThreadPoolExecutor() as pool:
        yield from itertools.chain.from_iterable(pool.map(_encode_chunk, chunks))


def _encode_chunk(images: np.ndarray) -> list[bytes]:
    encoded = []
    for image in images:
        file = io.BytesIO()
        pixels = image[..., 0] if image.shape[-1] == 1 else image
        Image.fromarray(np.ascontiguousarray(pixels)).save(file, format="PNG")
        encoded.append(file.getvalue())
    return encoded
