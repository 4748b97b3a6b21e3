"""scripts/bench/gpu.sh and the two scripts that it alone uses."""

import json
import os
import subprocess
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from jaxcnn.commands import outfiles

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "scripts" / "bench"), str(ROOT / "scripts" / "checks")]

import accelerator  # noqa: E402
import calls  # noqa: E402

PARTS = ["checks", "resume", "bench", "calls", "speedrun", "study"]
TINY = [
    "gpu-checks.json", "torture-gpu-lenet.json", "gpu-steps-lenet-16.json", "gpu-calls.json",
    "gpu-speedrun.json", "gpu-study.json",
]  # fmt: skip


def gpu(out, *parts, **environment):
    """Runs the script with a program that fails in place of Python."""
    return subprocess.run(
        ["bash", "scripts/bench/gpu.sh", *parts],
        cwd=ROOT,
        env={**os.environ, "OUT": str(out), "PYTHON": "false", "TINY": "1", **environment},
        capture_output=True,
        text=True,
    )


def test_the_script_is_valid():
    shellcheck = Path(sys.executable).parent / "shellcheck"
    subprocess.run([str(shellcheck), str(ROOT / "scripts" / "bench" / "gpu.sh")], check=True)


def test_a_part_that_there_is_not_is_refused(tmp_path):
    done = gpu(tmp_path, "checks", "bnch")
    assert (done.returncode, done.stdout) == (1, "")  # not even the first is begun
    assert done.stderr.startswith("error: bnch is not a part: setup, checks,")


def test_what_fails_is_named_and_the_rest_is_tried(tmp_path):
    done = gpu(tmp_path, *PARTS)
    assert done.returncode == 1
    assert [line[3:] for line in done.stdout.splitlines()] == PARTS
    assert done.stderr == f"error: not finished: {' '.join(TINY)}; the same command continues\n"


def test_what_has_its_file_is_passed_over(tmp_path):
    for name in TINY:
        (tmp_path / name).touch()
    done = gpu(tmp_path, *PARTS)
    assert (done.returncode, done.stderr) == (0, "")
    (tmp_path / TINY[2]).unlink()
    assert f"not finished: {TINY[2]};" in gpu(tmp_path, *PARTS).stderr


def test_parity_compares_with_the_cpu():
    found = accelerator.parity("lenet", 4)
    assert found["passed"] and found["gradients"] <= 1e-6
    right = accelerator.computed("lenet", 4, accelerator.jax.devices()[0])
    assert right[1].shape == (62_006,) and np.linalg.norm(right[1]) > 0.1
    wrong = (right[0], 1.1 * right[1])
    with mock.patch.object(accelerator, "computed", side_effect=[wrong, right]):
        found = accelerator.parity("lenet", 4)
    assert not found["passed"]
    assert found["gradients"] == pytest.approx(0.1, rel=1e-5)


@pytest.mark.parametrize(
    ("code", "stderr", "passed"),
    [
        (1, "error: not enough memory for train.batch_size=9: ...\n", True),
        (1, "error: train.batch_size=9 is not allowed\nTraceback\n", False),
        (0, "", False),
    ],
)
def test_a_lack_of_memory_has_to_be_one_line(code, stderr, passed):
    done = subprocess.CompletedProcess([], code, "", stderr)
    with mock.patch.object(accelerator.subprocess, "run", return_value=done):
        assert accelerator.too_large(9)["passed"] is passed


def test_the_table_of_calls_has_medians(tmp_path):
    report = {
        "calls": [1, 8],
        "batch_size": 512,
        "dtype": "auto",
        "rounds": 3,
        "device": "a device",
        "machine": "a machine",
        "jax": "0.11.0",
        "images_per_second": {"lenet": {"1": [900.0, 1000.0, 5.0], "8": [1.0, 12_345.0, 99_999.0]}},
    }
    path = tmp_path / "calls.json"
    path.write_text(json.dumps(report))
    text = outfiles.read(path, calls.table)
    assert "| lenet | 900 | 12,345 |" in text and "batch 512" in text
