"""Reading CIFAR files: both layouts mean the same, and nothing in them is trusted."""

import hashlib
import io
import os
import pickle
import tarfile
from pathlib import Path

import data_helpers as helpers
import numpy as np
import pytest

from jaxcnn.data.cifar10 import archive, convert, published, unpickle
from jaxcnn.errors import UserError


def read(path, name="cifar10", allow_modified=True):
    """Returns the records of an archive or folder."""
    row = published.SETS[name]
    return convert.parse(archive.read([path], row, allow_modified=allow_modified), row)


def refusal(path, **options):
    """Returns the message with which `path` is refused; it has to be one line."""
    with pytest.raises(UserError) as error:
        read(path, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_binary_records_are_label_bytes_then_colour_planes(tmp_path, name):
    row = published.SETS[name]
    parsed = read(helpers.write_binary(tmp_path, name), name)
    rows = np.vstack([helpers.make_records(name)[file] for file in row.binary.train])
    assert parsed["train"].images.shape == (len(rows), 32, 32, 3)
    for label in range(len(row.label_keys)):
        np.testing.assert_array_equal(parsed["train"].labels[:, label], rows[:, label])
    first_pixel = len(row.label_keys)
    for channel in range(3):
        at = first_pixel + channel * 1024 + 5 * 32 + 9  # row 5, column 9
        np.testing.assert_array_equal(parsed["train"].images[:, 5, 9, channel], rows[:, at])


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
@pytest.mark.parametrize("dump", [helpers.python2_pickle, helpers.python3_pickle])
@pytest.mark.parametrize("packed", [True, False])
def test_python_version_gives_the_same_records(tmp_path, name, dump, packed):
    expected = read(helpers.write_binary(tmp_path, name), name)
    path = helpers.write_python(tmp_path, name, dump)
    if packed:
        path = helpers.pack(path, tmp_path / "python.tar.gz")
    actual = read(path, name)
    for split in ("train", "test"):
        np.testing.assert_array_equal(actual[split].images, expected[split].images)
        np.testing.assert_array_equal(actual[split].labels, expected[split].labels)


def test_the_folder_above_will_do(tmp_path):
    helpers.write_binary(tmp_path, "cifar10")
    assert len(read(tmp_path)["test"].images) == helpers.COUNT


def test_only_the_published_archive_passes_unasked(tmp_path, monkeypatch):
    packed = helpers.pack(helpers.write_binary(tmp_path, "cifar10"), tmp_path / "a.tar.gz")
    message = refusal(packed, allow_modified=False)
    assert hashlib.sha256(packed.read_bytes()).hexdigest() in message
    assert published.SETS["cifar10"].binary.archive_sha256 in message
    assert "--allow-modified" in message
    assert archive.read([packed], published.SETS["cifar10"], allow_modified=True).modified
    row = helpers.publish_archive(monkeypatch, "cifar10", "binary", packed)
    assert not archive.read([packed], row, allow_modified=False).modified


@pytest.mark.parametrize("form", ["binary", "python"])
def test_only_a_folder_of_published_files_passes_unasked(tmp_path, monkeypatch, form):
    if form == "binary":
        folder = helpers.write_binary(tmp_path, "cifar10")
    else:
        folder = helpers.write_python(tmp_path, "cifar10", helpers.python2_pickle)
    assert "checksums" in refusal(folder, allow_modified=False)
    layout = getattr(published.SETS["cifar10"], form)
    changes = {
        split: {
            name: hashlib.new(layout.checksum, (folder / name).read_bytes()).hexdigest()
            for name in getattr(layout, split)
        }
        for split in ("train", "test")
    }
    row = helpers.publish(monkeypatch, "cifar10", form, **changes)
    assert not archive.read([folder], row, allow_modified=False).modified
    one = folder / next(iter(layout.test))
    one.write_bytes(one.read_bytes()[:-1] + b"\x00")
    assert one.name in refusal(folder, allow_modified=False)


def test_a_wrong_archive_is_not_unpickled(tmp_path, monkeypatch):
    folder = helpers.write_python(tmp_path, "cifar10", helpers.python3_pickle)
    packed = helpers.pack(folder, tmp_path / "python.tar.gz")
    monkeypatch.setattr(unpickle, "read_batch", lambda data: pytest.fail("unpickled"))
    refusal(packed, allow_modified=False)


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.7, 0.9])
@pytest.mark.parametrize("compression", ["gz", ""])
def test_truncated_archive_is_named_so(tmp_path, keep, compression):
    folder, packed = helpers.write_binary(tmp_path, "cifar10"), tmp_path / "a.tar"
    helpers.pack(folder, packed, compression)
    content = packed.read_bytes()
    packed.write_bytes(content[: int(keep * len(content))])
    assert "truncated" in refusal(packed, allow_modified=False)
    assert "truncated" in refusal(packed, allow_modified=True)


@pytest.mark.parametrize("content", [b"not an archive", b"\x1f\x8b" + bytes(300), bytes(2000)])
def test_no_archive_at_all_is_refused(tmp_path, content):
    path = tmp_path / "a.tar.gz"
    path.write_bytes(content)
    assert str(path) in refusal(path)


def test_missing_path_is_refused(tmp_path):
    assert "No such file" in refusal(tmp_path / "nowhere.tar.gz")


def test_foreign_folder_is_refused(tmp_path):
    assert "cifar-10-batches-bin" in refusal(tmp_path)


def test_folder_that_lacks_a_file_is_refused(tmp_path):
    folder = helpers.write_binary(tmp_path, "cifar10")
    (folder / "data_batch_3.bin").unlink()
    assert "data_batch_3.bin" in refusal(folder)


def test_the_other_data_set_is_refused(tmp_path):
    packed = helpers.pack(helpers.write_binary(tmp_path, "cifar100"), tmp_path / "a.tar.gz")
    assert "cifar-10-batches-bin" in refusal(packed)


def test_links_and_foreign_paths_in_an_archive_lead_nowhere(tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(helpers.make_records("cifar10")["test_batch.bin"].tobytes())
    packed, layout = tmp_path / "a.tar", published.SETS["cifar10"].binary
    with tarfile.open(packed, "w") as tar:
        for name in layout.train:
            member = tarfile.TarInfo(f"{layout.folder}/{name}")
            member.size = len(secret.read_bytes())
            tar.addfile(member, io.BytesIO(secret.read_bytes()))
        for name, kind in [
            (f"{layout.folder}/test_batch.bin", tarfile.SYMTYPE),
            (f"../{layout.folder}/test_batch.bin", tarfile.REGTYPE),
            (f"/{layout.folder}/test_batch.bin", tarfile.REGTYPE),
            (f"{layout.folder}/../{layout.folder}/test_batch.bin", tarfile.REGTYPE),
        ]:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, str(secret)
            tar.addfile(member)
    before = sorted(tmp_path.parent.rglob("*"))
    assert "lacks test_batch.bin in cifar-10-batches-bin" in refusal(packed)
    assert sorted(tmp_path.parent.rglob("*")) == before


def test_oversized_member_is_refused_unread(tmp_path, monkeypatch):
    packed = helpers.pack(helpers.write_binary(tmp_path, "cifar10"), tmp_path / "a.tar.gz")
    helpers.publish(monkeypatch, "cifar10", "binary", largest_file=1000)
    helpers.publish(monkeypatch, "cifar10", "python", largest_file=1000)
    assert "bytes" in refusal(packed)
    assert "bytes" in refusal(tmp_path / "cifar-10-batches-bin")


def test_archive_with_a_huge_foreign_member_is_refused_unread(tmp_path):
    packed = tmp_path / "a.tar"
    member = tarfile.TarInfo("bomb")
    member.size = 1 << 40
    packed.write_bytes(member.tobuf() + bytes(10240))
    assert "'bomb'" in refusal(packed)


def test_partial_record_is_refused(tmp_path):
    folder = helpers.write_binary(tmp_path, "cifar10")
    file = folder / "data_batch_2.bin"
    file.write_bytes(file.read_bytes()[:-1])
    message = refusal(folder)
    assert "data_batch_2.bin" in message and "whole records of 3,073" in message


def test_label_outside_the_classes_is_refused(tmp_path):
    folder = helpers.write_binary(tmp_path, "cifar10")
    file = folder / "data_batch_2.bin"
    file.write_bytes(b"\x0a" + file.read_bytes()[1:])
    assert "0..9" in refusal(folder)


class Malicious:
    """Runs a command when unpickled."""

    def __init__(self, marker: Path):
        """Lets the command create `marker`."""
        self.marker = marker

    def __reduce__(self):
        """Asks the unpickler to call `os.mkdir`."""
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_malicious_pickle_is_refused_and_does_nothing(tmp_path, protocol):
    def dump(batch):
        return pickle.dumps({"x": Malicious(tmp_path / "made"), **batch}, protocol=protocol)

    folder = helpers.write_python(tmp_path, "cifar10", dump)
    assert "mkdir" in refusal(folder)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    "data",
    [
        b"cbuiltins\neval\n(U\x011tR.",
        b"cos\nsystem\n.",
        b"(ios\nsystem\n.",  # INST
        b"\x80\x04\x8c\x02os\x8c\x06system\x93.",  # STACK_GLOBAL
        b"\x80\x02\x82\x01.",  # EXT1
        b"Psomething\n.",  # PERSID
        b"cnumpy.core.multiarray\n_reconstruct.__globals__\n.",
        b"cnumpy\nndarray\n.",
        b"",
        b"\x80\x02}",
        pickle.dumps([1, 2]),
        pickle.dumps({"data": np.zeros((2, 3072), np.float64), "labels": [0, 1]}),
        pickle.dumps({"data": np.zeros((2, 3072), np.int8), "labels": [0, 1]}, protocol=2),
        pickle.dumps({"data": np.zeros((2, 3072), np.uint8, "F"), "labels": [0]}, protocol=2),
        pickle.dumps({"data": np.array([None, os.sep], dtype=object), "labels": [0, 1]}),
    ],
)
def test_foreign_pickles_are_refused(data):
    with pytest.raises(unpickle.RefusedPickleError):
        unpickle.read_batch(data)


@pytest.mark.parametrize(
    "change",
    [
        {"labels": None},
        {"labels": 3},
        {"labels": [0]},
        {"labels": [[0], [1]] * 6},
        {"labels": ["a"] * 12},
        {"labels": [-1] * 12},
        {"labels": [0.5] * 12},
        {"data": [1]},
        {"data": np.zeros((12, 3071), np.uint8)},
        {"data": np.zeros((0, 3072), np.uint8), "labels": []},
    ],
)
def test_batch_of_other_content_is_refused(tmp_path, change):
    folder = helpers.write_python(
        tmp_path, "cifar10", lambda batch: helpers.python3_pickle(batch | change)
    )
    assert "data_batch_1" in refusal(folder)
