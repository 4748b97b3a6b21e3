"""Trainings side by side: cores, outcomes, signals; --jobs of `sweep` and `study`."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest
from ml_collections import config_dict

from jaxcnn.commands import training
from jaxcnn.errors import UserError
from jaxcnn.run.files import RunFiles
from jaxcnn.run.observers import Observer
from jaxcnn.runtime import environment
from jaxcnn.runtime.signals import Interrupted
from jaxcnn.study import side_by_side
from jaxcnn.study.jobs import Job

ROOT = Path(__file__).parents[1]
SWEEP = ["sweep", "lenet:digits", "--seeds", "3", "--jobs", "2", "--set", "train.epochs=3"]


@pytest.mark.parametrize(
    ("cores", "count", "expected"),
    [
        ({0, 1}, 2, [{0}, {1}]),
        ({2, 3, 5, 7, 8}, 2, [{2, 3}, {5, 7}]),
        ({0, 1, 2}, 1, [{0, 1, 2}]),
    ],
)
def test_the_cores_are_divided(monkeypatch, cores, count, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: cores)
    assert side_by_side.shares(count) == expected
    assert environment.usable_cores() == len(cores)


def test_more_trainings_than_cores_are_refused(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    with pytest.raises(UserError, match="--jobs=3 is not allowed: .* may use 2 cores, so 1 to 2"):
        training.beside(3)
    assert training.beside(1) is None and training.beside(2).number == 2


def test_an_accelerator_is_not_divided(monkeypatch):
    monkeypatch.setattr(side_by_side.jax, "default_backend", lambda: "gpu")
    with pytest.raises(UserError, match="--jobs=2 is for trainings on the CPU"):
        side_by_side.shares(2)


class _Pool:
    """In place of processes: each training ends at once, with the message of its name."""

    def __init__(self, free, prepare):
        self.free, self.received, self.running, self.most = free, None, {}, 0

    def start(self, job):
        self.running[job.name] = (job, self.free.pop())
        self.most = max(self.most, len(self.running))

    def messages(self):
        name, (job, cores) = next(iter(self.running.items()))
        record = {
            "epoch": 1, "step": 5, "train_loss": 1.0, "train_accuracy": 0.5, "eval_loss": 2.0,
            "eval_accuracy": 0.25, "images_per_second": None, "seconds": 3.0,
        }  # fmt: skip
        yield job, "epoch", (record, 1)
        if name == "stopped":
            self.received = signal.SIGTERM
        else:
            yield job, "outcome", ({"epoch": 1}, "") if name != "wild" else (None, "not finite")
        del self.running[name]
        self.free.append(cores)


def _jobs(folder, *names):
    config = config_dict.ConfigDict({"train": {"epochs": 1}})
    return [Job(name, config, folder / name) for name in names]


def _run(monkeypatch, jobs):
    pools = []
    monkeypatch.setattr(side_by_side, "shares", lambda count: [{core} for core in range(count)])
    # `with` looks for its methods in the class.
    monkeypatch.setattr(_Pool, "__enter__", lambda self: self, raising=False)
    monkeypatch.setattr(_Pool, "__exit__", lambda *_: None, raising=False)
    monkeypatch.setattr(side_by_side, "_Pool", lambda *a: pools.append(_Pool(*a)) or pools[0])
    lines, epochs = [], []
    observer = SimpleNamespace(say=lines.append)
    each_epoch = mock.create_autospec(Observer, instance=True)
    each_epoch.epoch.side_effect = lambda record, total: epochs.append(record["step"])
    beside = side_by_side.Beside(2, training.prepare)
    return side_by_side.run(jobs, beside, observer, each_epoch), lines, epochs, pools


def test_each_training_has_an_outcome_and_finished_ones_are_not_begun(monkeypatch, tmp_path):
    jobs = _jobs(tmp_path, "a", "done", "wild", "b")
    summary = {"epoch": 1, "eval_accuracy": 0.75}
    monkeypatch.setattr(
        RunFiles, "summary", lambda files: summary if files.path.name == "done" else None
    )
    found, lines, epochs, pools = _run(monkeypatch, jobs)
    outcomes = {outcome.job.name: outcome for outcome in found}
    assert list(outcomes) == ["done", "a", "wild", "b"]
    assert outcomes["done"].summary["eval_accuracy"] == 0.75
    assert (outcomes["wild"].summary, outcomes["wild"].failure) == (None, "not finite")
    assert [line.split(":")[0] for line in lines] == ["a", "wild", "b"]
    assert epochs == [5, 5, 5] and pools[0].most == 2 and len(pools[0].free) == 2


def test_after_a_signal_nothing_more_is_begun(monkeypatch, tmp_path):
    found, lines, _, _ = _run(monkeypatch, _jobs(tmp_path, "stopped", "b", "never"))
    with pytest.raises(Interrupted) as stop:
        list(found)
    assert (stop.value.signum, stop.value.step) == (signal.SIGTERM, None)
    assert not any(line.startswith("never") for line in lines)


def _start(folder, *arguments):
    command = [sys.executable, "-m", "jaxcnn", *SWEEP, *arguments, "--out", str(folder)]
    return subprocess.Popen(
        command,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
@pytest.mark.ci
@pytest.mark.skipif(environment.usable_cores() < 2, reason="needs two cores")
def test_processes_are_stopped_and_continued(tmp_path):
    """A signal to the first process ends all; the same command continues, and so after a kill."""
    process = _start(tmp_path / "out")
    for line in process.stdout:
        if ": epoch 1/3" in line:
            process.send_signal(signal.SIGTERM)
            break
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 143
    assert errors.splitlines()[-1] == "stopped; the same command continues"
    assert not (tmp_path / "out" / "seed=2").exists()

    output, errors = _start(tmp_path / "out").communicate(timeout=300)
    report = json.loads((tmp_path / "out" / "sweep.json").read_text())
    assert (report["done"], report["failed"]) == (3, 0), errors
    assert {line.split(":")[0] for line in output.splitlines() if ": epoch 3/3" in line} <= {
        f"seed={seed}" for seed in range(3)
    }
    cores = max(1, environment.usable_cores() // 2)
    starts = json.loads((tmp_path / "out" / "seed=2" / "environment.json").read_text())["starts"]
    assert [start["cpu_count"] for start in starts] == [cores]

    # The same bytes as a sweep that nothing stopped, on as many cores.
    process = _start(tmp_path / "whole")
    process.communicate(timeout=300)
    assert process.returncode == 0
    for seed in range(3):
        stopped, whole = (
            [
                {k: v for k, v in json.loads(line).items() if k not in _CLOCK}
                for line in _lines(tmp_path / name / f"seed={seed}" / "metrics.jsonl")
            ]
            for name in ("out", "whole")
        )
        assert stopped == whole


def _lines(path):
    return path.read_text().splitlines()


_CLOCK = ("seconds", "images_per_second")


@pytest.mark.slow
@pytest.mark.ci
@pytest.mark.skipif(environment.usable_cores() < 2, reason="needs two cores")
def test_a_process_that_is_killed_is_a_failure_of_its_training_alone(tmp_path):
    process = _start(tmp_path, "--set", "train.batch_size=32")
    for line in process.stdout:
        if ": compiling" in line:
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            named = [
                pid
                for pid in children
                if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()
            ]
            os.kill(int(named[0]), signal.SIGKILL)
            break
    process.communicate(timeout=300)
    assert process.returncode == 1
    report = json.loads((tmp_path / "sweep.json").read_text())
    assert (report["done"], report["failed"]) == (3, 1)
    (failure,) = report["points"][0]["failures"]
    assert failure["reason"] == "its process ended with -9"
