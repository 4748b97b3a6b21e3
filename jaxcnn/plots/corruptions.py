"""What corruptions cost: a heat map of errors, beside an image under each of them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from jaxcnn.plots import style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_GAP = 2  # pixels between images


def corruptions(
    errors: np.ndarray, clean: float, shown: np.ndarray, names: Sequence[str], title: str
) -> "Figure":
    """Returns the errors, and an image under each corruption.

    Args:
        errors: float [N, S], 0..1, of N corruptions at S severities.
        clean: The error without corruption.
        shown: uint8 [N, S + 1, H, W, C]: an image without corruption, and at each severity.
        names: N names.
        title: Of the figure.
    """
    count, severities = errors.shape
    with style.styled():
        drawn = style.figure(8.8, 1.0 + 0.55 * count, style.literal(title))
        left, right = drawn.subplots(1, 2, width_ratios=[1.25, 1])
        left.imshow(errors, cmap="magma_r", vmin=0, vmax=1, aspect="auto")
        for row in range(count):
            for column in range(severities):
                value = errors[row, column]
                ink = "white" if value > 0.4 else "black"
                text = f"{100 * value:.1f}"
                left.text(column, row, text, ha="center", va="center", color=ink, fontsize=8)
        left.set_xticks(range(severities), range(1, severities + 1))
        left.set_yticks(range(count), [name.replace("_", " ") for name in names])
        left.set_title(f"error, % (without corruption {100 * clean:.1f})")
        left.set_xlabel("severity")

        mosaic = tiled(shown)
        height, width = mosaic.shape[0] / count, mosaic.shape[1] / (severities + 1)
        right.imshow(mosaic if mosaic.shape[-1] == 3 else mosaic[..., 0], cmap="gray",
                     vmin=0, vmax=255, aspect="auto")  # fmt: skip
        centers = (np.arange(severities + 1) + 0.5) * width
        right.set_xticks(centers, ["clean", *range(1, severities + 1)])
        right.set_yticks((np.arange(count) + 0.5) * height, [""] * count)
        right.set_title("the first image")
        right.set_xlabel("severity")
        for axes in (left, right):
            axes.grid(False)
            axes.tick_params(length=0)
            axes.spines[:].set_visible(False)
        return drawn


def tiled(images: np.ndarray) -> np.ndarray:
    """Returns images, uint8 [rows, columns, H, W, C], side by side on white, uint8 [h, w, C]."""
    margins = ((0, 0), (0, 0), (_GAP, _GAP), (_GAP, _GAP), (0, 0))
    padded = np.pad(images, margins, constant_values=255)
    rows, columns, height, width, channels = padded.shape
    return padded.swapaxes(1, 2).reshape(rows * height, columns * width, channels)
