"""Draws the three ways of docs/how-it-works.md, each a picture of rooms, functions and arrows.

python scripts/dev/ways.py            # writes docs/pictures/way-*.svg

Every box names a file and something that it defines; a test checks that both exist and that the
pictures are those that this script draws.
"""

import html
import textwrap
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
PICTURES = ROOT / "docs" / "pictures"

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


BATCH = Way(
    "way-batch",
    "One batch, from the data to the update",
    (
        (
            "data",
            (
                Step(0, "data/load.py", "load", "Images uint8 [N, H, W, C] and labels in memory."),
                Step(
                    1,
                    "data/batches.py",
                    "shuffled_batches",
                    "Rows int32 [steps, B] of an epoch: a function of (seed, epoch).",
                ),
                Step(
                    3,
                    "data/augment.py",
                    "create_augment",
                    "Crop and mirror, as a pure function that the step is given.",
                ),
            ),
        ),
        (
            "train",
            (
                Step(
                    1,
                    "train/feed.py",
                    "DeviceDataset",
                    "Gathers the rows on the devices: uint8 [B, H, W, C], split over them.",
                ),
                Step(
                    2,
                    "train/programs.py",
                    "Programs.train",
                    "Calls the compiled program; the state's buffers are used again.",
                ),
                Step(
                    3,
                    "train/step.py",
                    "train_step",
                    "Augments, with a key folded from state.step; normalizes.",
                ),
                Step(
                    4,
                    "train/gradients.py",
                    "loss_and_grads",
                    "Mean loss, its gradient, new running statistics.",
                ),
                Step(
                    5,
                    "train/optim.py",
                    "create_optimizer",
                    "Params minus rate times direction, unless something is not finite.",
                ),
            ),
        ),
        (
            "models",
            (
                Step(
                    4,
                    "models/mobilenet.py",
                    "MobileNet",
                    "float32 [B, H, W, C] to logits [B, classes].",
                ),
                Step(5, "models/layers.py", "conv", "Convolution, batch norm, ReLU, classifier."),
            ),
        ),
        (
            "ops",
            (
                Step(
                    5,
                    "ops/conv/api.py",
                    "conv_general_dilated",
                    "The value and both gradients, by the algorithm for shape and platform.",
                ),
            ),
        ),
    ),
    (
        Arrow((0, 1), (1, 1)),
        Arrow((0, 3), (1, 3)),
        Arrow((1, 4), (2, 4), both=True),
        Arrow((2, 5), (3, 5), both=True),
    ),
    frozenset({(0, 3)}),
)

SETTING = Way(
    "way-setting",
    "One setting, from the command line to the step",
    (
        (
            "commands",
            (
                Step(
                    0,
                    "commands/train.py",
                    "run",
                    "jaxcnn train --config mobilenet --optim.peak_lr=0.05",
                ),
                Step(
                    1,
                    "commands/config_flag.py",
                    "parse",
                    "Executes the file of --config, then sets what the command line says.",
                ),
            ),
        ),
        (
            "config",
            (
                Step(
                    1,
                    "config/schema.py",
                    "default_config",
                    "Declares each value once: default, limits, help.",
                ),
                Step(
                    2,
                    "config/schema.py",
                    "validate",
                    "Refuses what is not allowed, naming key, value and limits.",
                ),
                Step(
                    3,
                    "config/settings.py",
                    "resolve",
                    "Decides what was open, adds the facts of the data; frozen from here on.",
                ),
            ),
        ),
        (
            "run",
            (
                Step(
                    3,
                    "run/folder.py",
                    "RunDir.locked",
                    "Writes config.json; refuses a folder of other settings.",
                ),
            ),
        ),
        (
            "train",
            (
                Step(
                    4, "train/fit.py", "fit", "Passes the settings on, whole; opens the run folder."
                ),
                Step(
                    5,
                    "train/programs.py",
                    "Programs",
                    "The last to see the settings: binds plain arguments, applies jit.",
                ),
                Step(
                    6,
                    "train/optim.py",
                    "create_optimizer",
                    "peak_lr becomes the schedule: learning_rate(step).",
                ),
                Step(
                    7,
                    "train/step.py",
                    "train_step",
                    "Takes the rate of state.step and multiplies the direction with it.",
                ),
            ),
        ),
    ),
    (Arrow((0, 1), (1, 1), both=True), Arrow((1, 3), (2, 3)), Arrow((1, 3), (3, 4))),
)

CHECKPOINT = Way(
    "way-checkpoint",
    "One checkpoint, from the disk to the state",
    (
        (
            "run",
            (
                Step(
                    0,
                    "run/folder.py",
                    "RunDir.check",
                    "Is it a folder of these settings? Locked while one process trains.",
                ),
                Step(
                    1,
                    "run/checkpoint.py",
                    "Checkpoints.latest_valid_step",
                    "The newest whole one; a damaged one is set aside.",
                ),
                Step(
                    2,
                    "run/manifest.py",
                    "verify",
                    "All files there, with their checksums, of these settings?",
                ),
                Step(
                    3,
                    "run/checkpoint.py",
                    "Checkpoints.restore_verified",
                    "Orbax reads arrays by name onto the devices of the template.",
                ),
                Step(
                    4,
                    "run/folder.py",
                    "RunDir.truncate_metrics",
                    "Drops lines of epochs that the state has not finished.",
                ),
            ),
        ),
        (
            "train",
            (
                Step(
                    2,
                    "train/programs.py",
                    "Programs",
                    "The template: shapes, dtypes and places of the state.",
                ),
                Step(
                    3,
                    "train/loop.py",
                    "Training.restore",
                    "The TrainState: step, params, batch_stats, opt_state, ema, sums, nonfinite.",
                ),
                Step(
                    4,
                    "train/loop.py",
                    "Training.run_to_end",
                    "Trains the epochs that are missing.",
                ),
                Step(
                    5,
                    "train/loop.py",
                    "Training.epoch",
                    "Goes on in the middle of an epoch: state.step says where.",
                ),
            ),
        ),
        (
            "data",
            (
                Step(
                    5,
                    "data/batches.py",
                    "shuffled_batches",
                    "The epoch's rows again, less those that were trained on.",
                ),
            ),
        ),
    ),
    (
        Arrow((0, 3), (1, 3), both=True),
        Arrow((0, 4), (1, 4), both=True),
        Arrow((2, 5), (1, 5)),
    ),
)

WAYS = (BATCH, SETTING, CHECKPOINT)


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
    for number, line in enumerate(textwrap.wrap(step.text, LETTERS)):
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


def main() -> None:
    """Writes the pictures."""
    for way in WAYS:
        path = PICTURES / f"{way.name}.svg"
        path.write_text(draw(way))
        print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
