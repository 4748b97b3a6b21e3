"""`jaxcnn layers`: the table of a network from a configuration file or a run."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def checkout(monkeypatch):
    """The working directory of every test."""
    monkeypatch.chdir(ROOT)


def test_the_table_adds_up_to_the_network(command):
    code, output, errors = command("layers", "configs/resnet.py", "--model", "resnet20")
    assert code == 0, errors
    lines = output.splitlines()
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
def test_a_mistake_ends_in_one_line(arguments, expected, command):
    code, _, errors = command("layers", *arguments)
    assert code == 1
    assert len(errors) == 1 and expected in errors[0]
