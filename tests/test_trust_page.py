"""docs/trust.md: its tables are those of the files in docs/results."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_the_tables_of_the_page_are_those_that_the_results_give():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "scripts" / "dev"))
        import trust
    text = (ROOT / "docs" / "trust.md").read_text()
    assert trust.page() == text
    assert "| gaussian noise |" in text and "| with the temperature |" in text
