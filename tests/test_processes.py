"""Several processes: they agree, stop at the same step, end together, and continue."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxcnn.errors import UserError
from jaxcnn.run.checkpoint import Checkpoints
from jaxcnn.runtime import distributed, launch, launchers, sharding

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "scripts" / "checks"))
import torture  # noqa: E402 (a script, not a module of the package)

COMMAND = [
    *(sys.executable, "-m", "jaxcnn.main", f"--config={ROOT}/configs/lenet.py:digits"),
    *("--config.train.epochs=6", "--config.train.log_every_steps=1"),
]


@pytest.mark.parametrize(
    ("environment", "launcher"),
    [
        ({}, None),
        ({"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "8"}, "Slurm"),
        ({"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1", "SLURM_NTASKS": "1"}, None),
        ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "8"}, None),  # inside salloc, not under srun
        ({"OMPI_COMM_WORLD_SIZE": "2"}, "Open MPI"),
        ({"OMPI_COMM_WORLD_SIZE": "1"}, None),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, "Cloud TPU"),
        ({"TPU_WORKER_HOSTNAMES": "a"}, None),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "0"}, "Kubernetes"),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, None),
    ],
)
def test_a_launcher_of_several_processes_is_recognised(environment, launcher):
    assert launchers.launched_by(environment) == launcher


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("127.0.0.1:1234", None, 0), "--num_processes missing"),
        ((None, 2, None), "--coordinator and --process_id missing"),
        (("127.0.0.1", 2, 0), "--coordinator=127.0.0.1 is not allowed: HOST:PORT"),
        (("127.0.0.1:1234", 2, 2), "--process_id=2 is not allowed: from 0 to 1"),
    ],
)
def test_flags_that_do_not_go_together_are_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        distributed.initialize(*arguments)


def test_a_process_alone_agrees_with_itself_at_once():
    agreement = distributed.SignalSync(sharding.data_mesh())
    after = jax.numpy.int32(0)
    assert [agreement(wish, after) for wish in (0, 15, 0)] == [0, 15, 0]
    assert (
        distributed.broadcast_from_process_0(lambda: 7) == 7
        and distributed.broadcast_from_process_0(lambda: None) == 0
    )


def test_the_launcher_returns_the_first_failure_and_prefixes_the_output():
    program = "import sys; i = int(sys.argv[-1][-1]); print(*sys.argv[1:4], i); sys.exit(i)"
    arguments = ["2", "--", sys.executable, "-c", program, "a", "--", "--b"]
    done = subprocess.run(
        [sys.executable, "-m", "jaxcnn", "launch", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1, done.stderr
    assert sorted(done.stdout.splitlines()) == ["[0] a -- --b 0", "[1] a -- --b 1"]


def _launch(count, workdir, *arguments, devices=1):
    return launch.start(count, [*COMMAND, f"--workdir={workdir}", *arguments], devices)


def _finish(started, timeout=240):
    outputs = [process.communicate(timeout=timeout)[0] for process in started]
    return [process.returncode for process in started], outputs


def _until(process, text):
    """Reads the process's lines until one has `text`."""
    for line in process.stdout:
        if text in line:
            return
    raise AssertionError(f"the process ended without {text!r}")


def _run(count, workdir, devices=1):
    codes, outputs = _finish(_launch(count, workdir, devices=devices))
    assert codes == [0] * count, "\n".join(outputs)
    return outputs


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """A run of 4 processes to its end."""
    folder = tmp_path_factory.mktemp("four") / "run"
    outputs = _run(4, folder)
    for output in outputs[1:]:  # process 0 alone speaks
        lines = [line for line in output.splitlines() if not line.startswith("[Gloo]")]
        assert lines == [], output
    assert sum(line.startswith("epoch ") for line in outputs[0].splitlines()) == 6
    return folder


@pytest.mark.slow
def test_sigterm_on_any_process_saves_on_all_at_the_same_step(uninterrupted, tmp_path):
    started = _launch(4, tmp_path / "run")
    _until(started[0], "epoch 2/6")
    started[2].send_signal(signal.SIGTERM)
    codes, outputs = _finish(started)
    assert codes == [128 + signal.SIGTERM] * 4, "\n".join(outputs)
    stopped = {line for o in outputs for line in o.splitlines() if "stopped after step" in line}
    assert len(stopped) == 1
    step = Checkpoints(tmp_path / "run" / "checkpoints").latest_step()
    assert f"stopped after step {step};" in stopped.pop() and 44 <= step < 132
    _run(4, tmp_path / "run")
    assert torture.summary_of(tmp_path / "run") == torture.summary_of(uninterrupted)


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 3])
def test_a_killed_process_ends_the_others_and_the_same_launch_resumes(
    victim, uninterrupted, tmp_path
):
    started = _launch(4, tmp_path / "run")
    _until(started[0], "epoch 3/6")
    os.kill(started[victim].pid, signal.SIGKILL)
    began = time.monotonic()
    codes, outputs = _finish(started, timeout=60)
    assert time.monotonic() - began < 60
    for index, (code, output) in enumerate(zip(codes, outputs, strict=True)):
        if index == victim:
            assert code == -signal.SIGKILL
        else:
            assert code != 0
            assert "another process of the run has ended" in output or "another task died" in output
    _run(4, tmp_path / "run")
    assert torture.summary_of(tmp_path / "run") == torture.summary_of(uninterrupted)


RESTORE = """
import argparse, hashlib, json, sys
from pathlib import Path
parser = argparse.ArgumentParser()
parser.add_argument("folders", nargs=2, type=Path)
for flag, kind in (("--coordinator", str), ("--num_processes", int), ("--process_id", int)):
    parser.add_argument(flag, type=kind)
o = parser.parse_args()
from jaxcnn.runtime import distributed
distributed.initialize(o.coordinator, o.num_processes, o.process_id)
import jax, jax.numpy as jnp
from jaxcnn.runtime import sharding
from jaxcnn.run.checkpoint import Checkpoints
mesh = sharding.data_mesh()
shapes = {"kernel": (16, 3, 8), "bias": (5,), "momentum": {"kernel": (16, 3, 8), "bias": (5,)}}
leaf = lambda x: isinstance(x, tuple)
shapes = jax.tree.map(lambda s: jax.ShapeDtypeStruct(s, jnp.float32), shapes, is_leaf=leaf)
shardings = jax.tree.map(lambda _: sharding.replicated(mesh), shapes)
shardings["momentum"] = sharding.split_where_possible(shapes["momentum"], mesh)
template = jax.tree.map(
    lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s), shapes, shardings
)
state = Checkpoints(o.folders[0]).restore(1, template)
spec = state["momentum"]["kernel"].sharding.spec
assert ("data" in spec) == (16 % mesh.size == 0) and mesh.size == jax.device_count(), spec
checkpoints = Checkpoints(o.folders[1])
checkpoints.save(1, state)
checkpoints.wait()
"""


@pytest.mark.slow
def test_a_checkpoint_restores_on_any_devices_and_processes_to_the_same_bytes(tmp_path):
    rng = np.random.default_rng(0)
    half = {"kernel": rng.normal(size=(16, 3, 8)), "bias": rng.normal(size=5)}
    half = jax.tree.map(lambda x: jax.numpy.asarray(x, jax.numpy.float32), half)
    checkpoints = Checkpoints(tmp_path / "0")
    checkpoints.save(1, {**half, "momentum": jax.tree.map(lambda x: 2 * x, half)})
    checkpoints.wait()
    for index, (count, devices) in enumerate([(1, 8), (2, 2), (4, 1), (1, 1)]):
        command = [sys.executable, "-c", RESTORE, str(tmp_path / f"{index}")]
        command.append(str(tmp_path / f"{index + 1}"))
        if count == 1:
            environment = launch.environment(0, devices, False)
            subprocess.run(command, env=environment, check=True, timeout=120)
        else:
            codes, outputs = _finish(launch.start(count, command, devices))
            assert codes == [0] * count, "\n".join(outputs)
    first, last = (Checkpoints(tmp_path / name).arrays(1) for name in ("0", "4"))
    assert first.keys() == last.keys() and len(first) == 4
    for name in first:
        assert first[name].tobytes() == last[name].tobytes(), name


@pytest.mark.slow
def test_a_run_goes_on_with_other_devices_and_processes(tmp_path):
    # Rounding (one device may call oneDNN, several do not) grows with the rate: to 2e-3 by the end
    # at 0.002, to 8e-5 at 0.001, to 1.2e-5 at 0.0005; at 0.0003 it stays at 2e-7.
    slow = "--config.optim.peak_lr=0.0003"
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    codes, outputs = _finish(_launch(1, whole, slow))
    assert codes == [0], outputs
    started = _launch(1, stopped, slow)
    _until(started[0], "epoch 2/6")
    started[0].send_signal(signal.SIGTERM)
    assert _finish(started)[0] == [128 + signal.SIGTERM]
    codes, outputs = _finish(_launch(2, stopped, slow, devices=2))
    assert codes == [0, 0] and "continuing after step" in outputs[0], outputs
    lines = [(folder / "metrics.jsonl").read_text().splitlines() for folder in (whole, stopped)]
    losses = [[json.loads(line)["train_loss"] for line in text] for text in lines]
    assert len(losses[0]) == 6
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)
