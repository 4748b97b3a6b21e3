"""Folders of one's own images: what is read in which order, what is kept, and what is refused."""

import hashlib
import json
import logging
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxcnn import data
from jaxcnn.commands import config_flag
from jaxcnn.config import compat
from jaxcnn.config.settings import Settings
from jaxcnn.data import cache, decoded, image_files, locate
from jaxcnn.errors import UserError
from jaxcnn.train import fit

RNG = np.random.default_rng(3)


def write(path: Path, height: int = 40, width: int = 50) -> Path:
    """Writes an image of noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(path)
    return path


@pytest.fixture
def root(tmp_path) -> Path:
    """A folder with 6 images of `cat` and 4 of `dog` to train on, and 2 of each in val."""
    path = tmp_path / "photos"
    for index in range(6):
        write(path / "train" / "cat" / f"{index}.png", 40 + index)
    for index in range(4):
        write(path / "train" / "dog" / "deep" / f"{index}.JPG", 60, 20 + index)
    for name in ("cat/a.bmp", "cat/b.webp", "dog/a.gif", "dog/b.tif"):
        write(path / "val" / name)
    return path


def load(root, train="train", evaluation="auto", **options):
    """Loads a folder."""
    given = {"data_dir": str(root), "train_split": train, "eval_split": evaluation}
    return data.load("folder", **given, **options)


def refusal(*arguments, **options):
    """Returns the message with which loading is refused; it has to be one line."""
    with pytest.raises(UserError) as error:
        load(*arguments, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def messages(caplog):
    """Returns the warnings so far, and forgets them."""
    assert all(record.levelno == logging.WARNING for record in caplog.records)
    found = [record.getMessage() for record in caplog.records]
    caplog.clear()
    return found


def test_images_are_those_that_predict_takes_with_the_label_of_their_folder(root):
    loaded = load(root, image_size=16)
    assert loaded.class_names == ("cat", "dog") and loaded.eval_split == "validation"
    for split, folder in ((loaded.train, "train"), (loaded.eval, "val")):
        expected = {
            image_files.read(path, (16, 16, 3)).tobytes(): int("dog" in path.parts)
            for path in (root / folder).rglob("*.*")
        }
        assert split.images.dtype == np.uint8 and split.labels.dtype == np.int32
        found = [image.tobytes() for image in split.images]
        assert dict(zip(found, split.labels, strict=True)) == expected
        assert len(found) == len(expected)
    assert loaded.train.labels.tolist().count(1) == 4


def test_order_depends_on_names_alone_and_mixes_classes(root, tmp_path):
    labels = load(root).train.labels
    assert sorted(labels.tolist()) != labels.tolist()
    copied = shutil.copytree(root, tmp_path / "elsewhere")
    for path in copied.rglob("*"):
        os.utime(path, (1, 1))
    again = load(copied)
    np.testing.assert_array_equal(again.train.labels, labels)
    np.testing.assert_array_equal(again.train.images, load(root).train.images)
    assert again.fingerprint == load(root).fingerprint
    # Slices follow that order, and do not change which data it is.
    part = load(root, train="train[:5]", evaluation="train[5:]")
    np.testing.assert_array_equal(part.eval.labels, labels[5:])
    assert part.fingerprint == again.fingerprint and part.eval_split == "train[5:]"


def test_without_another_split_the_same_part_of_each_class_is_held_out(root):
    whole = load(root).train.images
    shutil.rmtree(root / "val")
    loaded = load(root, holdout=0.5)
    assert loaded.eval_split == "validation"
    assert np.bincount(loaded.train.labels).tolist() == [3, 2]
    assert np.bincount(loaded.eval.labels).tolist() == [3, 2]
    images = np.concatenate([loaded.train.images, loaded.eval.images])
    assert {i.tobytes() for i in images} == {i.tobytes() for i in whole}
    other = load(root, holdout=0.5, holdout_seed=1)
    assert not np.array_equal(other.eval.images, loaded.eval.images)
    assert load(root, holdout=0.5).fingerprint == loaded.fingerprint != other.fingerprint


def test_a_test_folder_is_evaluated_on_where_there_is_no_validation(root):
    (root / "val").rename(root / "TEST")
    loaded = load(root)
    assert loaded.eval_split == "test" and len(loaded.train.labels) == 10
    shutil.copytree(root / "TEST", root / "valid")
    assert load(root).eval_split == "validation"
    assert len(load(root, evaluation="test").eval.labels) == 4


def test_second_start_does_not_decode_and_small_chunks_change_nothing(root, monkeypatch):
    monkeypatch.setattr(decoded, "_CHUNK", 3)
    first = load(root)
    monkeypatch.setattr(image_files, "decode", lambda *arguments: pytest.fail("decoded"))
    second = load(root)
    assert second.fingerprint == first.fingerprint
    np.testing.assert_array_equal(second.train.images, first.train.images)
    monkeypatch.undo()
    shutil.rmtree(root / cache.FOLDER)
    assert load(root).fingerprint == first.fingerprint


@pytest.mark.parametrize("change", ["pixels", "added", "removed", "renamed", "class"])
def test_a_stale_cache_is_made_again(root, change):
    path = root / "train" / "cat" / "0.png"
    with Image.open(path) as image:
        pixels = np.asarray(image)
    Image.fromarray(pixels).save(path, "BMP")  # not compressed
    before, status = load(root), path.stat()
    if change == "pixels":  # of the same size, but another time
        Image.fromarray(255 - pixels).save(path, "BMP")
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
        assert path.stat().st_size == status.st_size
    elif change == "added":
        write(root / "train" / "dog" / "9.png")
    elif change == "removed":
        path.unlink()
    elif change == "renamed":
        path.rename(path.with_name("some.png"))
    else:
        path.rename(root / "train" / "dog" / "0.png")
    after = load(root)
    assert after.fingerprint != before.fingerprint
    shutil.rmtree(root / cache.FOLDER)
    assert load(root).fingerprint == after.fingerprint


def _flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _cut(path):
    path.write_bytes(path.read_bytes()[:-3])


def _wrong_note(path):
    path.write_text(json.dumps({**json.loads(path.read_text()), "refused": [[1]]}))


@pytest.mark.parametrize(
    ("name", "damage"),
    [("train-32.u8", _flip), ("train-32.u8", _cut), ("train-32.json", _cut),
     ("train-32.json", _wrong_note), ("train-32.json", lambda path: path.write_text("[]"))],
)  # fmt: skip
def test_a_damaged_cache_is_made_again(root, name, damage, caplog):
    first = load(root)
    path = root / cache.FOLDER / name
    good = path.read_bytes()
    damage(path)
    assert load(root).fingerprint == first.fingerprint
    (message,) = messages(caplog)
    assert "is damaged" in message and path.read_bytes() == good


@pytest.mark.parametrize("stage", ["folder", "images"])
def test_where_nothing_can_be_kept_images_are_decoded_each_time(root, monkeypatch, caplog, stage):
    first = load(root)
    shutil.rmtree(root / cache.FOLDER)
    cache.warn_unwritable.cache_clear()

    def refuse(*arguments, **options):
        raise OSError(28, "No space left on device")

    owner, name = {"folder": (Path, "mkdir"), "images": (cache.os, "replace")}[stage]
    monkeypatch.setattr(owner, name, refuse)
    assert load(root).fingerprint == first.fingerprint
    (message,) = messages(caplog)
    assert "No space left" in message
    monkeypatch.setattr(decoded.tempfile, "TemporaryFile", refuse)
    assert "MB of decoded images" in refusal(root)
    assert not [path for path in (root / cache.FOLDER).glob("*")]


def test_an_interrupted_decoding_leaves_nothing(root, monkeypatch):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(image_files, "decode", interrupt)
        with pytest.raises(KeyboardInterrupt):
            load(root)
    assert list((root / cache.FOLDER).iterdir()) == []


def test_unreadable_files_are_named_and_counted_and_may_be_skipped(root, caplog):
    whole = load(root)
    cut = root / "train" / "cat" / "1.png"
    cut.write_bytes(cut.read_bytes()[:200])
    (root / "train" / "dog" / "empty.jpg").touch()
    (root / "train" / "dog" / "gone.png").symlink_to("nowhere")
    message = refusal(root)
    assert message.startswith(f"3 of 12 image files of {root / 'train'} cannot be read: ")
    assert "cat/1.png (the image is damaged" in message and "dog/gone.png (no such" in message
    assert "dog/empty.jpg (the file is empty" in message and "dataset.unreadable=skip" in message
    for _ in range(2):  # decoded, and from the cache
        loaded = load(root, unreadable="skip")
        (warning,) = messages(caplog)
        assert warning.startswith("left out: 3 of 12 image files")
        assert np.bincount(loaded.train.labels).tolist() == [5, 4]
        kept = {image.tobytes() for image in loaded.train.images}
        assert len(kept) == 9 and kept < {image.tobytes() for image in whole.train.images}
    with pytest.raises(UserError, match=r"train \(9 examples\)"):
        load(root, train="train[:10]", unreadable="skip")
    for path in (root / "train" / "dog" / "deep").iterdir():
        path.write_bytes(b"no image")
    message = refusal(root, unreadable="skip")
    assert "leaves no image of dog to train on" in message


def test_what_programs_keep_in_folders_is_not_searched_and_the_rest_is_told(root, caplog):
    first = load(root)
    for name in ("train/cat/.ipynb_checkpoints/0.png", "train/__MACOSX/0.png", ".hidden/x.png",
                 "train/.cache/0.png", "train/cat/._0.png", "train/cat/@eaDir/0.png"):  # fmt: skip
        write(root / name)
    (root / "train" / "cat" / "Thumbs.db").touch()
    assert load(root).fingerprint == first.fingerprint and not messages(caplog)
    (root / "train" / "cat" / "a.heic").touch()
    (root / "labels").mkdir()
    (root / "about.txt").touch()
    assert load(root).fingerprint == first.fingerprint
    assert messages(caplog) == [
        f"not used: labels of {root}, only train, val and test are",
        f"files that are no images by their names, in {root / 'train'}: 1 .heic",
    ]


def _flat(root):
    for path in (root / "train").rglob("*.png"):
        path.rename(root / path.name)
    shutil.rmtree(root / "train")
    shutil.rmtree(root / "val")


def _classes_only(root):
    shutil.rmtree(root / "val")
    for path in (root / "train").iterdir():
        path.rename(root / path.name)
    (root / "train").rmdir()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda root: shutil.rmtree(root / "train"), "has no folder train, it has nothing: needed"),
        (_flat, "has no folder train, it has 0.png, 1.png, 2.png, 3.png, 4.png and 1 more"),
        (_classes_only, "has no folder train, it has cat, dog: needed is PATH/train/CLASS/IMAGE"),
        (lambda root: write(root / "val" / "x.png"), "val has 1 images in no class folder, such"),
        (lambda root: shutil.rmtree(root / "val" / "dog"), "the classes differ: "),
        (lambda root: write(root / "val" / "ox" / "x.png"), "train lacks ox; every split needs"),
        (lambda root: (root / "val" / "cat" / "a.bmp").rename(root / "val" / "a.bmp"), "a.bmp"),
        (lambda root: shutil.copytree(root / "val", root / "Valid"), "two folders of the split"),
        (lambda root: [p.unlink() for p in (root / "val" / "dog").iterdir()], "no image of dog"),
        (lambda root: [shutil.rmtree(root / s / "dog") for s in ("train", "val")], "class cat, at"),
        (shutil.rmtree, "does not exist: correct"),
    ],
)
def test_a_folder_of_another_layout_is_refused_in_words(root, change, expected):
    change(root)
    message = refusal(root)
    assert str(root) in message and expected in message


def test_other_mistakes_are_refused(root, monkeypatch):
    assert "--data_dir=PATH" in refusal("")
    assert "is not a folder" in refusal(root / "train" / "cat" / "0.png")
    assert "folder has train (10 examples), validation (4 examples)" in refusal(
        root, evaluation="test"
    )
    with pytest.raises(UserError, match=r"dataset.image_size=64 is for dataset.name=folder, not d"):
        data.load("digits", data_dir="", train_split="train", eval_split="test", image_size=64)
    shutil.rmtree(root / "val")
    assert "lower dataset.holdout" in refusal(root, holdout=0.999)

    def denied(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", denied)
    assert "Permission denied" in refusal(root)


def test_a_class_folder_of_any_name_has_a_name_that_is_text(root):
    odd = os.fsdecode(b"\xff\xe9$<b>")
    for split in ("train", "val"):
        (root / split / "dog").rename(root / split / odd)
    assert load(root).class_names == ("cat", "\\xff\\xe9$<b>")


def test_a_run_notes_classes_size_and_the_split_that_was_meant(root):
    config = config_flag.load("mobilenet:folder")
    config.dataset.data_dir, config.dataset.image_size, config.train.batch_size = str(root), 24, 4
    settings = Settings.resolve(config, data.load(**config.dataset))
    assert settings.facts.class_names == ("cat", "dog")
    assert settings.facts.image_shape == (24, 24, 3)
    assert settings.dataset.eval_split == "validation"
    written = json.loads(json.dumps(settings.to_json()))
    assert Settings.from_json(written) == settings and not compat.refusals(written, written)


@pytest.mark.slow
@pytest.mark.ci
def test_a_run_trains_on_a_folder_and_its_network_classifies_files(root, tmp_path, command):
    run = tmp_path / "run"
    code, _, errors = command(
        *("train", "--config=lenet:folder", f"--data_dir={root}", f"--workdir={run}"),
        *("--train.epochs=1", "--train.batch_size=4", "--optim.warmup_epochs=0"),
        "--notrain.plots",
    )
    assert code == 0, errors
    config = json.loads((run / "config.json").read_text())
    assert config["dataset"]["fingerprint"].startswith("folder/32px sha256:")
    moved = root.rename(tmp_path / "moved")
    code, out, errors = command("evaluate", str(run), f"--data_dir={moved}", "--json")
    assert code == 0 and not errors
    metrics = json.loads((run / "metrics.jsonl").read_text())
    evaluated = json.loads(out)
    assert evaluated["loss"] == pytest.approx(metrics["eval_loss"], rel=1e-5)
    code, out, _ = command("predict", str(run), str(moved / "val/cat/a.bmp"), "--json")
    assert code == 0 and json.loads(out)["predictions"][0]["class"] in ("cat", "dog")


def _in_a_folder(root, dataset, train, evaluation):
    """Writes the first images of both splits as PNG; returns them in the order of a folder."""
    ordered = []
    for split, part, count in (
        (dataset.train, "train", train),
        (dataset.eval, "test", evaluation),
    ):
        names = []
        for index, (image, label) in enumerate(zip(*split, strict=True)):
            if index == count:
                break
            path = root / part / dataset.class_names[label] / f"{index:05d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(image_files.png(image))
            names.append(path.relative_to(root / part).as_posix())
        key = lambda i, names=names: hashlib.sha256(names[i].encode()).hexdigest()  # noqa: E731
        order = sorted(range(len(names)), key=key)
        ordered.append(data.Split(split.images[order], split.labels[order]))
    return ordered


def test_a_data_set_written_as_png_has_the_same_pixels_labels_and_names(tmp_path):
    digits = data.load("digits", data_dir="", train_split="train", eval_split="test")
    train, evaluation = _in_a_folder(tmp_path, digits, 60, 30)
    loaded = load(tmp_path)
    assert loaded.class_names == digits.class_names
    for found, expected in ((loaded.train, train), (loaded.eval, evaluation)):
        np.testing.assert_array_equal(found.images, expected.images)
        np.testing.assert_array_equal(found.labels, expected.labels)


@pytest.mark.slow
def test_cifar10_in_a_folder_is_the_same_data_and_gives_the_same_training(tmp_path):
    if not locate.find(locate.data_root(""), "cifar10"):
        pytest.skip("CIFAR-10 is not prepared: TFDS_DATA_DIR names no directory that has it")
    cifar = data.load("cifar10", data_dir="", train_split="train", eval_split="test")
    train, evaluation = _in_a_folder(tmp_path / "images", cifar, 10_000, 1000)
    config = config_flag.load("lenet:folder")
    config.dataset.data_dir, config.dataset.train_split = str(tmp_path / "images"), "train[:2000]"
    config.train.epochs, config.train.plots = 1, False
    loaded = load(tmp_path / "images")
    assert loaded.class_names == cifar.class_names
    assert loaded.train.images.tobytes() == train.images.tobytes()
    np.testing.assert_array_equal(loaded.train.labels, train.labels)
    part = data.load(**config.dataset)
    same = part._replace(
        train=data.Split(train.images[:2000], train.labels[:2000]), eval=evaluation
    )
    for name, dataset in (("folder", part), ("arrays", same)):
        fit.fit(config, dataset, tmp_path / name)
    metrics = [
        json.loads((tmp_path / n / "metrics.jsonl").read_text()) for n in ("folder", "arrays")
    ]
    timing = {"seconds", "images_per_second"}
    first, second = ({k: v for k, v in m.items() if k not in timing} for m in metrics)
    assert first == second and first["step"] == 2000 // config.train.batch_size
