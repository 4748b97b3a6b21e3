"""`jaxcnn layers`: the table of a network from a configuration file or a run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def _layers(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "jaxcnn", "layers", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )


def test_the_table_adds_up_to_the_network():
    done = _layers("configs/resnet.py", "--model", "resnet20")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    numbers = []
    for line in lines[2:-2]:
        *_, parameters, flops, memory = line.replace(",", "").split()
        numbers.append((int(parameters), int(flops), int(memory)))
    total = [int(cell.replace(",", "")) for cell in lines[-2].split()[1:]]
    assert [sum(column) for column in zip(*numbers, strict=True)] == total
    assert total[0] == 269_722
    assert lines[1].split()[:3] == ["layer", "kind", "output"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["nowhere.py"], "nowhere.py: there is no such file; the names are densenet, lenet"),
        (["configs"], "configs is no run folder"),
        (["configs/lenet.py", "--image", "32"], "--image=32 is not allowed: HEIGHTxWIDTHxCHANNELS"),
        (["lenet:food101"], "the image shape of food101 is not known here"),
        (["lenet", "--model", "alexnet"], "model.name='alexnet' is unknown"),
    ],
)
def test_a_mistake_ends_in_one_line(arguments, expected):
    done = _layers(*arguments)
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1 and expected in done.stderr
