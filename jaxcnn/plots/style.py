"""How every picture looks, and how it gets on disk whole."""

import contextlib
import io
import logging
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe & Ito's palette, told apart with every common colour blindness
# (https://jfly.uni-koeln.de/color/); its yellow is left out, being too faint for a line on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
LINES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DOTS_PER_INCH = 110

# What each format would tell of the moment and the program, left out.
_METADATA: Any = {
    ".png": {"Software": None},
    ".pdf": {"Creator": None, "Producer": None, "CreationDate": None},
    ".svg": {"Creator": None, "Date": None},
}
SUFFIXES = tuple(_METADATA)
"""Endings of the files that `save` writes; each says the format."""

_SETTINGS: Any = {
    "font.size": 9,
    "font.family": ["DejaVu Sans"],
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "lines.markersize": 3.5,
    "image.interpolation": "nearest",
}


@contextlib.contextmanager
def styled() -> Iterator[None]:
    """While entered, figures look as here, whatever the user's own matplotlibrc says."""
    # Where it keeps its fonts if there is no home is no one's concern.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_SETTINGS)
        yield


def figure(width: float, height: float, title: str = "") -> "Figure":
    """Returns an empty figure of so many inches; `styled` has to be entered."""
    # Not pyplot: it keeps every figure alive and looks for a screen.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    made = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(made)
    if title:
        made.suptitle(title, fontsize=11)
    return made


def literal(text: str) -> str:
    """Returns what draws `text` as it is: between two dollar signs it would be read as a formula.

    For the names of runs and files, which may have any character.
    """
    return text.replace("$", r"\$")


def colour(index: int) -> str:
    """Returns the colour of the series `index`, from 0 on; `line` tells repeated ones apart."""
    return COLOURS[index % len(COLOURS)]


def line(index: int) -> str:
    """Returns the line style of the series `index`: another one for each round of colours."""
    return LINES[index // len(COLOURS) % len(LINES)]


def encode(drawn: "Figure", suffix: str = ".png") -> bytes:
    """Returns the picture as the bytes of a file, the same for the same figure.

    Args:
        drawn: The picture.
        suffix: One of `SUFFIXES`, which says the format.
    """
    import matplotlib

    buffer = io.BytesIO()
    with styled(), warnings.catch_warnings():
        # A name in a script that the font has not; the program's own texts have no such character.
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        matplotlib.rcParams["svg.hashsalt"] = "jaxcnn"
        drawn.savefig(
            buffer, dpi=DOTS_PER_INCH, format=suffix.removeprefix("."), metadata=_METADATA[suffix]
        )
    return buffer.getvalue()


def save(drawn: "Figure", path: Path) -> None:
    """Writes the picture, in the format that the path's suffix says.

    A reader sees the old file or the new one, never a half.

    Raises:
        OSError: If the system refuses, naming `path`.
        KeyError: If the suffix is not in `SUFFIXES`.
    """
    content = encode(drawn, path.suffix.lower())
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    except OSError as error:
        error.filename = str(path)  # not the temporary file, of which nobody knows
        error.filename2 = None
        raise
    finally:
        temporary.unlink(missing_ok=True)
