"""Loading prepared data sets: splits, fingerprints, the cache, and what a user can get wrong."""

import json
import logging
import os
import shutil
from pathlib import Path

import data_helpers as helpers
import numpy as np
import pytest
import tensorflow_datasets as tfds

from jaxcnn import data
from jaxcnn.data import cache, locate, records
from jaxcnn.errors import UserError

GREY = [np.full((6, 5), value, np.uint8) for value in range(20)]
LABELS = [value % 10 for value in range(20)]


@pytest.fixture
def root(tmp_path) -> Path:
    """A data directory with a greyscale set called mnist: 14 train and 6 test images of 6x5."""
    path = tmp_path / "data"
    path.mkdir()
    splits = {"train": (GREY[:14], LABELS[:14]), "test": (GREY[14:], LABELS[14:])}
    helpers.prepare_tfds(path, "mnist", splits)
    return path


def load(root, name="mnist", train="train", evaluation="test"):
    """Loads a data set from `root`."""
    return data.load(name, data_dir=str(root), train_split=train, eval_split=evaluation)


def refusal(*arguments, **options):
    """Returns the message with which loading is refused; it has to be one line."""
    with pytest.raises(UserError) as error:
        load(*arguments, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_greyscale_images_equal_what_tfds_reads(root):
    loaded = load(root)
    assert loaded.train.images.shape == (14, 6, 5, 1) and loaded.train.images.dtype == np.uint8
    assert loaded.train.labels.dtype == np.int32
    assert loaded.class_names == tuple("0123456789")
    for split, name in ((loaded.train, "train"), (loaded.eval, "test")):
        examples = list(tfds.builder("mnist", data_dir=root).as_data_source(name))
        np.testing.assert_array_equal(split.images, [e["image"] for e in examples])
        np.testing.assert_array_equal(split.labels, [e["label"] for e in examples])


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("train[:9]", slice(0, 9)),
        ("train[9:]", slice(9, None)),
        ("train[:50%]", slice(0, 7)),
        ("train[-3:]", slice(-3, None)),
        ("train[2:5]", slice(2, 5)),
    ],
)
def test_slices_follow_tfds(root, spec, expected):
    whole, part = load(root).train, load(root, train=spec).train
    np.testing.assert_array_equal(part.images, whole.images[expected])
    np.testing.assert_array_equal(part.labels, whole.labels[expected])
    source = tfds.builder("mnist", data_dir=root).as_data_source(spec)
    assert [e["label"] for e in source] == part.labels.tolist()


def test_splits_can_be_joined(root):
    loaded, joined = load(root), load(root, train="train[:3]+test[1:]").train
    labels = [*loaded.train.labels[:3], *loaded.eval.labels[1:]]
    np.testing.assert_array_equal(joined.labels, labels)
    images = [*loaded.train.images[:3], *loaded.eval.images[1:]]
    np.testing.assert_array_equal(joined.images, images)


@pytest.mark.parametrize(
    "spec",
    ["trian", "validation", "train[", "train[:0]", "train[5:5]", "train[7:2]", "train[:15]", "",
     "train[:101%]", "train[3]", "train[a:]", "train+", "all[:3]", "train test", "test[:-7]"],
)  # fmt: skip  # one a line would be longer than the test
def test_bad_split_is_refused_before_anything_is_decoded(root, spec, monkeypatch):
    monkeypatch.setattr(records, "_decode", lambda *arguments: pytest.fail("decoded"))
    for message in (refusal(root, train=spec), refusal(root, evaluation=spec)):
        assert repr(spec) in message and "train (14 examples)" in message


def test_overlapping_splits_are_pointed_out(root, caplog):
    load(root, train="train[:9]", evaluation="train[9:]")
    assert not caplog.records
    load(root, train="train[:9]", evaluation="train[7:]")
    (record,) = caplog.records
    assert record.levelno == logging.WARNING and "2 examples" in record.getMessage()


def test_fingerprint_depends_on_the_data_alone(root, tmp_path):
    first = load(root).fingerprint
    assert first.startswith("mnist/3.0.1 sha256:")
    assert load(root, train="train[:4]", evaluation="train[4:]").fingerprint == first
    moved = tmp_path / "elsewhere"
    shutil.move(root, moved)
    assert load(moved).fingerprint == first
    shutil.rmtree(moved / "mnist" / "3.0.1" / cache.FOLDER)
    assert load(moved).fingerprint == first


@pytest.mark.parametrize("change", ["pixel", "label", "order", "size"])
def test_other_data_have_another_fingerprint(root, tmp_path, change):
    images, labels = [image.copy() for image in GREY], LABELS.copy()
    if change == "pixel":
        images[19][0, 0] += 1
    elif change == "label":
        labels[3] += 1
    elif change == "order":
        images[0], images[1] = images[1], images[0]
        labels[0], labels[1] = labels[1], labels[0]
    else:
        images = [image.T.copy() for image in images]
    other = tmp_path / "other"
    splits = {"train": (images[:14], labels[:14]), "test": (images[14:], labels[14:])}
    helpers.prepare_tfds(other, "mnist", splits)
    assert load(other).fingerprint != load(root).fingerprint


def test_second_start_does_not_decode(root, monkeypatch):
    first = load(root)
    monkeypatch.setattr(records, "_decode", lambda *arguments: pytest.fail("decoded"))
    second = load(root)
    np.testing.assert_array_equal(second.train.images, first.train.images)
    np.testing.assert_array_equal(second.eval.labels, first.eval.labels)
    assert second.fingerprint == first.fingerprint


def _cut(path):
    path.write_bytes(path.read_bytes()[:-200])


def _flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _empty(path):
    path.write_bytes(b"")


def _fewer_images(path):
    with np.load(path) as arrays:
        np.savez(path, **{k: v[1:] if v.ndim == 4 else v for k, v in arrays.items()})


def _fewer_labels(path):
    with np.load(path) as arrays:
        np.savez(path, **{k: v[1:] if v.ndim == 1 else v for k, v in arrays.items()})


def _other_type(path):
    with np.load(path) as arrays:
        np.savez(path, **{k: v.astype(int) if v.ndim == 4 else v for k, v in arrays.items()})


def _pickled(path):
    with np.load(path) as arrays:
        np.savez(path, **{k: v.astype(object) if v.ndim else v for k, v in arrays.items()})


def _foreign(path):
    np.savez(path, something=np.zeros(3))


@pytest.mark.parametrize(
    "damage", [_cut, _flip, _empty, _fewer_images, _fewer_labels, _other_type, _pickled, _foreign]
)
def test_damaged_cache_is_made_again(root, damage, caplog):
    first = load(root)
    path = root / "mnist" / "3.0.1" / cache.FOLDER / "train.npz"
    good = path.read_bytes()
    damage(path)
    again = load(root)
    assert again.fingerprint == first.fingerprint
    np.testing.assert_array_equal(again.train.images, first.train.images)
    assert len(path.read_bytes()) == len(good)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


def test_cache_of_other_record_files_is_made_again(root, tmp_path):
    load(root)
    other = tmp_path / "other"
    images = [255 - image for image in GREY]
    splits = {"train": (images[:14], LABELS[:14]), "test": (images[14:], LABELS[14:])}
    version = helpers.prepare_tfds(other, "mnist", splits)
    expected = load(other)
    shutil.rmtree(version / cache.FOLDER)
    shutil.copytree(root / "mnist" / "3.0.1" / cache.FOLDER, version / cache.FOLDER)
    assert load(other).fingerprint == expected.fingerprint


def test_interrupted_cache_write_leaves_nothing(root, monkeypatch):
    def interrupt(file, **arrays):
        file.write(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(np, "savez", interrupt)
        with pytest.raises(KeyboardInterrupt):
            load(root)
    assert list((root / "mnist" / "3.0.1" / cache.FOLDER).iterdir()) == []
    load(root)


@pytest.mark.parametrize("function", ["mkstemp", "mkdir"])
def test_unwritable_directory_works_and_says_so_once(root, monkeypatch, caplog, function):
    def refuse(*arguments, **options):
        raise PermissionError(13, "Permission denied")

    owner = cache.tempfile if function == "mkstemp" else Path
    monkeypatch.setattr(owner, function, refuse)
    assert len(load(root).train.labels) == 14
    (record,) = caplog.records
    assert "Permission denied" in record.getMessage()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_read_only_directory_works(root, caplog):
    version = root / "mnist" / "3.0.1"
    version.chmod(0o555)
    try:
        assert len(load(root).train.labels) == 14
    finally:
        version.chmod(0o755)
    assert len(caplog.records) == 1


def test_cache_can_be_read_by_whoever_can_read_the_data(root):
    load(root)
    version = root / "mnist" / "3.0.1"
    umask = os.umask(0)
    os.umask(umask)
    mode = (version / cache.FOLDER / "train.npz").stat().st_mode & 0o777
    assert mode == 0o666 & ~umask


@pytest.mark.parametrize("name", ["cifar11", "", "../x", "digit", "MNIST", "mnist/x", "a:b"])
def test_unknown_name_is_refused(root, name):
    shutil.rmtree(root / "mnist")
    message = refusal(root, name)
    assert repr(name) in message and "fashion_mnist" in message


def test_close_name_is_suggested(root):
    assert "did you mean 'mnist'?" in refusal(root, "minst")


def test_unprepared_set_comes_with_the_command(root):
    message = refusal(root, "stl10")
    assert "python -m venv" in message and f"data_dir='{root}'" in message


def test_missing_data_directory_is_refused(root):
    assert "does not exist" in refusal(root / "typo")


def test_unreadable_data_directory_is_refused(root, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refuse)
    assert "Permission denied" in refusal(root)


def test_named_directory_inside_the_data_directory_is_corrected(root):
    assert f"give {root} instead" in refusal(root / "mnist")
    assert f"give {root} instead" in refusal(root / "mnist" / "3.0.1")


def test_environment_variable_names_the_directory(root, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(root))
    assert len(load("").train.labels) == 14
    monkeypatch.setenv("TFDS_DATA_DIR", str(root / "typo"))
    assert "does not exist" in refusal("")
    monkeypatch.delenv("TFDS_DATA_DIR")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert locate.data_root("") == Path("/home/somebody/tensorflow_datasets")


def test_newest_version_is_taken(root):
    version = root / "mnist" / "3.0.1"
    for other in ("2.9.9", "3.0.0"):
        shutil.copytree(version, root / "mnist" / other)
    (root / "mnist" / "10.0.0").mkdir()  # holds nothing
    (root / "mnist" / "incomplete.X_11.0.0").mkdir()
    assert locate.find(root, "mnist") == version


@pytest.mark.parametrize(
    ("name", "advice"),
    [("mnist", "jaxcnn prepare mnist --data_dir=OTHER"), ("stl10", "python -m venv")],
)
def test_tfrecord_files_are_refused_with_advice(root, name, advice):
    version = root / name / "3.0.1"
    if not version.exists():
        helpers.prepare_tfds(root, name, {"train": (GREY, LABELS), "test": (GREY, LABELS)})
    description = version / "dataset_info.json"
    description.write_text(description.read_text().replace("array_record", "tfrecord"))
    for path in version.glob("*array_record*"):
        path.rename(str(path).replace("array_record", "tfrecord"))
    message = refusal(root, name)
    assert "tfrecord" in message and "array_record" in message and advice in message


@pytest.mark.parametrize("damage", ["description", "features", "records", "record"])
def test_damaged_preparation_is_refused(root, damage):
    version = root / "mnist" / "3.0.1"
    (record_file,) = version.glob("*train*array_record*")
    if damage == "description":
        (version / "dataset_info.json").write_text("{")
    elif damage == "features":
        (version / "features.json").unlink()
    elif damage == "records":
        record_file.unlink()
    else:
        record_file.write_bytes(b"")
    message = refusal(root)
    assert str(version) in message and "prepare mnist again" in message


def test_images_of_several_sizes_are_refused(tmp_path):
    images = [np.zeros((6, 5, 3), np.uint8), np.zeros((6, 7, 3), np.uint8)]
    features = {
        "image": tfds.features.Image(shape=(None, None, 3)),
        "label": tfds.features.ClassLabel(num_classes=10),
    }
    splits = {"train": (images, [0, 1]), "test": (images[:1], [0])}
    helpers.prepare_tfds(tmp_path, "several", splits, features)
    assert "several sizes" in refusal(tmp_path, "several")


def test_undeclared_but_equal_sizes_are_fine(tmp_path):
    images = [np.full((6, 5, 3), value, np.uint8) for value in range(4)]
    features = {
        "image": tfds.features.Image(shape=(None, None, 3)),
        "label": tfds.features.ClassLabel(num_classes=10),
    }
    splits = {"train": (images, [0, 1, 2, 3]), "test": (images, [0, 1, 2, 3])}
    helpers.prepare_tfds(tmp_path, "equal", splits, features)
    assert load(tmp_path, "equal").train.images.shape == (4, 6, 5, 3)


@pytest.mark.parametrize(
    "features",
    [
        {"image": tfds.features.Image(shape=(6, 5, 1))},
        {"label": tfds.features.ClassLabel(num_classes=10)},
        {"image": tfds.features.Image(shape=(6, 5, 1)), "label": tfds.features.Scalar(np.int64)},
        {
            "image": tfds.features.Image(shape=(6, 5, 1), dtype=np.uint16),
            "label": tfds.features.ClassLabel(num_classes=10),
        },
    ],
)
def test_other_features_are_refused(tmp_path, features):
    splits = {"train": (GREY, LABELS), "test": (GREY, LABELS)}
    helpers.prepare_tfds(tmp_path, "other", splits, features)
    assert "cannot be used" in refusal(tmp_path, "other")


def test_unlabelled_images_are_refused(tmp_path):
    splits = {"train": (GREY, LABELS), "test": (GREY, LABELS), "unlabelled": (GREY, [-1] * 20)}
    helpers.prepare_tfds(tmp_path, "partly", splits)
    assert len(load(tmp_path, "partly").train.labels) == 20
    assert "no label" in refusal(tmp_path, "partly", train="unlabelled")


def test_modified_copy_says_so(tmp_path):
    version = helpers.prepare_binary(tmp_path / "data")
    assert load(tmp_path / "data", "cifar10").fingerprint.startswith("cifar10/3.0.2 modified ")
    note = json.loads((version / locate.SOURCE_FILE).read_text())
    assert note["modified"] is True
    (version / locate.SOURCE_FILE).write_text("{}")
    assert locate.SOURCE_FILE in refusal(tmp_path / "data", "cifar10")
