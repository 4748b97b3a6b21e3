"""Preparing CIFAR without TensorFlow, and the program that does it."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import data_helpers as helpers
import numpy as np
import pytest
import tensorflow_datasets as tfds

from jaxcnn import data
from jaxcnn.data import locate, prepare, writer
from jaxcnn.data.cifar10 import published as cifar
from jaxcnn.errors import UserError

COMMAND = [sys.executable, "-m", "jaxcnn", "prepare"]


def run(*arguments, **options):
    """Runs the program in a process of its own."""
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, **options)


def load(root, name="cifar10"):
    """Loads a fake CIFAR set from `root`."""
    return data.load(name, data_dir=str(root), train_split="train", eval_split="test")


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_tfds_itself_reads_every_record_back(tmp_path, name):
    helpers.prepare_binary(tmp_path / "data", name)
    row = cifar.SETS[name]
    files = helpers.make_records(name)
    for split, layout_files in (("train", row.binary.train), ("test", row.binary.test)):
        rows = np.vstack([files[file] for file in layout_files])
        source = tfds.data_source(name, split=split, data_dir=tmp_path / "data", download=False)
        assert len(source) == len(rows)
        seen = set()
        for example in source:
            index = int(example["id"].decode().removeprefix(f"{split}_"))
            seen.add(index)
            expected = rows[index]
            pixels = expected[len(row.label_keys) :].reshape(3, 32, 32).transpose(1, 2, 0)
            np.testing.assert_array_equal(example["image"], pixels)
            assert [example[key] for key in row.label_keys] == expected[:-3072].tolist()
        assert seen == set(range(len(rows)))
        features = tfds.builder(name, data_dir=tmp_path / "data").info.features
        for key, names in zip(row.label_keys, row.class_names, strict=True):
            assert tuple(features[key].names) == names


def test_class_names_are_complete():
    assert [len(names) for names in cifar.SETS["cifar10"].class_names] == [10]
    assert [len(set(names)) for names in cifar.SETS["cifar100"].class_names] == [20, 100]
    for row in cifar.SETS.values():
        assert all(tuple(sorted(names)) == names for names in row.class_names)  # as published


def test_layouts_and_packings_give_one_fingerprint(tmp_path):
    binary = helpers.write_binary(tmp_path / "binary", "cifar10")
    python = helpers.write_python(tmp_path / "python", "cifar10", helpers.python2_pickle)
    sources = [binary, python, helpers.pack(binary, tmp_path / "b.tar.gz")]
    fingerprints = set()
    for index, source in enumerate(sources):
        root = tmp_path / f"data{index}"
        prepare.prepare("cifar10", data_dir=str(root), archives=[str(source)], allow_modified=True)
        fingerprints.add(load(root).fingerprint)
    assert len(fingerprints) == 1


def test_preparing_leaves_no_temporary_files_and_preparing_again_changes_nothing(
    tmp_path, monkeypatch
):
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    version = helpers.prepare_binary(tmp_path / "data")
    assert list((tmp_path / "tmp").iterdir()) == []
    before = {path: path.stat().st_mtime_ns for path in version.rglob("*")}
    again = prepare.prepare("cifar10", data_dir=str(tmp_path / "data"), archives=["nowhere"])
    assert again == version
    assert {path: path.stat().st_mtime_ns for path in version.rglob("*")} == before


@pytest.mark.parametrize("stop", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_interrupted_preparation_leaves_nothing(tmp_path, monkeypatch, stop):
    def interrupted(images):
        raise stop
        yield

    source = helpers.write_binary(tmp_path, "cifar10")
    root = tmp_path / "data"
    monkeypatch.setattr(writer, "_encode_all", interrupted)
    with pytest.raises((KeyboardInterrupt, UserError)) as error:
        prepare.prepare("cifar10", data_dir=str(root), archives=[str(source)], allow_modified=True)
    if error.type is UserError:
        assert "No space left" in str(error.value) and "\n" not in str(error.value)
    assert locate.find(root, "cifar10") is None
    assert [path for path in root.rglob("*") if path.is_file()] == []


def test_killed_preparation_does_not_look_prepared(tmp_path):
    version = helpers.prepare_binary(tmp_path / "data")
    (version / "dataset_info.json").unlink()  # written last
    version.rename(version.with_name("incomplete.ABC123_3.0.2"))
    assert locate.find(tmp_path / "data", "cifar10") is None


def test_what_cannot_be_prepared_is_refused(tmp_path):
    with pytest.raises(UserError, match="only cifar10, cifar100, mnist, fashion_mnist, kmnist"):
        prepare.prepare("emnist", data_dir=str(tmp_path))


@pytest.mark.parametrize("where", ["file", "file/below"])
def test_unusable_directory_is_refused(tmp_path, where):
    source = helpers.write_binary(tmp_path, "cifar10")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write to the data directory"):
        prepare.prepare(
            "cifar10", data_dir=str(tmp_path / where), archives=[str(source)], allow_modified=True
        )


def test_no_tensorflow_and_no_foreign_pickle(tmp_path):
    helpers.write_python(tmp_path, "cifar10", helpers.python2_pickle)
    script = """
import sys

def watch(event, arguments):
    if event == "pickle.find_class":  # not raised where find_class is replaced by our own
        raise SystemExit(f"unpickles {arguments}")

sys.addaudithook(watch)
from jaxcnn import data
from jaxcnn.data.prepare import prepare

prepare("cifar10", data_dir="data", archives=["."], allow_modified=True)
for _ in range(2):
    data.load("cifar10", data_dir="data", train_split="train", eval_split="test")
data.load("digits", data_dir="", train_split="train", eval_split="test")
found = [name for name in sys.modules if name.split(".")[0] in ("tensorflow", "tf_keras", "keras")]
raise SystemExit(f"imported {found}" if found else 0)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_program_prepares_and_says_what_next(tmp_path):
    helpers.write_binary(tmp_path, "cifar10")
    options = ("--archive", "cifar-10-batches-bin", "--data_dir", "here")
    refused = run(*options, cwd=tmp_path)
    assert refused.returncode == 1 and refused.stdout == ""
    assert refused.stderr.count("\n") == 1 and "--allow-modified" in refused.stderr
    assert not (tmp_path / "here" / "cifar10").exists()

    done = run(*options, "--allow-modified", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    root = tmp_path / "here"
    assert str(root / "cifar10" / "3.0.2") in done.stdout
    assert load(root).fingerprint in done.stdout and "modified" in done.stdout
    assert f"jaxcnn train --config mobilenet --data_dir={root}" in done.stdout
    again = run(*options, "--allow-modified", cwd=tmp_path)
    assert again.returncode == 0 and "was already prepared" in again.stdout
    assert again.stderr == ""


def test_program_takes_the_directory_from_the_environment(tmp_path):
    helpers.write_binary(tmp_path, "cifar100")
    done = run(
        *("cifar100", "--archive", tmp_path, "--allow-modified"),
        cwd="/",
        env=os.environ | {"TFDS_DATA_DIR": str(tmp_path / "data")},
    )
    assert done.returncode == 0, done.stderr
    assert locate.find(tmp_path / "data", "cifar100")
    assert "jaxcnn train --config mobilenet:cifar100" in done.stdout


def test_program_ends_quietly_when_interrupted(tmp_path):
    # A pipe instead of an archive keeps the program waiting in the middle of its work.
    os.mkfifo(tmp_path / "a.tar.gz")
    # Whoever runs the tests in the background may have SIGINT ignored, which a child inherits.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(
        [*COMMAND, "--archive", "a.tar.gz", "--data_dir", "data"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
    )
    signal.signal(signal.SIGINT, before)
    deadline = time.monotonic() + 30
    while not (tmp_path / "data").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in errors and errors.strip().count("\n") == 0


@pytest.fixture(scope="module")
def whole_cifar10() -> Path:
    """The binary folder of a whole CIFAR-10, from the directory that JAXCNN_CIFAR10 names."""
    folder = Path(os.environ.get("JAXCNN_CIFAR10", "")) / "cifar-10-batches-bin"
    if not folder.is_dir():
        pytest.skip("JAXCNN_CIFAR10 names no directory with cifar-10-batches-bin")
    return folder


@pytest.mark.slow
def test_whole_cifar10_is_prepared_and_read_without_loss(whole_cifar10, tmp_path):
    version = prepare.prepare(
        "cifar10", data_dir=str(tmp_path), archives=[str(whole_cifar10)], allow_modified=True
    )
    decoded = load(tmp_path)
    start = time.monotonic()
    loaded = load(tmp_path)
    assert time.monotonic() - start < 1
    assert loaded.fingerprint == decoded.fingerprint
    shutil.rmtree(version / "jaxcnn_decoded")
    row = cifar.SETS["cifar10"]
    for split, name, files in (
        (loaded.train, "train", row.binary.train),
        (loaded.eval, "test", row.binary.test),
    ):
        rows = np.vstack(
            [np.fromfile(whole_cifar10 / file, np.uint8).reshape(-1, 3073) for file in files]
        )
        skip = {"image": tfds.decode.SkipDecoding()}
        source = tfds.data_source(
            "cifar10", split=name, data_dir=tmp_path, download=False, decoders=skip
        )
        order = [int(example["id"].decode().removeprefix(f"{name}_")) for example in source]
        assert sorted(order) == list(range(len(rows)))
        np.testing.assert_array_equal(split.labels, rows[order, 0])
        pixels = rows[order, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        np.testing.assert_array_equal(split.images, pixels)
    assert np.bincount(loaded.train.labels).tolist() == [5000] * 10
    assert np.bincount(loaded.eval.labels).tolist() == [1000] * 10
    assert json.loads((version / locate.SOURCE_FILE).read_text())["origin"].startswith("folder")
