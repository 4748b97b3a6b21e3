"""How do the CIFAR files become a directory that TFDS reads, without TensorFlow?

TFDS's own builder needs TensorFlow to read the files and to encode PNG. A subclass does both with
NumPy and Pillow; everything else (features, identifiers, order, file format, atomic renaming) is
TFDS's, so `tfds.data_source` reads the result like any other.
"""

import io
import itertools
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from jaxcnn.data import unprepared
from jaxcnn.data.cifar10 import archive, convert, download
from jaxcnn.data.cifar10.published import SETS, Cifar
from jaxcnn.data.locate import SOURCE_FILE, data_root, expanded, find
from jaxcnn.data.meter import Meter
from jaxcnn.errors import UserError

HOSTS = ("toronto", "huggingface")
"""From where CIFAR can be downloaded: the author's page, or Hugging Face."""

_CHUNK = 500  # images per piece of work: enough to hide the cost of handing it to a thread


def prepare(
    name: str,
    *,
    data_dir: str = "",
    archive_path: str | Sequence[str] = "",
    host: str = HOSTS[0],
    allow_modified: bool = False,
) -> Path:
    """Prepares CIFAR-10 or CIFAR-100 for `load`, from an archive or by downloading it.

    An interrupted preparation leaves nothing that looks like a prepared data set.

    Args:
        name: `cifar10` or `cifar100`.
        data_dir: Where to put it; created if missing. Empty for `TFDS_DATA_DIR`, then
            `~/tensorflow_datasets`.
        archive_path: The binary or python archive, the folder that it unpacks to, or parquet files
            or their folder; empty to download.
        host: From where to download: `toronto` (the binary archive) or `huggingface` (parquet).
        allow_modified: Whether to accept files that are not the published ones; the fingerprint of
            every run then says `modified`.

    Returns:
        The directory of the prepared version. If it was there already, nothing is done.

    Raises:
        UserError: Unusable directory or archive, failed download.
    """
    if name not in SETS:
        raise UserError(f"cannot prepare {name!r}: only {' and '.join(SETS)}")
    cifar, root = SETS[name], data_root(data_dir)
    if directory := find(root, name):
        return directory
    _make_writable(root)
    given = [archive_path] if isinstance(archive_path, str) else archive_path
    if paths := [expanded(path) for path in given if path]:
        files = archive.read(*paths, cifar=cifar, allow_modified=allow_modified)
    elif host == "huggingface":
        files = _from_hub(cifar, root)
    else:
        path = download.fetch(cifar, root)
        files = archive.read(path, cifar=cifar, allow_modified=False)
    records = convert.parse(files, cifar)
    with unprepared.builders():
        builder = _builder_class(cifar)(
            data_dir=root, records=records, files=files, file_format="array_record"
        )
    tfds.disable_progress_bar()  # Meter shows the progress instead
    try:
        builder.download_and_prepare()
    except OSError as error:
        if directory := find(root, name):  # another process was faster
            return directory
        raise UserError(
            f"cannot prepare {name} in {root}: {error.strerror or error}; make room there or give "
            "another --data_dir"
        ) from error
    return Path(builder.data_dir)


def _from_hub(cifar: Cifar, root: Path) -> archive.Files:
    """Downloads and reads the parquet files; what is not as published is not kept."""
    paths = download.fetch_hub(cifar, root)
    try:
        return archive.read_parquet(paths, cifar, allow_modified=False)
    except UserError:
        for files in paths.values():
            for path in files:
                path.unlink()
        raise


def _make_writable(root: Path) -> None:
    """Finds out before a long download whether its result can be kept."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        probe = root / ".jaxcnn_probe"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(
            f"cannot write to the data directory {root} ({error.strerror}): give another one by "
            "--data_dir or TFDS_DATA_DIR"
        ) from error


def _builder_class(cifar: Cifar) -> Any:
    parent: Any = tfds.builder_cls(cifar.name)

    with tfds.core.registered.skip_registration():  # TFDS has a builder of this name already

        class Builder(parent):
            name = cifar.name

            def __init__(
                self,
                *,
                records: dict[str, convert.Records],
                files: archive.Files,
                **arguments: Any,
            ) -> None:
                self._records, self._files = records, files
                super().__init__(**arguments)

            def _log_download_bytes(self) -> None:
                """Keeps TFDS from announcing a download of unknown size."""

            def _log_download_done(self) -> None:
                """Leaves it to the caller to say that it is done."""

            def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[Any]]:
                for key, names in zip(cifar.label_keys, cifar.class_names, strict=True):
                    self.info.features[key].names = names
                # data_path is the temporary directory here, so this appears with all the rest
                (self.data_path / SOURCE_FILE).write_text(
                    json.dumps({"origin": self._files.origin, "modified": self._files.modified}),
                    encoding="utf-8",
                )
                return {split: self._generate_examples(split) for split in self._records}

            def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
                images, labels = self._records[split]
                with Meter(f"preparing {cifar.name} {split}", len(images), "images") as meter:
                    for index, png in enumerate(_encode_all(images)):
                        example = dict(zip(cifar.label_keys, labels[index], strict=True))
                        yield index, example | {"id": f"{split}_{index:05d}", "image": png}
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
        Image.fromarray(np.ascontiguousarray(image)).save(file, format="PNG")
        encoded.append(file.getvalue())
    return encoded
