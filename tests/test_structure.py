"""scripts/checks/structure.py: the counts are right, and those of this project do not grow."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MOST = {
    "top_entries": 20,
    "module_cycles": 0,
    "room_cycles": 0,
    "test_levels": 10,
    "many_parameters": 7,
    "longest_function": 72,
    "timing_lines": 0,
}


@pytest.fixture(scope="module")
def structure():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "scripts" / "checks"))
        import structure
    return structure


def _package(root, **files):
    """A checkout whose package has these files; `a__b` stands for a/b.py."""
    for name, text in {"__init__": "", **files}.items():
        path = root / "jaxcnn" / f"{name.replace('__', '/') if name != '__init__' else name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        (path.parent / "__init__.py").touch()
    return root


def test_the_counts_of_this_project_do_not_grow(structure):
    today = structure.count(ROOT)
    assert {key: today[key] for key, most in MOST.items() if today[key] > most} == {}


def test_imports_are_counted_by_module_and_by_room(structure, tmp_path):
    root = _package(
        tmp_path,
        low="",
        middle__one="from jaxcnn import low\nfrom jaxcnn.low import name\n",
        middle__two="import jaxcnn.low\nfrom jaxcnn.middle import one\n",
        high="def f():\n    from jaxcnn.middle.two import g\n",
    )
    count = structure.count(root)
    # high -> two -> one -> low; rooms: high -> middle -> low.
    assert (count["module_edges"], count["import_depth"]) == (4, 4)
    assert (count["room_edges"], count["room_depth"]) == (2, 3)
    assert count["top_entries"] == 4  # __init__.py, low.py, middle/, high.py
    assert count["module_cycles"] == count["room_cycles"] == 0


def test_a_cycle_is_found_even_where_modules_have_none(structure, tmp_path):
    root = _package(
        tmp_path,
        a__one="from jaxcnn.b import one\n",
        a__two="",
        b__one="from jaxcnn.a import two\n",
    )
    count = structure.count(root)
    assert (count["module_cycles"], count["room_cycles"]) == (0, 1)
    assert count["room_depth"] is None


def test_functions_are_measured_with_nested_and_keyword_parameters(structure, tmp_path):
    text = "class C:\n    def f(self, a, b=1, *, c, d, e, f, g, h):\n        def g(): pass\n"
    count = structure.count(_package(tmp_path, a=text))
    assert (count["functions"], count["many_parameters"], count["most_parameters"]) == (2, 1, 8)
    assert (count["longest_function"], count["longest_function_at"]) == (2, "jaxcnn/a.py:2")


@pytest.mark.parametrize(
    "line",
    [
        "# It takes 1.3 s.",
        "# 32x32: 28.4, 27.3 and 28.0 ms",
        "# 0.94 times as long",
        "# 110 against 219",
        "# 2,285 images/s",
        "# a tenth (medians of 7)",
        '"""One line.\n\nTakes twice as long\n(2 cores of an EPYC).\n"""',
    ],
)
def test_measurements_are_found_in_comments_and_docstrings(structure, tmp_path, line):
    lines = structure.timings(_package(tmp_path, a=line + "\n"))
    assert len(lines) == (2 if '"""' in line else 1)


@pytest.mark.parametrize(
    "line",
    [
        "# 4 MB: tiles stay in the last-level cache",
        "# Asks every 10 s, answers within 45 s.",
        '"""Returns `5 of 170 MB, 0.06 MB/s`."""',
        "x = '1.3 s'",
        "# float32 [32, 32, 64]; 3 times",
    ],
)
def test_reasons_limits_and_examples_are_no_measurements(structure, tmp_path, line):
    assert structure.timings(_package(tmp_path, a=line + "\n")) == []


def test_the_script_prints_a_column_for_each_checkout(tmp_path):
    out, root = tmp_path / "structure.json", _package(tmp_path, a="def f(): pass\n")
    command = [sys.executable, "scripts/checks/structure.py", root, root, "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "| module cycles | 0 | 0 |" in done.stdout and out.exists()
