"""scripts/checks/planted_faults.py: every fault can still be planted; a miss is reported."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "scripts" / "checks"))
import planted_faults  # noqa: E402 (a script, not a module of the package)


@pytest.mark.parametrize("name", planted_faults.FAULTS)
def test_the_text_of_a_fault_stands_in_the_code_once(name):
    fault = planted_faults.FAULTS[name]
    text = (ROOT / fault.file).read_text()
    faulty = planted_faults.planted(text, fault)
    assert faulty != text
    compile(faulty, fault.file, "exec")
    assert all((ROOT / test.partition("::")[0]).is_file() for test in fault.tests)


def test_a_text_that_is_gone_is_an_error():
    fault = planted_faults.Fault("a.py", "old", "new", ())
    for text in ("", "old old"):
        with pytest.raises(SystemExit, match="error: a.py has [02] times, not once: old"):
            planted_faults.planted(text, fault)


def test_only_a_failing_test_counts_as_found():
    assert planted_faults.first_failure(0, "3 passed") is None
    output = "...\nFAILED tests/test_a.py::test_b[1] - AssertionError\n1 failed"
    assert planted_faults.first_failure(1, output) == "tests/test_a.py::test_b[1]"
    with pytest.raises(SystemExit, match="ended with code 4"):
        planted_faults.first_failure(4, "ERROR: file or directory not found: tests/none.py")
