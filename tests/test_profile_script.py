"""scripts/bench/profile_step.py: which operation a moment counts for."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def profile_step(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts" / "bench"))
    import profile_step

    return profile_step


def test_a_moment_counts_for_the_longest_operation_or_the_one_that_began_last(profile_step):
    events = [(1.0, 4.0, "long"), (2.0, 3.0, "short"), (6.0, 6.5, "launch")]
    spent: dict[str, float] = {}
    for name, seconds in profile_step.moments(events, 0.0, 9.0):
        spent[name] = spent.get(name, 0.0) + seconds
    # From 4 to 6 nothing is seen: what runs then was begun by the last to begin, "short".
    assert spent == {"": 1.0, "long": 3.0, "short": 2.0, "launch": 3.0}


def test_the_step_is_the_program_with_the_most_operations_however_long_another_took(profile_step):
    def program(begin, end, count):
        span = (end - begin) / count
        inside = [(begin + span * i, begin + span * (i + 0.5), "dot") for i in range(count)]
        return [(begin, end, profile_step._PROGRAM), (begin, end, "while.1"), *inside]

    # Steps of 3, 1 and 2 seconds; one that hands arguments over was held up for 50.
    events = program(0, 50, 2) + program(50, 53, 30) + program(53, 54, 30) + program(54, 56, 30)
    begin, end, inside = profile_step.median_step(events)
    assert (begin, end) == (54, 56)
    assert {e[2] for e in inside} == {"dot"}
    assert len(inside) == 30


@pytest.mark.slow
@pytest.mark.ci
def test_the_kinds_of_a_step_add_up_to_it(tmp_path):
    out = tmp_path / "profile.json"
    command = [sys.executable, "scripts/bench/profile_step.py", "--network", "lenet"]
    done = subprocess.run(
        [*command, "--batch_size", "8", "--out", str(out)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )
    assert done.returncode == 0, done.stderr
    (report,) = json.loads(out.read_text())
    assert sum(report["seconds"].values()) == pytest.approx(report["step_seconds"])
    assert report["operations"] > 20
    assert "| lenet |" in done.stdout
