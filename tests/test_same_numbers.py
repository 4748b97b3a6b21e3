"""scripts/checks/same_numbers.py: two runs are equal only if every array and metric is."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from jaxcnn.run.checkpoint import Checkpoints

ROOT = Path(__file__).parents[1]


@pytest.fixture
def same_numbers(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts" / "checks"))
    import same_numbers

    return same_numbers


def _write_run(folder, kernel, **metrics):
    """A run folder with one array and one epoch."""
    checkpoints = Checkpoints(folder / "checkpoints")
    checkpoints.save(3, {"params": {"kernel": np.asarray(kernel)}})
    checkpoints.wait()
    keys = ("learning_rate", "train_loss", "train_accuracy", "eval_loss", "eval_accuracy")
    record = {"epoch": 1, "step": 3, **dict.fromkeys(keys, 0.5)}
    record |= {"seconds": 1.0, "images_per_second": None, **metrics}
    (folder / "metrics.jsonl").write_text(json.dumps(record) + "\n")
    return folder


KERNEL = np.array([1.0, 2.0], np.float32)


def test_runs_that_differ_in_their_clock_alone_are_equal(same_numbers, tmp_path):
    a = _write_run(tmp_path / "a", KERNEL)
    b = _write_run(tmp_path / "b", KERNEL, seconds=9.0)
    result = same_numbers.compare(a, b)
    assert result == {"equal": True, "arrays": 1, "epochs": 1, "differing": {}}


@pytest.mark.parametrize(
    "kernel, metrics, differing",
    [
        (np.nextafter(KERNEL, 9), {}, {"params/kernel": 2.0**-22}),
        (np.array([1.0, -0.0], np.float32), {}, {"params/kernel": 2.0}),
        (KERNEL[:1], {}, {"params/kernel": None}),
        (KERNEL.astype(np.float16), {}, {"params/kernel": None}),
        (KERNEL, {"train_loss": 0.25}, {"metrics/1/train_loss": [0.5, 0.25]}),
        (KERNEL, {"skipped_steps": 2}, {"metrics/1/skipped_steps": [None, 2]}),
    ],
)
def test_any_other_difference_is_named(same_numbers, tmp_path, kernel, metrics, differing):
    a = _write_run(tmp_path / "a", KERNEL)
    b = _write_run(tmp_path / "b", kernel, **metrics)
    result = same_numbers.compare(a, b)
    assert not result["equal"] and result["differing"] == differing


def test_the_exit_code_tells_equal_from_different(same_numbers, tmp_path, monkeypatch):
    a = _write_run(tmp_path / "a", KERNEL)
    b = _write_run(tmp_path / "b", KERNEL + 1)
    for other, code in ((a, 0), (b, 1)):
        monkeypatch.setattr(sys, "argv", ["same_numbers.py", "compare", str(a), str(other)])
        assert same_numbers.main() == code
