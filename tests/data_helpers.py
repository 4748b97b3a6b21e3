"""Small stand-ins for the published data sets: CIFAR archives, TFDS directories, a web server."""

import contextlib
import hashlib
import http.server
import io
import pickle
import tarfile
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from jaxcnn.data import prepare, unprepared
from jaxcnn.data.cifar10 import published
from jaxcnn.data.cifar10.published import Cifar, Layout

COUNT = 12  # records in every fake batch file


def make_records(name: str) -> dict[str, np.ndarray]:
    """Returns uint8 `[COUNT, labels + 3072]` for every binary file of a CIFAR set, at random."""
    row = published.SETS[name]
    rng = np.random.default_rng(7)
    files = {}
    for file in (*row.binary.train, *row.binary.test):
        pixels = rng.integers(0, 256, (COUNT, published.PIXEL_BYTES))
        labels = [rng.integers(0, len(names), (COUNT, 1)) for names in row.class_names]
        files[file] = np.hstack([*labels, pixels]).astype(np.uint8)
    return files


def write_binary(folder: Path, name: str) -> Path:
    """Writes the binary layout into a folder of the published name; returns it."""
    target = folder / published.SETS[name].binary.folder
    target.mkdir(parents=True)
    for file, rows in make_records(name).items():
        (target / file).write_bytes(rows.tobytes())
    return target


def write_python(folder: Path, name: str, dump: Callable[[dict[str, Any]], bytes]) -> Path:
    """Writes the same data in the python layout; `dump` makes a pickle of a batch."""
    row = published.SETS[name]
    target = folder / row.python.folder
    target.mkdir(parents=True)
    files = zip(row.python.train | row.python.test, make_records(name).values(), strict=True)
    for file, rows in files:
        labels = rows[:, : len(row.label_keys)].T.tolist()
        batch = dict(zip(row.python_labels, labels, strict=True))
        (target / file).write_bytes(dump({"data": rows[:, len(labels) :].copy(), **batch}))
    return target


def pack(folder: Path, archive: Path, compression: str = "gz") -> Path:
    """Packs a folder into a tar archive; returns it."""
    with tarfile.open(archive, f"w:{compression}") as tar:
        tar.add(folder, arcname=folder.name)
    return archive


def python3_pickle(batch: dict[str, Any]) -> bytes:
    """Pickles as NumPy and Python 3 do."""
    return pickle.dumps(batch, protocol=2)


def python2_pickle(batch: dict[str, Any]) -> bytes:
    """Pickles as NumPy 1 and Python 2 did, which wrote the published batches: byte strings."""

    def string(text: bytes) -> bytes:
        if len(text) < 256:
            return b"U" + bytes([len(text)]) + text
        return b"T" + len(text).to_bytes(4, "little") + text

    def integer(value: int) -> bytes:
        return b"J" + value.to_bytes(4, "little", signed=True)

    out = io.BytesIO()
    out.write(b"\x80\x02}(")
    for key, value in batch.items():
        out.write(string(key.encode()))
        if isinstance(value, list):
            out.write(b"](" + b"".join(map(integer, value)) + b"e")
            continue
        out.write(b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R")
        out.write(b"(K\x01" + integer(value.shape[0]) + integer(value.shape[1]) + b"\x86")
        out.write(b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R")
        out.write(b"(K\x03U\x01|NNN" + integer(-1) + integer(-1) + b"K\x00tb")
        out.write(b"\x89" + string(value.tobytes()) + b"tb")
    out.write(b"u.")
    return out.getvalue()


def publish(monkeypatch: pytest.MonkeyPatch, name: str, form: str, **changes: Any) -> Cifar:
    """Makes the table of published files say what the test needs; `form`: binary or python."""
    row = published.SETS[name]
    layout: Layout = getattr(row, form)
    row = row._replace(**{form: layout._replace(**changes)})
    monkeypatch.setitem(published.SETS, name, row)
    return row


def publish_archive(monkeypatch: pytest.MonkeyPatch, name: str, form: str, archive: Path) -> Cifar:
    """Makes `archive` the published one of its form."""
    content = archive.read_bytes()
    return publish(
        monkeypatch,
        name,
        form,
        archive_sha256=hashlib.sha256(content).hexdigest(),
        archive_bytes=len(content),
    )


def prepare_binary(root: Path, name: str = "cifar10") -> Path:
    """Prepares a fake CIFAR set below `root` as a modified copy; returns the version directory."""
    source = write_binary(root.parent / f"{root.name}_source", name)
    return prepare.prepare(name, data_dir=str(root), archives=[str(source)], allow_modified=True)


def prepare_tfds(
    root: Path,
    name: str,
    splits: Mapping[str, tuple[list[np.ndarray], list[int]]],
    features: Mapping[str, Any] | None = None,
) -> Path:
    """Prepares a data set with TFDS itself, without TensorFlow, as array_record.

    Args:
      root: data directory.
      name: of the data set.
      splits: images uint8 `[H, W]` or `[H, W, 3]`, and labels.
      features: TFDS features; by default `image` of the first image's shape, and `label`.
    """
    shape = next(iter(splits.values()))[0][0].shape
    features = features or {
        "image": tfds.features.Image(shape=shape if len(shape) == 3 else (*shape, 1)),
        "label": tfds.features.ClassLabel(num_classes=10),
    }
    with tfds.core.registered.skip_registration():

        class Fake(tfds.core.GeneratorBasedBuilder):
            VERSION = tfds.core.Version("3.0.1")

            def _info(self) -> Any:
                return tfds.core.DatasetInfo(
                    builder=self, features=tfds.features.FeaturesDict(dict(features))
                )

            def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
                return {split: self._generate_examples(split) for split in splits}

            def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
                for index, (image, label) in enumerate(zip(*splits[split], strict=True)):
                    file = io.BytesIO()
                    Image.fromarray(image).save(file, "PNG")
                    values = {"image": file.getvalue(), "label": label}
                    yield index, {key: values[key] for key in features}

    Fake.name = name
    tfds.disable_progress_bar()
    with contextlib.redirect_stdout(io.StringIO()), unprepared.builders():
        builder = Fake(data_dir=root, file_format="array_record")
        builder.download_and_prepare()
    return Path(builder.data_dir)


class Server:
    """A loopback web server that gives one file, more or less well.

    Attributes:
      url: of the file.
      starts: the offset that each request asked for.
    """

    def __init__(self, content: bytes, *, breaks_at: int = 0, times: int = 0, ranges: bool = True):
        """Serves `content`; breaks the first `times` answers off after `breaks_at` bytes."""
        starts: list[int] = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked = self.headers.get("Range", "bytes=0-") if ranges else "bytes=0-"
                start = int(asked.removeprefix("bytes=").rstrip("-"))
                starts.append(start)
                self.send_response(206 if start else 200)
                self.send_header("Content-Length", str(len(content) - start))
                self.end_headers()
                stop = start + breaks_at if len(starts) <= times else len(content)
                with contextlib.suppress(ConnectionError):  # the reader may hang up first
                    self.wfile.write(content[start:stop])

            def log_message(self, *arguments: Any) -> None:
                """Keeps the test's output clean."""

        self.starts = starts
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/cifar-10-binary.tar.gz"

    def __enter__(self) -> "Server":
        """Starts serving in a thread."""
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        """Stops serving."""
        self._server.shutdown()
        self._server.server_close()
