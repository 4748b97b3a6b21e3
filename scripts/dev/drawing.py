"""Draws boxes in columns with arrows between them as SVG, with nothing but text; see ways.py."""

import html
import textwrap
from typing import NamedTuple

WIDTH, GAP, MARGIN = 250, 56, 16
HEAD, ROW, BOX, PAD = 40, 116, 96, 12
LETTERS = 33
ROOM, STEP, LINE, TEXT, SOFT = "#eef2f7", "#ffffff", "#3b5b85", "#1b2838", "#51606f"


class Step(NamedTuple):
    """A box.

    Attributes:
        row: Where it stands in its room's column, from 0 on.
        file: The file, from jaxcnn/ on.
        symbol: A function, class or method that it defines.
        text: What happens there, one sentence.
    """

    row: int
    file: str
    symbol: str
    text: str


class Arrow(NamedTuple):
    """An arrow between two boxes, each given by (column, row).

    Attributes:
        source: Where it begins.
        target: Where it ends.
        both: Whether it points back as well: a call whose result is used.
    """

    source: tuple[int, int]
    target: tuple[int, int]
    both: bool = False


class Way(NamedTuple):
    """A picture: for each room its name and its boxes, in columns, and the arrows between rooms.

    Boxes of a room are joined from top to bottom, those that stand in `loose` apart.
    """

    name: str
    title: str
    rooms: tuple[tuple[str, tuple[Step, ...]], ...]
    arrows: tuple[Arrow, ...]
    loose: frozenset[tuple[int, int]] = frozenset()


def lines(step: Step) -> list[str]:
    """Returns a box's text in lines that fit; there is room for three."""
    return textwrap.wrap(step.text, LETTERS)


def _left(column: int) -> int:
    return MARGIN + column * (WIDTH + GAP)


def _top(row: int) -> int:
    return MARGIN + 2 * HEAD + row * ROW


def _text(
    x: int, y: int, text: str, *, size: int = 13, color: str = TEXT, bold: bool = False
) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return (
        f'<text x="{x}" y="{y}" font-size="{size}" fill="{color}"{weight}>'
        f"{html.escape(text)}</text>"
    )


def _rectangle(x: int, y: int, width: int, height: int, fill: str, line: str) -> str:
    return (
        f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="7" fill="{fill}" '
        f'stroke="{line}"/>'
    )


def _box(column: int, step: Step) -> list[str]:
    x, y = _left(column) + PAD, _top(step.row)
    parts = [_rectangle(x, y, WIDTH - 2 * PAD, BOX, STEP, LINE)]
    size = 13 if len(step.symbol) < 26 else 12
    parts.append(_text(x + 9, y + 20, step.symbol, size=size, bold=True))
    parts.append(_text(x + 9, y + 36, step.file, size=11, color=SOFT))
    for number, line in enumerate(lines(step)):
        parts.append(_text(x + 9, y + 54 + 15 * number, line, size=12))
    return parts


def _line(points: list[tuple[int, int]], both: bool = False) -> str:
    path = " ".join(f"{x},{y}" for x, y in points)
    start = ' marker-start="url(#head)"' if both else ""
    return (
        f'<polyline points="{path}" fill="none" stroke="{LINE}" stroke-width="1.6" '
        f'marker-end="url(#head)"{start}/>'
    )


def _arrow(arrow: Arrow) -> str:
    """An arrow from side to side; to another row it goes down in the gap before the target."""
    (a, row_a), (b, row_b) = arrow.source, arrow.target
    right = b > a
    begin = _left(a) + (WIDTH - PAD if right else PAD)
    end = _left(b) + (PAD if right else WIDTH - PAD)
    # Where arrows to several rows leave one box, those further down leave further down.
    y_a = _top(row_a) + BOX // 2 + (18 if row_b > row_a else 0)
    y_b = _top(row_b) + BOX // 2
    gap = (begin if right else end) + PAD + GAP // 2
    middle = [(gap, y_a), (gap, y_b)] if row_a != row_b else []
    return _line([(begin, y_a), *middle, (end, y_b)], arrow.both)


def draw(way: Way) -> str:
    """Returns the picture as SVG."""
    columns = len(way.rooms)
    rows = 1 + max(step.row for _, steps in way.rooms for step in steps)
    width = 2 * MARGIN + columns * WIDTH + (columns - 1) * GAP
    height = _top(rows) - (ROW - BOX) + PAD + MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" font-family="DejaVu Sans, Verdana, sans-serif" role="img">',
        f"<title>{html.escape(way.title)}</title>",
        '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" '
        f'markerHeight="8" orient="auto-start-reverse"><path d="M0,0 L8,4 L0,8 z" fill="{LINE}"/>'
        "</marker></defs>",
        f'<rect width="{width}" height="{height}" fill="white"/>',
        _text(MARGIN, MARGIN + 18, way.title, size=17, bold=True),
    ]
    for column, (name, steps) in enumerate(way.rooms):
        first, last = steps[0].row, steps[-1].row
        top = _top(first) - 32
        bottom = _top(last) + BOX + PAD
        parts.append(_rectangle(_left(column), top, WIDTH, bottom - top, ROOM, "#c5d0de"))
        parts.append(_text(_left(column) + PAD, top + 22, name, size=15, color=LINE, bold=True))
        for step in steps:
            parts += _box(column, step)
        for upper, lower in zip(steps, steps[1:], strict=False):
            if (column, lower.row) not in way.loose:
                x = _left(column) + WIDTH // 2
                parts.append(_line([(x, _top(upper.row) + BOX), (x, _top(lower.row))]))
    parts += map(_arrow, way.arrows)
    return "\n".join([*parts, "</svg>"]) + "\n"
