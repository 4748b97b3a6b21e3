"""scripts/bench/models.py: other people's networks, accelerated and by stock JAX."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "scripts" / "bench"))

import foreign_networks  # noqa: E402
import models  # noqa: E402


def test_a_name_stands_for_one_case():
    assert not set(foreign_networks.CASES) & set(foreign_networks.LAYERS)


@pytest.mark.parametrize(
    "name",
    [
        "groups of 8",
        "dilated, depthwise",
        "transposed, 3 features",
        "DCGAN generator",
        pytest.param("U-Net", marks=pytest.mark.slow),
    ],
)
def test_both_are_measured_and_right(name):
    found = models.measured(name, rounds=2, is_tiny=True)
    assert {len(times) for times in found["step_seconds"].values()} == {2}
    assert all(0 < error < 1e-5 for error in found["error"].values())


def test_the_table_has_medians_and_how_many_times_as_fast():
    found = {
        "first_call_seconds": {"jaxcnn": 2.0, "stock": 1.0},
        "step_seconds": {"jaxcnn": [0.1, 0.2, 9.0], "stock": [0.5, 0.1, 9.0]},
        "error": {"jaxcnn": 1e-7, "stock": 2e-7},
        "input": [8, 16, 3],
        "about": "1-D",
    }
    report = {"networks": {"net": found}, "rounds": 3, "onednn": False}
    report |= {"machine": "a machine", "jax": "0.11.0", "jaxlib": "0.11.0"}
    text = models.table(report)
    assert "| net | 8 x 16 x 3 | 1-D | 0.200 | 0.500 | 2.5 | 2.0 / 1.0 | 1e-07 / 2e-07 |" in text
    assert "oneDNN" not in text and "with oneDNN" in models.table(report | {"onednn": True})
