"""scripts/dev/collect.py: the pages that it writes are those in the documentation."""

from pathlib import Path

import pytest

from jaxcnn.errors import UserError

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results"


@pytest.fixture
def collect(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts" / "dev"))
    import collect

    return collect


def test_the_readme_has_the_table_of_the_results(collect):
    speeds = collect.speeds(sorted(RESULTS.glob("cpu-steps-*.json")))
    results = collect.json.loads((RESULTS / "cifar10.json").read_text())
    assert collect.table(results, speeds) in (ROOT / "README.md").read_text()


def test_the_page_of_results_is_the_one_that_the_files_give(collect):
    assert collect.page(RESULTS) == (ROOT / "docs" / "results.md").read_text()


def test_a_difference_between_versions_stands_out_on_the_page(collect):
    equal = {"equal": True, "arrays": 3, "epochs": 2, "differing": {}, "from_step": 7}
    other = {**equal, "equal": False, "differing": {"params/kernel": 0.5}}
    case = {"case": "a", "devices": 1, "from_the_start": equal, "continued": other}
    text = collect.same_numbers(
        {"base": "b", "here": "h", "machine": "m", "jax": "0", "cases": [case]}
    )
    assert "| a | 1 | equal, of 3 arrays and 2 epochs | **1 differ** of 3" in text


def test_a_file_that_no_script_writes_is_refused(collect):
    with pytest.raises(UserError, match="stray.json"):
        collect.index([Path("stray.json")])
