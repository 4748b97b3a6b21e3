"""docs/how-it-works.md: its pictures and tables are those of today's code."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "jaxcnn"


@pytest.fixture(scope="module")
def scripts():
    """The scripts that draw the pictures and write the tables."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "scripts" / "dev"))
        import drawing
        import reading_order
        import ways
    return ways, reading_order, drawing


def _defines(tree, name):
    """Whether a module or class defines a dotted name."""
    first, _, rest = name.partition(".")
    return any(
        node.name == first and (not rest or _defines(node, rest))
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
    )


def test_every_box_of_the_pictures_names_what_its_file_defines(scripts):
    steps = [step for way in scripts[0].WAYS for _, steps in way.rooms for step in steps]
    missing = [
        f"{step.file}: {step.symbol}"
        for step in steps
        if not (PACKAGE / step.file).is_file()
        or not _defines(ast.parse((PACKAGE / step.file).read_text()), step.symbol)
    ]
    assert not missing, f"adjust scripts/dev/ways.py, then run it: {missing}"


def test_the_pictures_are_those_that_the_script_draws(scripts):
    ways = scripts[0]
    for way in ways.WAYS:
        assert (ways.PICTURES / f"{way.name}.svg").read_text() == ways.draw(way), way.name


def test_a_way_meets_each_room_once_and_boxes_stand_in_their_room(scripts):
    for way in scripts[0].WAYS:
        names = [name for name, _ in way.rooms]
        assert len(set(names)) == len(names)
        for name, steps in way.rooms:
            assert {step.file.split("/")[0].removesuffix(".py") for step in steps} == {name}
            rows = [step.row for step in steps]
            assert rows == sorted(set(rows))


def test_text_fits_its_box(scripts):
    for way in scripts[0].WAYS:
        for _, steps in way.rooms:
            for step in steps:
                assert len(scripts[2].lines(step)) <= 3, step


def test_the_main_path_is_read_in_an_afternoon(scripts):
    order = scripts[1]
    assert len(set(order.MAIN_PATH)) == len(order.MAIN_PATH)
    missing = [file for file in order.MAIN_PATH if not (PACKAGE / file).is_file()]
    assert not missing, f"adjust MAIN_PATH in scripts/dev/reading_order.py: {missing}"
    assert sum(map(order.lines_of, order.MAIN_PATH)) <= order.MOST_LINES


def test_the_page_lists_the_main_path_with_nearly_todays_lines(scripts):
    order = scripts[1]
    rows = re.findall(r"^\| `([\w/]+\.py)` \| (\d+) \|", order.PAGE.read_text(), re.MULTILINE)
    assert [file for file, _ in rows] == list(order.MAIN_PATH)
    stale = [
        file
        for file, lines in rows
        if abs(int(lines) - order.lines_of(file)) > max(10, 0.1 * order.lines_of(file))
    ]
    assert not stale, f"run scripts/dev/reading_order.py: {stale}"
