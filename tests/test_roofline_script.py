"""scripts/bench/roofline.py: the work of a step, and the limit that it is measured by."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def roofline(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts" / "bench"))
    import roofline

    return roofline


def test_lenet_s_convolutions_are_counted_three_times_but_for_the_first_gradient(roofline):
    # 28 x 28 x 6 outputs of 5 x 5 x 3, then 10 x 10 x 16 of 5 x 5 x 6: nothing is saved on them.
    first, second = 28 * 28 * 6 * 75, 10 * 10 * 16 * 150
    work = roofline.of_network("lenet", batch=8)
    assert [each.products for each in work] == [8 * n for n in (*[first] * 2, *[second] * 3)]
    # Images and result of the first; there are no norms.
    assert work[0].moved == 4 * 8 * (32 * 32 * 3 + 28 * 28 * 6)


def test_winograd_saves_three_quarters_and_norms_are_read_twice(roofline):
    work = roofline.of_network("resnet18", batch=128)
    products = [each.products for each in work if each.products]
    # The second layer, 64 channels of 32x32 pixels, after two of the first.
    direct = 128 * 32 * 32 * 64 * 9 * 64
    assert products[2] == direct / 4
    norms = [each.moved for each in work if not each.products]
    assert norms[:2] == [128 * 32 * 32 * 64 * 4] * 2 and len(norms) == 2 * 20


def test_the_limit_is_the_sum_of_the_longer_times(roofline):
    found = {
        "work": [(10.0, 4.0), (1.0, 40.0), (0, 20.0)],
        "per_second": {"products": [5.0], "bytes": [9.0, 10.0, 11.0]},
        "step_seconds": [10.0, 16.0, 99.0],
    }
    assert roofline.limit(found) == (2.0 + 4.0 + 2.0, 11 / 5)
    report = {"networks": {"net": found}, "rounds": 3, "onednn": False}
    text = roofline.table(report | {"machine": "a machine", "jax": "0.11.0"})
    assert "| 8,000.0 | 28% | 16,000.0 | 50% |" in text


@pytest.mark.slow
@pytest.mark.ci
def test_a_network_is_measured(tmp_path):
    out = tmp_path / "roofline.json"
    command = [sys.executable, "scripts/bench/roofline.py", "--network", "lenet", "--rounds", "1"]
    done = subprocess.run([*command, "--out", str(out)], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())["networks"]["lenet"]
    assert all(len(speeds) == 1 and speeds[0] > 1e8 for speeds in found["per_second"].values())
    assert "| lenet |" in done.stdout
