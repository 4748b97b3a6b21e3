"""scripts/bench/start.py: seconds by stage, as a dry run tells them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from jaxcnn.train import plan

ROOT = Path(__file__).parents[1]


@pytest.fixture
def start(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts" / "bench"))
    import start

    return start


def test_the_line_of_a_dry_run_is_read_as_it_was_meant(start):
    stages = {"imports": 1.5, "training step": 12.0, "initial state": 0.5, "all": 14.2}
    assert start.stages(plan.start(stages)) == stages | {"other": 0.2}


def test_the_table_has_the_first_start_and_medians_of_the_others(start):
    def stages(seconds):
        names = ("imports", "data", "training step", "evaluation", "initial state", "other")
        return dict.fromkeys(names, seconds / 8) | {"all": seconds}

    found = {"first": stages(9.0), "later": [stages(4.0), stages(2.0), stages(3.0)]}
    report = {"networks": {"lenet": {"without": found}}, "dataset": "digits", "rounds": 3}
    text = start.table(report | {"machine": "a machine", "jax": "0.11.0"})
    assert "| lenet | - | - | 9.0 | 3.0 | 0.4 | 0.4 | 0.4 | 0.4 | 0.4 | 0.4 |" in text


@pytest.mark.slow
@pytest.mark.ci
def test_starts_are_measured(tmp_path):
    out = tmp_path / "start.json"
    command = [sys.executable, "scripts/bench/start.py", "--network", "lenet", "--rounds", "1"]
    done = subprocess.run(
        [*command, "--dataset", "digits", "--out", str(out)],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(out.read_text())
    for kind in report["networks"]["lenet"].values():
        # What is compiled for the first start is kept for the second one, but for oneDNN.
        assert all(
            each["all"] > each["training step"] > 0 for each in (kind["first"], *kind["later"])
        )
    without = report["networks"]["lenet"]["without"]
    assert without["later"][0]["training step"] < without["first"]["training step"]
