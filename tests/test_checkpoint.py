"""Checkpoints: whole or noticed, the newest few kept, errors of the disk in words."""

import json
import os
import shutil
import threading
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn.errors import UserError
from jaxcnn.run import manifest
from jaxcnn.run.checkpoint import Checkpoints

STATE = {"value": jnp.zeros(100), "nested": {"step": jnp.int32(0)}}


def _state(step):
    return {"value": jnp.full(100, float(step)), "nested": {"step": jnp.int32(step)}}


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    """A folder with the checkpoints of steps 1 and 2."""
    folder = tmp_path_factory.mktemp("pristine") / "checkpoints"
    checkpoints = Checkpoints(folder, fingerprint="f")
    for step in (1, 2):
        checkpoints.save(step, _state(step))
    checkpoints.wait()
    return folder


@pytest.fixture
def folder(pristine, tmp_path):
    """A copy of it to spoil."""
    return Path(shutil.copytree(pristine, tmp_path / "checkpoints"))


def _restore_newest(folder):
    said = []
    checkpoints = Checkpoints(folder, fingerprint="f")
    newest = checkpoints.latest_valid_step(said.append)
    restored = None if newest is None else (newest, checkpoints.restore(newest, STATE))
    return restored, said


def test_what_is_saved_comes_back_with_its_step(folder):
    (step, state), said = _restore_newest(folder)
    assert (step, said) == (2, [])
    for restored, expected in zip(jax.tree.leaves(state), jax.tree.leaves(_state(2)), strict=True):
        assert restored.dtype == expected.dtype
        np.testing.assert_array_equal(restored, expected)


def test_the_newest_are_kept_and_survive_donated_buffers(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=2)
    bump = jax.jit(lambda x: x + 1, donate_argnums=0)
    value = jnp.zeros(100_000)
    for step in range(5):
        checkpoints.save(step, {"value": value})
        value = bump(value)
    checkpoints.wait()
    assert sorted(int(p.name) for p in (tmp_path / "checkpoints").iterdir()) == [3, 4]
    for step in (3, 4):
        restored = checkpoints.restore(step, {"value": value})
        np.testing.assert_array_equal(restored["value"], np.full(100_000, step, np.float32))


def _files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _truncate(path):
    os.truncate(path, path.stat().st_size // 2)


def _flip_a_bit(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def _flip_the_last_bit(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 128
    path.write_bytes(bytes(data))


def _can_spoil(path, spoil):
    return path.stat().st_size > 0 or spoil is Path.unlink


@pytest.mark.parametrize("spoil", [_truncate, _flip_a_bit, _flip_the_last_bit, Path.unlink])
def test_any_damage_to_any_file_is_noticed_kept_aside_and_the_one_before_is_used(spoil, folder):
    count = 0
    for path in _files(folder / "2"):
        if not _can_spoil(path, spoil):
            continue
        count += 1
        copy = Path(shutil.copytree(folder, folder.parent / str(count)))
        spoil(copy / path.relative_to(folder))
        (step, state), said = _restore_newest(copy)
        assert step == 1, path
        assert int(state["nested"]["step"]) == 1
        assert len(said) == 1 and "step 2 is damaged (" in said[0] and path.name in said[0]
        assert {p.name for p in copy.iterdir()} == {"1", "damaged"}
        lost = spoil is Path.unlink
        assert len(_files(copy / "damaged" / "2")) == len(_files(folder / "2")) - lost
    assert count > 5  # of Orbax's files, and the manifest


def test_without_a_whole_one_there_is_nothing(folder):
    for step in "12":
        (folder / step / manifest.NAME).unlink()
    restored, said = _restore_newest(folder)
    assert restored is None and len(said) == 2
    assert [p.name for p in Checkpoints(folder).damaged()] == ["1", "2"]


def test_one_step_can_be_damaged_twice(folder):
    for _ in range(2):
        (folder / "2" / manifest.NAME).write_text("")
        assert _restore_newest(folder)[0][0] == 1
        checkpoints = Checkpoints(folder, fingerprint="f")
        checkpoints.save(2, _state(2))
        checkpoints.wait()
    assert [p.name for p in Checkpoints(folder).damaged()] == ["2", "2-2"]
    assert _restore_newest(folder)[0][0] == 2


def test_another_configuration_and_another_format_are_refused_and_left_alone(folder):
    with pytest.raises(UserError, match="another configuration"):
        Checkpoints(folder, fingerprint="g").latest_valid_step(print)
    path = folder / "2" / manifest.NAME
    content = json.loads(path.read_text())["content"] | {"format": 99}
    path.write_text(json.dumps({"content_sha256": manifest._digest(content), "content": content}))
    with pytest.raises(UserError, match="has format 99, this version reads format 1"):
        Checkpoints(folder, fingerprint="f").latest_valid_step(print)
    assert {p.name for p in folder.iterdir()} == {"1", "2"}


def test_a_half_written_checkpoint_is_no_checkpoint_and_is_cleaned_up_by_the_next(folder):
    shutil.copytree(folder / "2", folder / ".tmp-3")
    shutil.copytree(folder / "1", folder / ".tmp-old-0")
    (step, _), said = _restore_newest(folder)
    assert (step, said) == (2, [])
    checkpoints = Checkpoints(folder, fingerprint="f")
    assert checkpoints.steps() == [1, 2]
    checkpoints.save(4, _state(4))
    checkpoints.wait()
    assert {p.name for p in folder.iterdir()} == {"2", "4"}


def test_a_failed_write_is_told_at_the_next_call_and_leaves_the_last_whole_one(folder, monkeypatch):
    def full(*arguments):
        raise OSError(28, os.strerror(28))

    checkpoints = Checkpoints(folder, fingerprint="f")
    monkeypatch.setattr(manifest, "write", full)
    checkpoints.save(3, _state(3))
    with pytest.raises(UserError, match="No space left on device.*last whole one is of step 2"):
        checkpoints.save(4, _state(4))
    assert {p.name for p in folder.iterdir()} == {"1", "2"}
    assert _restore_newest(folder)[0][0] == 2


def test_an_error_of_our_own_is_not_called_the_user_s(tmp_path, monkeypatch):
    def wrong(*arguments):
        raise ZeroDivisionError

    checkpoints = Checkpoints(tmp_path)
    monkeypatch.setattr(manifest, "write", wrong)
    checkpoints.save(3, _state(3))
    with pytest.raises(ZeroDivisionError):
        checkpoints.wait()


def test_saving_goes_on_in_the_background(tmp_path, monkeypatch):
    gate, original = threading.Event(), manifest.write
    monkeypatch.setattr(manifest, "write", lambda *a: gate.wait(60) and original(*a))
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.save(1, _state(1))
    assert checkpoints.steps() == []
    gate.set()
    checkpoints.wait()
    assert checkpoints.steps() == [1]
