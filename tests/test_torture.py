"""Whole processes: signals at every stage, a full disk, odd paths, two at once, real kills."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from jaxcnn.run.checkpoint import Checkpoints

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
ARGUMENTS = [
    f"--config={ROOT}/configs/lenet.py:digits",
    "--config.dataset.train_split=train[:640]",
    "--config.train.epochs=4",
    "--config.train.log_every_steps=1",
    "--config.train.eval_batch_size=10",
]
CLOCK = ("seconds", "images_per_second")


# Runs the program with a limit on the size of files: a write beyond it fails with EFBIG, as one on
# a full disk fails with ENOSPC.
LIMITED = """
import resource, runpy
resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))
runpy.run_module("jaxcnn.main", run_name="__main__", alter_sys=True)
"""


def _start(workdir, *arguments, cwd, program=("-m", "jaxcnn.main")):
    return subprocess.Popen(
        [sys.executable, *program, *ARGUMENTS, f"--workdir={workdir}", *arguments],
        cwd=cwd,
        env={**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _finish(workdir, *arguments, **options):
    process = _start(workdir, *arguments, **options)
    output, errors = process.communicate(timeout=600)
    return process.returncode, output, errors


def _bytes(workdir):
    """Returns all that must be equal: arrays and metrics."""
    checkpoints = Checkpoints(workdir / "checkpoints")
    arrays = checkpoints.arrays(checkpoints.latest_step())
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    records = [{k: v for k, v in json.loads(x).items() if k not in CLOCK} for x in lines]
    return {name: array.tobytes() for name, array in arrays.items()}, records


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """The bytes of an undisturbed run."""
    folder = tmp_path_factory.mktemp("reference")
    code, _, errors = _finish("run", cwd=folder)
    assert code == 0, errors
    return _bytes(folder / "run")


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("moment", ["compiling", "training from", "epoch 1", "epoch 3"])
def test_a_signal_ends_with_its_code_and_the_same_command_gives_the_same_bytes(
    moment, signum, reference, tmp_path
):
    with _start("run", cwd=tmp_path) as process:
        for line in process.stdout:
            if line.startswith(moment):
                break
        process.send_signal(signum)
        errors = process.communicate(timeout=600)[1]
    assert process.returncode == 128 + signum, errors
    assert re.search(r"stopped after step \d+; the same command continues", errors)
    assert _finish("run", cwd=tmp_path)[0] == 0
    assert _bytes(tmp_path / "run") == reference


@pytest.mark.parametrize("moment", ["compiling", "training from"])
def test_two_signals_end_at_once_and_lose_nothing_that_was_saved(moment, reference, tmp_path):
    with _start("run", cwd=tmp_path) as process:
        for line in process.stdout:
            if line.startswith(moment):
                break
        process.send_signal(signal.SIGTERM)
        assert process.stderr.readline() == "\n"
        process.send_signal(signal.SIGTERM)
        errors = process.communicate(timeout=60)[1]
    assert process.returncode == 128 + signal.SIGTERM, errors
    assert _finish("run", cwd=tmp_path)[0] == 0
    assert _bytes(tmp_path / "run") == reference


def test_a_full_disk_ends_in_one_line_with_the_last_checkpoint_intact(reference, tmp_path):
    with _start("run", cwd=tmp_path) as process:  # one epoch, before the disk is full
        for line in process.stdout:
            if line.startswith("epoch 2"):
                break
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=600)
    before = Checkpoints(tmp_path / "run" / "checkpoints").latest_step()

    code, _, errors = _finish("run", cwd=tmp_path, program=("-c", LIMITED))
    assert code == 1
    assert errors.startswith("error: cannot write a checkpoint"), errors
    assert len(errors.splitlines()) == 1 and f"last whole one is of step {before}" in errors, errors
    assert Checkpoints(tmp_path / "run" / "checkpoints").latest_step() == before
    assert _finish("run", cwd=tmp_path)[0] == 0
    assert _bytes(tmp_path / "run") == reference


@pytest.mark.parametrize("workdir", ["a b/läuft 火", "absolute"])
def test_odd_paths_work(workdir, reference, tmp_path):
    given = tmp_path / workdir if workdir == "absolute" else workdir
    for _ in range(2):
        code, _, errors = _finish(given, cwd=tmp_path)
        assert code == 0, errors
    assert _bytes(tmp_path / workdir) == reference


def test_of_two_processes_on_one_folder_the_second_is_refused(tmp_path):
    long = "--config.train.epochs=4000"
    with _start("run", long, cwd=tmp_path) as first:
        for line in first.stdout:
            if line.startswith("epoch 1/"):
                break
        code, _, errors = _finish("run", long, cwd=tmp_path)
        first.kill()
    assert code == 1
    assert errors.startswith(f"error: run is in use by process {first.pid} on "), errors
    assert len(errors.splitlines()) == 1


def test_kills_at_every_moment_leave_the_same_bytes_and_a_step_off_does_not(tmp_path):
    arguments = [*ARGUMENTS, "--config.train.checkpoint_minutes=0.005", "--kills=8"]
    command = [sys.executable, "scripts/checks/torture.py", "--name=test", f"--output={tmp_path}"]
    done = subprocess.run([*command, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((tmp_path / "torture-test.json").read_text())
    assert sum(result["kills"].values()) >= 8
    assert all(not run["differing"] for run in result["runs"])
    assert "params" in result["counter_check_differs_in"]
