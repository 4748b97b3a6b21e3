"""Files of torch.save: read without executing anything, written so that they are read."""

import collections
import io
import os
import pickle
import struct
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcnn.errors import UserError
from jaxcnn.exchange import torch_file, torch_pickle
from jaxcnn.exchange.torch_values import RefusedPickleError

ARRAYS = {
    "conv.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2),
    "bn.num_batches_tracked": np.array(7, np.int64),
    "half": np.array([0.5, -2], np.float16),
    "empty": np.zeros((0, 3), np.float32),
}


def zipped(path, content, storages=(), compression=zipfile.ZIP_STORED, root="archive"):
    """Writes a file as torch.save does, from a pickle and the bytes of its storages."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr(f"{root}/data.pkl", content)
        for key, data in enumerate(storages):
            archive.writestr(f"{root}/data/{key}", data)
    return path


class _Pickler(pickle._Pickler):
    """Python's own pickler, in which names of modules that are not there can be written."""

    def save_global(self, obj, name=None):
        if isinstance(obj, type) and hasattr(obj, "named"):
            self.write(f"c{obj.named}\n".replace(" ", "\n").encode())
            return
        super().save_global(obj, name)

    dispatch = {**pickle._Pickler.dispatch, type: save_global}

    def persistent_id(self, obj):
        return obj.id if isinstance(obj, _Storage) else None


def _named(name):
    return type("Named", (), {"named": name})


class _Storage:
    """A storage as PyTorch's pickler writes it."""

    def __init__(self, kind, key, count):
        self.id = ("storage", _named(f"torch {kind}"), key, "cuda:0", count)


class _Called:
    """An object that is pickled as a call of `function`."""

    def __init__(self, function, *arguments):
        self.reduced = (function, arguments)

    def __reduce__(self):
        return self.reduced


def pickled(content, protocol=2):
    file = io.BytesIO()
    _Pickler(file, protocol).dump(content)
    return file.getvalue()


def _tensor(kind, count, shape, strides, offset=0, key="0"):
    """A tensor as PyTorch's pickler writes it."""
    return _Called(_rebuild, _Storage(kind, key, count), offset, shape, strides, False, {})


def _rebuild(*arguments):
    """Stands for PyTorch's function; `pickled` writes that one's name."""


_rebuild.__module__, _rebuild.__qualname__ = "torch._utils", "_rebuild_tensor_v2"


@pytest.fixture(autouse=True)
def torch_names(monkeypatch):
    """Python's pickler looks the names up that it writes."""
    for name in ("torch", "torch._utils"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    sys.modules["torch._utils"]._rebuild_tensor_v2 = _rebuild


def test_what_is_written_is_read(tmp_path):
    path = tmp_path / "net.pt"
    torch_file.write(path, ARRAYS)
    found = torch_file.read(path)
    assert list(found) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        assert found[name].tobytes() == array.tobytes()


def test_the_same_arrays_give_the_same_bytes_and_storages_are_aligned(tmp_path):
    paths = tmp_path / "a.pt", tmp_path / "b.pt"
    for path in paths:
        torch_file.write(path, ARRAYS)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    with zipfile.ZipFile(paths[0]) as archive:
        assert archive.testzip() is None
        for entry in archive.infolist():
            head = paths[0].read_bytes()[entry.header_offset :][:30]
            name, extra = struct.unpack("<HH", head[26:30])
            assert (entry.header_offset + 30 + name + extra) % 64 == 0


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("key", ["", "state_dict", "model", "net"])
def test_a_state_dict_is_found_with_or_without_a_wrapper(tmp_path, key, protocol):
    state = collections.OrderedDict(
        (f"module.{name}", _tensor("FloatStorage", 6, (2, 3), (3, 1))) for name in ("a", "b.c")
    )
    state._metadata = collections.OrderedDict(version=1)
    content = {
        "model": "a name",
        key: state,
        "acc": 93.5,
        "epoch": 200,
        "optimizer": {0: [None, True]},
    }
    numbers = np.arange(6, dtype="<f4")
    path = zipped(
        tmp_path / "c.pth", pickled(content if key else state, protocol), [numbers.tobytes()]
    )
    found = torch_file.read(path)
    assert list(found) == ["a", "b.c"]
    np.testing.assert_array_equal(found["b.c"], numbers.reshape(2, 3))


def test_views_are_read_as_pytorch_shows_them(tmp_path):
    numbers = np.arange(12, dtype="<f8")
    state = {
        "transposed": _tensor("DoubleStorage", 12, (4, 3), (1, 4)),
        "part": _tensor("DoubleStorage", 12, (2, 2), (3, 1), offset=4),
        "number": _tensor("DoubleStorage", 12, (), (), offset=11),
    }
    found = torch_file.read(zipped(tmp_path / "v.pt", pickled(state), [numbers.tobytes()]))
    np.testing.assert_array_equal(found["transposed"], numbers.reshape(3, 4).T)
    np.testing.assert_array_equal(found["part"], [[4, 5], [7, 8]])
    assert found["number"] == 11


def test_bfloat16_is_the_upper_half_of_a_float32(tmp_path):
    values = np.array([1.5, -2.0, 3.140625], np.float32)
    halves = (values.view(np.uint32) >> 16).astype("<u2")
    state = {"b": _tensor("BFloat16Storage", 3, (3,), (1,))}
    found = torch_file.read(zipped(tmp_path / "b.pt", pickled(state), [halves.tobytes()]))
    assert found["b"].dtype == np.float32
    np.testing.assert_array_equal(found["b"], values)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (_Called(os.system, f"touch {os.devnull}"), "posix.system"),
        (_Called(eval, "1"), "(builtins|__builtin__).eval"),
        ({"a": _Called(collections.Counter, "ab")}, "collections.Counter"),
        ({"a": _Called(collections.OrderedDict), "b": Path("x")}, "pathlib"),
        (np.float64(3), "numpy"),
    ],
)
@pytest.mark.parametrize("protocol", [2, 4])
def test_what_is_no_tensor_is_refused_by_name_and_not_called(tmp_path, content, named, protocol):
    path = zipped(tmp_path / "x.pt", pickle.dumps(content, protocol))
    with pytest.raises(UserError, match=rf"x\.pt is not read, it asks for {named}.*, which no"):
        torch_file.read(path)


def test_a_payload_leaves_no_trace(tmp_path):
    trace = tmp_path / "trace"
    state = {"a": _tensor("FloatStorage", 1, (1,), (1,)), "b": _Called(os.mkdir, str(trace))}
    content = pickled(state)
    with pytest.raises(UserError, match="asks for posix.mkdir"):
        torch_file.read(zipped(tmp_path / "x.pt", content, [b"\0" * 4]))
    assert not trace.exists()
    assert pickle.loads(pickle.dumps(state["b"])) is None and trace.exists()  # it would have


@pytest.mark.parametrize(
    ("tensor", "fault"),
    [
        (("FloatStorage", 6, (7,), (1,)), "reaches beyond"),
        (("FloatStorage", 6, (2, 3), (4, 1)), "reaches beyond"),
        (("FloatStorage", 6, (2,), (1,), 5), "reaches beyond"),
        (("FloatStorage", 6, (2, 3), (3,)), "reaches beyond"),
        (("FloatStorage", 6, (9, 9), (0, 0)), "reaches beyond"),
        (("FloatStorage", 6, (2,), (-1,), 5), "a size or place of -1"),
        (("FloatStorage", 5, (1,), (1,)), "24 bytes in place of 20"),
        (("FloatStorage", 6, (1,), (1,), 0, "../../x"), "data/../../x is missing"),
        (("DoubleStorage", 6, (1,), (1,)), "24 bytes in place of 48"),
    ],
)
def test_a_tensor_outside_of_its_storage_is_refused(tmp_path, tensor, fault):
    path = zipped(tmp_path / "x.pt", pickled({"a": _tensor(*tensor)}), [b"\0" * 24])
    with pytest.raises(UserError, match=fault):
        torch_file.read(path)


def _compressed(path):
    return zipped(path, b"\x80\x02}.", compression=zipfile.ZIP_DEFLATED)


def _two_roots(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", b"}.")
        archive.writestr("b/data.pkl", b"}.")
    return path


def _script(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", b"}.")
        archive.writestr("a/code/net.py", b"")
    return path


def _overlapping(path):
    """Ten names of the same 1,000 bytes."""
    zipped(path, b"}.", [b"\0" * 1000])
    content = path.read_bytes()
    directory = content.rindex(b"PK\x01\x02")
    entry, end = content[directory : content.rindex(b"PK\x05\x06")], content[-22:]
    names = [entry[:-1] + bytes([digit]) for digit in b"0123456789"]
    count, size = 11, len(names) * len(entry) + directory - content.index(b"PK\x01\x02")
    end = end[:8] + struct.pack("<HHI", count, count, size) + end[16:]
    path.write_bytes(content[:directory] + b"".join(names) + end)
    return path


@pytest.mark.parametrize(
    ("make", "fault"),
    [
        (_compressed, "is compressed"),
        (_two_roots, "2 entries data.pkl in place of one"),
        (_script, "it is a TorchScript program"),
        (_overlapping, "its entries overlap"),
        (lambda path: path.write_bytes(b"\x80\x02}."), "the format of PyTorch before 1.6"),
        (lambda path: path.write_bytes(b"MZ"), "it is no file of torch.save"),
        (lambda path: path.write_bytes(b""), "it is no file of torch.save"),
        (lambda path: path.mkdir(), "Is a directory"),
        (lambda path: None, "No such file"),
        (lambda path: zipped(path, pickled([1])), "it holds a list, no state dict"),
        (lambda path: zipped(path, pickled({"x": 1})), "beside tensors it holds x"),
        (lambda path: zipped(path, b"\x80\x02}"), "its pickle is damaged"),
        (lambda path: zipped(path, b"\x80\x02R."), "its pickle is damaged"),
        (lambda path: zipped(path, b"\x80\x02cos\nsystem\n."), "asks for os.system"),
        (lambda path: zipped(path, b"\x80\x02I1\n."), "the instruction INT"),
        (lambda path: zipped(path, b"\x80\x02}q\x01)sh\x01."), "its pickle"),
        (lambda path: zipped(path, b"\x80\x02}))s."), "a tuple where a str belongs"),
    ],
)
def test_anything_else_is_refused_in_a_line(tmp_path, make, fault):
    path = tmp_path / "x.pt"
    make(path)
    with pytest.raises(UserError, match=fault) as caught:
        torch_file.read(path)
    assert "\n" not in str(caught.value) and "x.pt" in str(caught.value)


def test_sizes_are_bounded(tmp_path, monkeypatch):
    path = zipped(tmp_path / "x.pt", b"\x80\x02}.")
    for owner, name in (
        (torch_file, "LARGEST"), (torch_file, "MOST_ENTRIES"), (torch_pickle, "LARGEST")
    ):  # fmt: skip
        with monkeypatch.context() as patch, pytest.raises(UserError, match="at most 0"):
            patch.setattr(owner, name, 0)
            torch_file.read(path)


def test_a_memo_of_a_far_place_takes_no_memory():
    # Python's own reader makes room for all places before: 32 GB.
    assert torch_pickle.load(b"\x80\x02}r\xff\xff\xff\x7f.") == {}


@settings(deadline=None, max_examples=200)
@given(data=st.data())
def test_a_damaged_file_is_read_or_refused(data, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "damaged.pt"
    torch_file.write(path, ARRAYS)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        torch_file.read(path)
    except UserError as error:
        assert "\n" not in str(error)


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=60))
def test_any_pickle_is_read_or_refused(content):
    try:
        torch_pickle.load(b"\x80\x02" + content + b".")
    except RefusedPickleError as error:
        assert "\n" not in str(error)
