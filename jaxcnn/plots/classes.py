"""How each class fares: the confusion matrix, and precision, recall and F1."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from jaxcnn.plots import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Up to so many classes every cell has room for its number; of more, only the colours are shown.
_WRITTEN = 20


def confusion(counts: np.ndarray, names: Sequence[str], title: str) -> "Figure":
    """Returns a confusion matrix as counts and as fractions of each true class.

    Args:
        counts: int [K, K]; the row is the true class, the column the predicted one.
        names: K names.
        title: What was classified by what.
    """
    totals = counts.sum(1, keepdims=True)
    share = counts / np.maximum(totals, 1)
    with style.styled():
        drawn = style.figure(10.4, 5.2, title)
        left, right = drawn.subplots(1, 2)
        _matrix(left, counts, share, names, "{:d}", "images")
        _matrix(right, share, share, names, "{:.2f}", "fraction of the true class")
        return drawn


def _matrix(
    axes: "Axes",
    values: np.ndarray,
    shade: np.ndarray,
    names: Sequence[str],
    form: str,
    title: str,
) -> None:
    """Draws one matrix; `shade`, 0..1, gives the colours."""
    axes.imshow(shade, cmap="Blues", vmin=0, vmax=1)
    axes.grid(False)
    axes.set_title(title)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    if len(names) > _WRITTEN:
        return
    places = range(len(names))
    axes.set_xticks(places, names, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(places, names)
    for row in places:
        for column in places:
            text = form.format(values[row, column])
            if text.strip("0.") == "":
                continue  # an empty cell says nought
            ink = "white" if shade[row, column] > 0.55 else "black"
            axes.text(column, row, text, ha="center", va="center", color=ink, fontsize=7)


def per_class(
    precision: np.ndarray, recall: np.ndarray, f1: np.ndarray, names: Sequence[str], title: str
) -> "Figure":
    """Returns a row for each class with its three figures, float [K], 0..1, best F1 on top."""
    order = np.argsort(f1, kind="stable")
    places = np.arange(len(names))
    with style.styled():
        drawn = style.figure(7.0, 1.3 + 0.27 * len(names), title)
        axes = drawn.subplots()
        axes.hlines(places, 0, 1, color="0.9", linewidth=1, zorder=0)
        for index, (label, values) in enumerate(
            (("precision", precision), ("recall", recall), ("F1", f1))
        ):
            axes.plot(
                values[order],
                places,
                linestyle="",
                marker=style.MARKERS[index],
                markersize=6,
                color=style.colour(index),
                label=label,
            )
        axes.set_yticks(places, [names[i] for i in order])
        axes.set_ylim(-0.6, len(names) - 0.4)
        axes.set_xlim(-0.02, 1.02)
        axes.grid(axis="y", visible=False)
        drawn.legend(loc="outside lower center", ncols=3)
        return drawn
