"""CIFAR from Hugging Face's parquet files: the same data as from the official ones."""

import hashlib
import io
import sys
from pathlib import Path

import data_helpers as helpers
import numpy as np
import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet

from jaxcnn import data
from jaxcnn.data import download, locate, prepare
from jaxcnn.data.cifar10 import published
from jaxcnn.errors import UserError


def rows_of(record, labels):
    """Returns a row of the parquet file for a record of the binary layout."""
    file = io.BytesIO()
    Image.fromarray(record[labels:].reshape(3, 32, 32).transpose(1, 2, 0)).save(file, "PNG")
    return {"bytes": file.getvalue(), "path": None}, record[:labels].tolist()


def write(path: Path, name: str, records: np.ndarray, **columns) -> Path:
    """Writes records of the binary layout, `[N, labels + 3072]`, as a parquet file."""
    keys = published.SETS[name].hub_labels
    images, labels = zip(*(rows_of(record, len(keys)) for record in records), strict=True)
    table = {"img": list(images)} | dict(zip(keys, zip(*labels, strict=True), strict=True))
    table = {key: column for key, column in (table | columns).items() if column is not None}
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.table({k: list(v) for k, v in table.items()}), path)
    return path


@pytest.fixture(params=["cifar10", "cifar100"])
def name(request, monkeypatch) -> str:
    """A set whose made records pass for the published ones."""
    sums = {
        file: hashlib.sha1(rows.tobytes()).hexdigest()
        for file, rows in helpers.make_records(request.param).items()
    }
    layout = published.SETS[request.param].binary
    parts = {part: {f: sums[f] for f in getattr(layout, part)} for part in ("train", "test")}
    helpers.publish(monkeypatch, request.param, "binary", **parts)
    return request.param


def write_both(folder: Path, name: str, order=lambda files: files[::-1]) -> Path:
    """Writes both parquet files, the training files in another order; returns the folder."""
    records, layout = helpers.make_records(name), published.SETS[name].binary
    train = [records[file] for file in order(list(layout.train))]
    write(folder / "train-00000-of-00001.parquet", name, np.concatenate(train))
    (test,) = layout.test
    write(folder / "test-00000-of-00001.parquet", name, records[test])
    return folder


def prepared(root: Path, name: str, *archives: Path, **options) -> str:
    """Prepares a set below `root`; returns its fingerprint."""
    given = [str(path) for path in archives]
    prepare.prepare(name, data_dir=str(root), archives=given, **options)
    loaded = data.load(name, data_dir=str(root), train_split="train", eval_split="test")
    return loaded.fingerprint


def refusal(*arguments, **options):
    """Returns the message with which an archive is refused; it has to be one line."""
    with pytest.raises(UserError) as error:
        prepared(*arguments, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_the_fingerprint_is_that_of_the_binary_files(name, tmp_path):
    expected = prepared(tmp_path / "a", name, helpers.write_binary(tmp_path, name))
    assert "modified" not in expected
    folder = write_both(tmp_path / "hub" / "plain_text", name)
    assert prepared(tmp_path / "b", name, folder.parent) == expected
    files = sorted(folder.iterdir())
    assert prepared(tmp_path / "c", name, *files) == expected


def test_several_files_of_a_split_and_folders_that_name_it_are_read(monkeypatch, tmp_path):
    records = helpers.make_records("cifar10")
    layout = published.SETS["cifar10"].binary
    for index, file in enumerate(layout.train):
        write(tmp_path / "train" / f"{index:04d}.parquet", "cifar10", records[file])
    write(tmp_path / "test" / "0000.parquet", "cifar10", records["test_batch.bin"])
    found = prepared(tmp_path / "b", "cifar10", tmp_path, allow_modified=True)
    helpers.write_binary(tmp_path / "source", "cifar10")
    assert found == prepared(tmp_path / "a", "cifar10", tmp_path / "source", allow_modified=True)


def test_other_pixels_labels_or_orders_are_modified(monkeypatch, tmp_path):
    folder = write_both(tmp_path / "hub", "cifar10")  # the checksums are those of the real files
    message = refusal(tmp_path / "b", "cifar10", folder)
    assert "not the published cifar10: pixels or labels are not" in message
    assert "--allow-modified" in message
    assert " modified " in prepared(tmp_path / "b", "cifar10", folder, allow_modified=True)


def _columns(path, **columns):
    write(path, "cifar10", helpers.make_records("cifar10")["test_batch.bin"], **columns)


def _png(mode, size):
    file = io.BytesIO()
    Image.new(mode, size).save(file, "PNG")
    return [{"bytes": file.getvalue(), "path": None}] * helpers.COUNT


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (
            lambda path: path.write_bytes(path.read_bytes()[:500]),
            "is truncated or damaged, or no p",
        ),
        (lambda path: path.write_bytes(b""), "is truncated or damaged"),
        (
            lambda path: _columns(path, label=None, fine=[0] * 12),
            "the columns img, fine, and lacks",
        ),
        (lambda path: _columns(path, label=[300] * 12), "row 0 of"),
        (lambda path: _columns(path, label=[11] * 12), "a label is not among 0..9"),
        (lambda path: _columns(path, img=_png("L", (32, 32))), "an image of 32 x 32, L"),
        (lambda path: _columns(path, img=_png("RGB", (99, 99))), "an image of 99 x 99"),
        (lambda path: _columns(path, img=[{"bytes": None, "path": "a"}] * 12), "row 0 of"),
        (lambda path: path.unlink(), "without the parquet file of test"),
        (lambda path: path.rename(path.with_name("x.parquet")), "does not say whether"),
    ],
)
def test_a_file_of_another_kind_is_refused(tmp_path, damage, expected):
    folder = write_both(tmp_path / "hub", "cifar10")
    damage(folder / "test-00000-of-00001.parquet")
    assert expected in refusal(tmp_path / "b", "cifar10", folder, allow_modified=True)
    assert locate.find(tmp_path / "b", "cifar10") is None


def test_what_cannot_be_several_or_is_not_there_is_refused(tmp_path):
    folder = write_both(tmp_path / "hub", "cifar10")
    train, other = folder / "train-00000-of-00001.parquet", tmp_path / "a.tar.gz"
    other.touch()
    assert "only parquet files may be" in refusal(tmp_path / "b", "cifar10", train, other)
    assert "only parquet files may be" in refusal(tmp_path / "b", "cifar10", other, other)
    missing = [tmp_path / "train.parquet", tmp_path / "test.parquet"]
    assert "No such file" in refusal(tmp_path / "b", "cifar10", *missing)


def test_without_pyarrow_the_command_that_installs_it_is_named(tmp_path, monkeypatch):
    folder = write_both(tmp_path / "hub", "cifar10")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert "pip install 'jaxcnn[parquet]'" in refusal(tmp_path / "b", "cifar10", folder)


def test_both_files_are_downloaded_and_a_wrong_one_is_not_kept(name, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "_PAUSE_S", 0.0)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    expected = prepared(tmp_path / "a", name, helpers.write_binary(tmp_path, name))
    files = sorted(write_both(tmp_path / "hub", name).iterdir())  # test, train
    test, train = (file.read_bytes() for file in files)
    root = tmp_path / "b"

    def fetched(train):
        with (
            helpers.Server(train, breaks_at=1000, times=2) as first,
            helpers.Server(test) as second,
        ):
            urls = {"train": f"{first.url}.train", "test": f"{second.url}.test"}
            row = published.SETS[name]._replace(hub=urls)
            monkeypatch.setitem(published.SETS, name, row)
            return prepared(root, name, host="huggingface")

    with pytest.raises(UserError, match="is truncated or damaged, or no parquet file"):
        fetched(b"<html>" * 2000)
    assert not [path for path in root.rglob("*.t*") if path.suffix in (".train", ".test")]
    assert fetched(train) == expected


def test_a_host_that_refuses_names_the_other_one(tmp_path, command, monkeypatch):
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    code, _, errors = command("prepare", "--from=huggingface", f"--data_dir={tmp_path}")
    assert code == 1 and "cannot download https://huggingface.co/datasets/uoft-cs" in errors[-1]
    assert "--from toronto" in errors[-1] and "--archive" in errors[-1]
    code, _, errors = command("prepare", "--from=huggingface", "--archive=x.parquet")
    assert code == 1 and "give one of them" in errors[-1]
