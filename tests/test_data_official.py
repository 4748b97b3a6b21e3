"""MNIST, Fashion-MNIST, KMNIST and SVHN from their official files, in the order of TFDS."""

import contextlib
import gzip
import hashlib
import io
import struct
import sys
from pathlib import Path
from types import SimpleNamespace

import data_helpers as helpers
import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image
from scipy import io as matlab
from tensorflow_datasets.core.download import checksums

from jaxcnn import data
from jaxcnn.data import download, locate, official, prepare, unprepared, writer
from jaxcnn.errors import UserError

IDX = tuple(name for name in official.NAMES if name != official.SVHN)
COUNTS = {"train": 30, "test": 12}


def idx(array: np.ndarray) -> bytes:
    """Returns a uint8 array as the content of an IDX file."""
    return struct.pack(f">{1 + array.ndim}I", 0x800 + array.ndim, *array.shape) + array.tobytes()


def arrays(name: str, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns made images uint8 `[N, H, W, C]` and labels `[N]`, each of 0..9 among them."""
    rng = np.random.default_rng(len(split))
    shape = (32, 32, 3) if name == official.SVHN else (28, 28, 1)
    count = COUNTS[split]
    return rng.integers(0, 256, (count, *shape), np.uint8), (np.arange(count) * 7 % 10)


def write(folder: Path, name: str) -> Path:
    """Writes made files under the published names; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, files in official.files(name).items():
        images, labels = arrays(name, split)
        if name == official.SVHN:
            content = {
                "X": images.transpose(1, 2, 3, 0),
                "y": np.where(labels, labels, 10)[:, None],
            }
            matlab.savemat(folder / files[0], content)
        else:
            contents = (idx(images[..., 0]), idx(labels.astype(np.uint8)))
            for file, content in zip(files, contents, strict=True):
                (folder / file).write_bytes(gzip.compress(content))
    return folder


def publish(monkeypatch, folder: Path, urls=lambda file: f"http://127.0.0.1:9/{file}") -> None:
    """Makes the files of a folder the published ones."""
    infos = {}
    for path in folder.iterdir():
        content = path.read_bytes()
        size = tfds.core.utils.Size(len(content))
        sha256 = hashlib.sha256(content).hexdigest()
        infos[path.name] = (urls(path.name), checksums.UrlInfo(size, sha256, path.name))
    monkeypatch.setattr(official, "_url_infos", lambda name: infos)


def load(root, name):
    """Loads a prepared set."""
    return data.load(name, data_dir=str(root), train_split="train", eval_split="test")


def prepared(root, name, *archives, **options):
    """Prepares a set below `root` and loads it."""
    prepare.prepare(name, data_dir=str(root), archives=[str(a) for a in archives], **options)
    return load(root, name)


def refusal(*arguments, **options):
    """Returns the message with which files are refused; it has to be one line."""
    with pytest.raises(UserError) as error:
        prepared(*arguments, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def as_tfds_writes(root, name, monkeypatch):
    """Prepares the made data with TFDS's own builder, but for what it needs TensorFlow for."""
    parent = tfds.builder_cls(name)
    module = sys.modules[parent.__module__]

    def png(image):
        file = io.BytesIO()
        Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(file, "PNG")
        return file.getvalue()

    class Manager:
        def download(self, urls):
            return {key: key for key in urls}

        def download_and_extract(self, urls):
            return {key: key.partition("_")[0] for key in urls}

    def of(path):
        return arrays(name, path)

    if name == official.SVHN:
        opened = SimpleNamespace(GFile=lambda path, mode: contextlib.nullcontext(path))
        monkeypatch.setattr(module, "tf", SimpleNamespace(io=SimpleNamespace(gfile=opened)))

        def loadmat(path):
            images, labels = of(path)
            return {"X": images.transpose(1, 2, 3, 0), "y": np.where(labels, labels, 10)[:, None]}

        monkeypatch.setattr(matlab, "loadmat", loadmat)
    else:
        monkeypatch.setattr(module, "_extract_mnist_images", lambda path, n: of(path)[0])
        monkeypatch.setattr(module, "_extract_mnist_labels", lambda path, n: of(path)[1])
    with tfds.core.registered.skip_registration():

        class Fake(parent):
            pkg_dir_path = getattr(parent, "pkg_dir_path", None)

            def _split_generators(self, dl_manager):
                found = super()._split_generators(Manager())
                return [split for split in found if split.name in COUNTS]

            def _generate_examples(self, *arguments, **options):
                for key, example in super()._generate_examples(*arguments, **options):
                    yield key, example | {"image": png(example["image"])}

    Fake.name = name
    tfds.disable_progress_bar()
    with contextlib.redirect_stdout(io.StringIO()), unprepared.builders():
        Fake(data_dir=root, file_format="array_record").download_and_prepare()
    return load(root, name)


@pytest.mark.parametrize("name", official.NAMES)
def test_the_data_are_those_that_tfds_prepares_in_the_same_order(name, tmp_path, monkeypatch):
    folder = write(tmp_path / "files", name)
    publish(monkeypatch, folder)
    found = prepared(tmp_path / "a", name, folder)
    assert found.fingerprint.startswith(f"{name}/3.") and "modified" not in found.fingerprint
    for split, part in (("train", found.train), ("test", found.eval)):
        images, labels = arrays(name, split)
        expected = {(image.tobytes(), label) for image, label in zip(images, labels, strict=True)}
        pairs = zip(part.images, part.labels, strict=True)
        assert {(image.tobytes(), label) for image, label in pairs} == expected
    assert as_tfds_writes(tmp_path / "b", name, monkeypatch).fingerprint == found.fingerprint


def test_the_table_of_files_is_that_of_tfds():
    for name in official.NAMES:
        infos = official._url_infos(name)
        wanted = {file for split in official.files(name).values() for file in split}
        assert wanted == infos.keys() - {"extra_32x32.mat"}
        assert all(len(info.checksum) == 64 for _, info in infos.values())


def test_unpacked_files_of_another_library_and_single_files_are_found(tmp_path, monkeypatch):
    folder = write(tmp_path / "MNIST" / "raw", "mnist")
    publish(monkeypatch, folder)
    expected = prepared(tmp_path / "a", "mnist", folder.parent).fingerprint
    assert prepared(tmp_path / "b", "mnist", *folder.iterdir()).fingerprint == expected
    for path in folder.iterdir():
        path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
        path.unlink()
    message = refusal(tmp_path / "c", "mnist", folder)
    assert "is not the published train-images-idx3-ubyte.gz: its SHA-256" in message
    loaded = prepared(tmp_path / "c", "mnist", folder, allow_modified=True)
    assert loaded.fingerprint == expected.replace(" sha", " modified sha")


def _gzip(content):
    return lambda path: path.write_bytes(gzip.compress(content))


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-9]), "is damaged"),
        (lambda path: path.write_bytes(b"<html>"), "is damaged"),
        (_gzip(b""), "it is too large or too small"),
        (_gzip(idx(np.zeros((12, 28), np.uint8))), "its header 00000802"),
        (_gzip(idx(np.zeros((12, 28, 28), np.uint8))[:-1]), "does not fit its size"),
        (_gzip(idx(np.zeros((11, 28, 28), np.uint8))), "images (11, 28, 28) and labels (12,)"),
        (_gzip(idx(np.zeros((12, 32, 32), np.uint8))), "images (12, 32, 32)"),
        (lambda path: path.unlink(), "there is no t10k-images-idx3-ubyte.gz; name the folder of"),
    ],
)
def test_damaged_idx_files_are_refused(tmp_path, damage, expected):
    folder = write(tmp_path / "files", "kmnist")
    damage(folder / "t10k-images-idx3-ubyte.gz")
    assert expected in refusal(tmp_path / "a", "kmnist", folder, allow_modified=True)
    assert locate.find(tmp_path / "a", "kmnist") is None


def _mat(**content):
    return lambda path: matlab.savemat(path, content)


IMAGES = np.zeros((32, 32, 3, 4), np.uint8)


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda path: path.write_bytes(b"MATLAB"), "no Matlab file"),
        (_mat(X=IMAGES), "('y')"),
        (_mat(X=IMAGES, y=np.ones((3, 1))), "and labels (3,)"),
        (_mat(X=IMAGES.astype(float), y=np.ones((4, 1))), "images float64"),
        (_mat(X=IMAGES, y=np.array([1, 2, 11, 3])[:, None]), "not among 1..10"),
    ],
)
def test_damaged_matlab_files_are_refused(tmp_path, damage, expected):
    folder = write(tmp_path / "files", official.SVHN)
    damage(folder / "test_32x32.mat")
    assert expected in refusal(tmp_path / "a", official.SVHN, folder, allow_modified=True)


def test_a_label_that_no_class_has_is_refused(tmp_path):
    folder = write(tmp_path / "files", "mnist")
    labels = np.full(12, 10, np.uint8)
    (folder / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(labels)))
    message = refusal(tmp_path / "a", "mnist", folder, allow_modified=True)
    assert "a label is not among 0..9" in message


def test_a_file_of_another_size_is_refused_unread(tmp_path, monkeypatch):
    folder = write(tmp_path / "files", "mnist")
    monkeypatch.setattr(official, "_MOST_BYTES", 1000)
    assert "more than any published file" in refusal(tmp_path / "a", "mnist", folder)


def test_published_files_are_downloaded_and_checked(tmp_path, monkeypatch, command):
    folder = write(tmp_path / "files", "fashion_mnist")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(download, "_PAUSE_S", 0.0)
    with contextlib.ExitStack() as stack:
        servers = {
            path.name: stack.enter_context(helpers.Server(path.read_bytes()))
            for path in folder.iterdir()
        }
        publish(
            monkeypatch, folder, lambda file: servers[file].url.replace("cifar-10-binary", file)
        )
        code, out, _ = command("prepare", "fashion_mnist", f"--data_dir={tmp_path / 'a'}")
        assert code == 0 and "jaxcnn train --config mobilenet:fashion_mnist" in out
        wrong = dict(official._url_infos("fashion_mnist"))
        file = "train-labels-idx1-ubyte.gz"
        url, info = wrong[file]
        other = checksums.UrlInfo(info.size, "0" * 64, info.filename)
        monkeypatch.setattr(official, "_url_infos", lambda name: wrong | {file: (url, other)})
        code, _, errors = command("prepare", "fashion_mnist", f"--data_dir={tmp_path / 'b'}")
    assert code == 1 and "not the published file" in errors[-1] and "--archive FOLDER" in errors[-1]
    expected = prepared(tmp_path / "c", "fashion_mnist", folder, allow_modified=True).fingerprint
    assert load(tmp_path / "a", "fashion_mnist").fingerprint == expected.replace(" modified", "")


def test_what_is_not_prepared_names_the_command(tmp_path):
    with pytest.raises(UserError) as error:
        load(tmp_path, "kmnist")
    assert f"run `jaxcnn prepare kmnist --data_dir {tmp_path}`" in str(error.value)
    message = refusal(tmp_path, "mnist", host="huggingface")
    assert "--from=huggingface is for cifar10 and cifar100" in message


def test_grey_images_are_written_without_loss(tmp_path):
    image = arrays("mnist", "test")[0][:1]
    (png,) = writer._encode_chunk(image)
    with Image.open(io.BytesIO(png)) as decoded:
        assert decoded.mode == "L"
        np.testing.assert_array_equal(np.asarray(decoded), image[0, ..., 0])
