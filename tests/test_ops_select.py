"""The table of algorithms: what it selects, that it is complete, and that the page shows it."""

import itertools
import json
import re
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jaxcnn.ops.conv import conditions, onednn, select, xla
from jaxcnn.ops.spec import ConvSpec

ROOT = Path(__file__).parents[1]
MEASUREMENTS = ROOT / "docs/algorithm-measurements.md"
# One character for each convolution of the grid: an index into `plans`.
RECORDED = json.loads((ROOT / "tests/expected/conv_plans.json").read_text())
DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


def grid(values: dict[str, list[int]]) -> Iterator[tuple[ConvSpec, int, int, int]]:
    """Every convolution of the recorded grid, with its batch, channels and features."""
    for kernel, stride, pad, size, channels, features, batch in itertools.product(*values.values()):
        for depthwise in (False, True):
            if depthwise and (channels != features or channels == 1):
                continue
            pads = ((pad, pad), (pad, pad))
            strides = (stride, stride)
            spec = ConvSpec((size, size), (kernel, kernel), strides, pads, depthwise)
            if min(spec.output_size) > 0:
                yield spec, batch, channels, features


def selected(*shape: Any) -> str:
    """All that the table says about a convolution, in a line."""
    plan, phase = select.select(*shape), select.select_phase(*shape)
    return "/".join((*plan, phase, f"{plan.is_joint:d}{plan.is_fused_with_norm:d}"))


@pytest.mark.parametrize("backend", ["xla", "onednn"])
def test_the_table_selects_what_was_recorded(backend: str) -> None:
    """A row that changes on purpose: `python tests/test_ops_select.py` records the grid again."""
    shapes = list(grid(RECORDED["grid"]))
    assert len(shapes) == len(RECORDED[backend])
    for shape, digit in zip(shapes, RECORDED[backend], strict=True):
        expected = RECORDED["plans"][DIGITS.index(digit)]
        assert selected(*shape, backend) == expected, (shape, backend)


def test_every_name_of_the_table_is_an_algorithm_and_every_algorithm_stands_in_it() -> None:
    algorithms = {
        ("forward", *xla.FORWARD, *onednn.FORWARD),
        ("input_grad", *xla.INPUT_GRAD, *onednn.INPUT_GRAD),
        ("kernel_grad", *xla.KERNEL_GRAD, *onednn.KERNEL_GRAD),
    }
    for operation, *names in algorithms:
        rows = [row for table in select.TABLE.values() for row in table[operation]]
        assert {row.algorithm for row in rows} - {select.WITHOUT_ONEDNN} == set(names)


@pytest.mark.parametrize("backend", ["xla", "onednn"])
@pytest.mark.parametrize("operation", ["forward", "input_grad", "kernel_grad"])
def test_every_row_is_reached_and_the_last_takes_the_rest(operation: str, backend: Any) -> None:
    rows = select.TABLE[backend][operation]
    left = [conditions.ConvShape(*shape) for shape in grid(RECORDED["grid"])]
    for row in rows:
        taken = [shape for shape in left if row.when.holds(shape)]
        assert taken, row
        left = [shape for shape in left if not row.when.holds(shape)]
    assert not left


@pytest.mark.parametrize("table", ["rows", "layers"])
def test_the_page_shows_the_table(
    table: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = f"python -m jaxcnn.ops.conv.markdown {table}"
    module, *arguments = command.split()[2:]
    monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setattr(sys, "argv", [module, *arguments])
    runpy.run_module(module, run_name="__main__")
    printed = capsys.readouterr().out
    page = (ROOT / "docs/algorithms.md").read_text()
    assert f"<!-- {command} -->\n{printed}<!-- end -->" in page


def test_every_measurement_that_a_row_points_to_has_its_section() -> None:
    titles = re.findall(r"^## (.*)$", MEASUREMENTS.read_text(), re.MULTILINE)
    anchors = {title.lower().replace(" ", "-") for title in titles} | {""}
    tables = itertools.chain(*(table.values() for table in select.TABLE.values()))
    assert {row.measured for row in itertools.chain(*tables)} <= anchors


def record() -> None:
    """Writes what the table selects now for the recorded grid."""
    shapes = list(grid(RECORDED["grid"]))
    found = {b: [selected(*shape, b) for shape in shapes] for b in ("xla", "onednn")}
    plans = list(dict.fromkeys(itertools.chain(*found.values())))
    digits = {b: "".join(DIGITS[plans.index(p)] for p in found[b]) for b in found}
    report = {"grid": RECORDED["grid"], "plans": plans, **digits}
    (ROOT / "tests/expected/conv_plans.json").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    record()
