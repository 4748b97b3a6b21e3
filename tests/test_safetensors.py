"""Files of named arrays: what is written comes back, and damage is one line."""

import json

import numpy as np
import pytest

from jaxcnn.errors import UserError
from jaxcnn.models import safetensors

ARRAYS = {
    "params/conv/kernel": np.arange(24, dtype=np.float16).reshape(2, 3, 4) / 7,
    "params/conv/bias": np.float32([0.5, -1e30, 1e-30]),
    "step": np.int32(7),
    "empty": np.zeros((0, 3), np.float32),
}


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "weights.safetensors"
    safetensors.write(path, ARRAYS, {"card": '{"network": "lénet"}'})
    return path


def _same(found, expected):
    assert set(found) == set(expected)
    for name, array in expected.items():
        array = np.asarray(array)
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape), name
        assert found[name].tobytes() == array.tobytes(), name


def test_arrays_and_texts_come_back(path):
    arrays, metadata = safetensors.read(path)
    _same(arrays, ARRAYS)
    assert metadata == {"card": '{"network": "lénet"}'}


def test_a_file_without_texts_has_none(tmp_path):
    safetensors.write(tmp_path / "x", {"a": np.ones(2)})
    assert safetensors.read(tmp_path / "x").metadata == {}


def test_the_same_content_gives_the_same_bytes_and_no_other_file(path):
    before = path.read_bytes()
    safetensors.write(path, dict(reversed(ARRAYS.items())), {"card": '{"network": "lénet"}'})
    assert path.read_bytes() == before and list(path.parent.iterdir()) == [path]


def test_an_array_that_does_not_lie_in_order_is_written_in_order(tmp_path):
    view = np.arange(6, dtype=np.float32).reshape(2, 3).T
    safetensors.write(tmp_path / "x", {"a": view, "b": view[::-1, ::2]})
    _same(safetensors.read(tmp_path / "x").arrays, {"a": view, "b": view[::-1, ::2]})


def _header(header: bytes) -> bytes:
    return len(header).to_bytes(8, "little") + header


TOO_LONG = {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:7],
        lambda content: content[:100],
        lambda content: content[:-1],
        lambda content: content + b"x",
        lambda content: b"\xff" * 8 + content[8:],
        lambda content: content[:8] + b"[" + content[9:],
        lambda content: _header(b"\xff{}"),
        lambda content: _header(json.dumps(TOO_LONG).encode()) + b"1234",
        lambda content: b"PK\x03\x04" + content,
    ],
)
def test_a_damaged_file_is_refused_in_one_line(path, damage):
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match="damaged or no safetensors file") as error:
        safetensors.read(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_a_file_that_is_not_there_or_a_folder_is_refused(tmp_path):
    for path in (tmp_path / "none.safetensors", tmp_path):
        with pytest.raises(UserError, match="cannot read .*: name a .safetensors file"):
            safetensors.read(path)


def test_numbers_that_numpy_does_not_have_are_refused_by_name(tmp_path):
    header = {"a": {"dtype": "BF16", "shape": [1], "data_offsets": [0, 2]}}
    (tmp_path / "x").write_bytes(_header(json.dumps(header).encode()) + b"\0\0")
    with pytest.raises(UserError, match="type BF16"):
        safetensors.read(tmp_path / "x")


def test_a_folder_that_cannot_be_written_to_is_one_line_and_leaves_nothing(tmp_path):
    with pytest.raises(UserError, match="cannot write"):
        safetensors.write(tmp_path / "none" / "x", ARRAYS)
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match="cannot write"):
        safetensors.write(tmp_path / "folder", ARRAYS)
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
