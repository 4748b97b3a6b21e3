"""How far probabilities can be trusted: accuracy against confidence."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from jaxcnn.plots import style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BinSums = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Of each bin: its predictions, the right ones among them, and the sum of their confidences."""


def reliability(parts: Mapping[str, BinSums], title: str) -> "Figure":
    """Returns a reliability diagram for each name (Guo et al. 2017, arXiv:1706.04599, fig. 1).

    Above, each bin's accuracy, and its distance from the mean confidence; below, the bin's share of
    the predictions.

    Args:
        parts: The sums of each bin, by what was measured; bins of equal width over 0..1.
        title: Of the figure.
    """
    with style.styled():
        drawn = style.figure(4.2 * len(parts), 5.0, style.literal(title))
        grid = drawn.subplots(
            2, len(parts), squeeze=False, sharex=True, sharey="row", height_ratios=[3, 1]
        )
        for (above, below), (name, (counts, correct, confidences)) in zip(
            grid.T, parts.items(), strict=True
        ):
            bins = len(counts)
            centres, width = (np.arange(bins) + 0.5) / bins, 0.92 / bins
            filled = np.maximum(counts, 1)
            accuracy, confidence = correct / filled, confidences / filled
            above.plot([0, 1], [0, 1], color="0.4", linestyle="--", linewidth=1)
            above.bar(centres, accuracy, width, color=style.colour(0), label="accuracy")
            above.bar(
                centres,
                np.abs(confidence - accuracy),
                width,
                bottom=np.minimum(confidence, accuracy),
                fill=False,
                hatch="/////",
                edgecolor=style.colour(1),
                linewidth=0.6,
                label="distance from the mean confidence",
            )
            above.set_title(style.literal(name))
            above.set_xlim(0, 1)
            above.set_ylim(0, 1)
            below.bar(centres, counts / max(1, counts.sum()), width, color="0.6")
            below.set_xlabel("probability of the predicted class")
        grid[0, 0].set_ylabel("accuracy")
        grid[1, 0].set_ylabel("share")
        handles, labels = grid[0, 0].get_legend_handles_labels()
        drawn.legend(handles, labels, loc="outside lower center", ncols=2)
        return drawn
