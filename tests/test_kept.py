"""Kept measurements: what is the same is measured once, and anything that differs anew."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from conftest import random_dataset

from jaxcnn.models import summary
from jaxcnn.report import earlier_words, gradients, times
from jaxcnn.runtime import environment, kept

VALUE = {"seconds": [0.1 + 0.2, 1e-30], "name": "x"}


@pytest.fixture
def taken(tmp_path):
    """Takes a measurement as a start of its own does: returns (whether it was measured, value)."""

    def take(inputs=("a", 1), kind="times", **options):
        calls = []
        keeper = kept.Keeper(tmp_path / "kept", **options)
        value = keeper.take(kind, {"inputs": list(inputs)}, lambda: calls.append(1) or VALUE)
        assert bool(keeper.found) != bool(calls) and len(calls) <= 1
        return bool(calls), value

    return take


def test_what_is_the_same_is_measured_once(taken):
    assert taken() == (True, VALUE)
    assert taken() == (False, VALUE)  # every bit of every number
    assert taken(anew=True)[0]
    assert not taken()[0]


def test_the_time_of_a_kept_measurement_is_told(taken, tmp_path):
    taken()
    keeper = kept.Keeper(tmp_path / "kept")
    keeper.take("times", {"inputs": ["a", 1]}, pytest.fail)
    ((kind, (time,)),) = keeper.found.items()
    assert kind == "times" and time.endswith("+00:00")
    assert f"times ({time[:10]})" in earlier_words(keeper.found)
    several = {"times": ["2026-02-01T10:00:00+00:00", "2026-01-31T10:00:00+00:00"]}
    assert "times (2026-01-31 to 2026-02-01)" in earlier_words(several)
    assert earlier_words({}) == ""


def test_other_inputs_another_machine_and_another_program_are_measured_anew(taken, monkeypatch):
    taken()
    assert taken(inputs=("a", 2))[0] and taken(kind="norms")[0]
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=/nowhere")
    assert taken()[0]
    monkeypatch.undo()
    described = environment.describe()
    for key, value in {"cpu": "another", "packages": {"jax": "0"}, "onednn": None}.items():
        monkeypatch.setattr(environment, "describe", lambda k=key, v=value: {**described, k: v})
        assert taken()[0], key
    moment = {"started_at": "later", "git_revision": "other"}  # change nothing
    monkeypatch.setattr(environment, "describe", lambda: {**described, **moment})
    assert not taken()[0]
    monkeypatch.setattr(kept, "source_digest", lambda: "0")
    assert taken()[0]


def test_every_change_of_the_source_is_another_program(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    monkeypatch.setattr(kept.jaxcnn, "__file__", str(tmp_path / "__init__.py"))
    seen = set()
    for name, text in (("a/b.py", "x"), ("a/b.py", "y"), ("a/c.py", "y"), ("ab.py", "y")):
        (tmp_path / name).write_text(text)
        seen.add(kept.source_digest.__wrapped__())
    (tmp_path / "a" / "notes.txt").write_text("no source")
    assert len(seen) == 4 and kept.source_digest.__wrapped__() in seen


def test_a_damaged_file_is_noticed_measured_anew_and_mended(taken, tmp_path, caplog):
    taken()
    (path,) = (tmp_path / "kept").iterdir()
    whole = path.read_bytes()
    content = json.loads(whole)
    other = {**content, "content": {**content["content"], "value": {"seconds": [9.0]}}}
    broken = [b"", whole[:-20], b"[]", b"null", b"[" * 100_000, b"\xff" + whole]
    broken += [json.dumps(other).encode(), whole.replace(b"0.3", b"0.4")]
    for damaged in broken:
        assert damaged != whole
        path.write_bytes(damaged)
        caplog.clear()
        with caplog.at_level(logging.WARNING, "jaxcnn"):
            assert taken() == (True, VALUE)
        assert [r.getMessage() for r in caplog.records] == [
            f"measuring again, as {path} is damaged"
        ]
        assert not taken()[0]


def test_a_cache_that_cannot_be_written_costs_time_alone(tmp_path, caplog):
    (tmp_path / "file").touch()
    with caplog.at_level(logging.WARNING, "jaxcnn"):
        keeper = kept.Keeper(tmp_path / "file" / "kept")
        assert keeper.take("times", {}, lambda: VALUE) == VALUE
    assert any("measurements are not kept in" in r.getMessage() for r in caplog.records)
    assert not keeper.found


def test_the_blocks_of_a_report_are_timed_once(tmp_path, monkeypatch):
    timed, steps = [], []

    def block_times(**block):
        timed.append(block)
        return {"separable": 1.0 / len(timed), "standard": 3.0}

    monkeypatch.setattr(times, "_block_times", block_times)
    first = times.of_blocks(kept.Keeper(tmp_path), lambda: steps.append(1))
    assert len(timed) == len(first) == len(steps) == 8
    assert timed[1] == {
        "inputs": [16, 16, 32], "output": [8, 8, 64], "strides": 2, "batch": 128, "repeats": 7
    }  # fmt: skip
    keeper = kept.Keeper(tmp_path)
    assert times.of_blocks(keeper, lambda: None) == first
    assert len(timed) == 8 and len(keeper.found["times of convolutions"]) == 8
    assert times.of_blocks(kept.Keeper(tmp_path), lambda: None, repeats=9) != first


class _Run:
    """A run of LeNet, which has no gradients of its own in the report."""

    class_names, image_shape, model_name = tuple("abcdefghij"), (32, 32, 3), "lenet"

    def __init__(self, dataset):
        """Has been trained on `dataset`."""
        self.dataset = lambda data_dir: dataset
        self.settings = self
        self.pixel_stats = gradients.augment.PixelStats((0.5,) * 3, (0.25,) * 3)


def test_gradients_are_kept_as_long_as_the_images_are_the_same(tmp_path, monkeypatch):
    measured = []

    def norms(network, drawn):
        measured.append(network)
        return [0.5 + len(measured)] * 19

    monkeypatch.setattr(gradients._Network, "initial_norms", norms)
    monkeypatch.setattr(summary, "layers", pytest.fail)  # what is kept is not traced for again
    dataset = random_dataset(size=32)

    def measured_of(run):
        return gradients.of_networks(
            {"a": run}, "", print, kept.Keeper(tmp_path), lambda: None, (20,)
        )

    first = measured_of(_Run(dataset))
    assert len(measured) == 3
    assert measured_of(_Run(dataset)) == first and len(measured) == 3
    images = np.array(dataset.train.images)
    images[0, 0, 0, 0] ^= 1
    changed = dataset._replace(train=dataset.train._replace(images=images))
    assert measured_of(_Run(changed)) != first and len(measured) == 6
    other = _Run(dataset)
    other.pixel_stats = gradients.augment.PixelStats((0.5,) * 3, (0.3,) * 3)
    measured_of(other)
    assert len(measured) == 9


def test_without_a_home_directory_nothing_is_kept_and_no_folder_made(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(kept.compilation_cache, "user_folder", lambda: Path("~"))
    with caplog.at_level(logging.WARNING, "jaxcnn"):
        assert kept.Keeper().take("times", {}, lambda: VALUE) == VALUE
    assert "there is no home directory" in caplog.text and not list(tmp_path.iterdir())


def test_the_default_folder_is_in_the_users_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    keeper = kept.Keeper()
    keeper.take("times", {}, lambda: VALUE)
    (path,) = Path(tmp_path).rglob("*.json")
    assert path.parent == tmp_path / "jaxcnn" / "measurements"
    assert path.parent.stat().st_mode & 0o777 == 0o700
