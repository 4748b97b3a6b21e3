"""Images: predictions with their probabilities, rows of pictures, the filters of a first layer."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from jaxcnn.plots import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class Prediction(NamedTuple):
    """An image with what a network says of it.

    Attributes:
        image: uint8 [H, W, C], 0..255.
        probabilities: float [K].
        label: The true class, or None where nobody knows it.
        caption: A line above the image; the true class where it is empty.
    """

    image: np.ndarray
    probabilities: np.ndarray
    label: int | None = None
    caption: str = ""


def predictions(items: Sequence[Prediction], names: Sequence[str], title: str) -> "Figure":
    """Returns a grid: each image, its true class and the bars of the three likeliest classes."""
    columns = min(4, max(1, len(items)))
    lines = max(1, -(-len(items) // columns))
    with style.styled():
        drawn = style.figure(2.55 * columns, 0.45 + 1.25 * lines, title)
        grid = drawn.subplots(lines, 2 * columns, squeeze=False, width_ratios=[1, 1.35] * columns)
        cells = [(grid[i // columns, 2 * (i % columns)], grid[i // columns, 2 * (i % columns) + 1])
                 for i in range(lines * columns)]  # fmt: skip
        for picture, bars in cells[len(items) :]:
            picture.axis("off")
            bars.axis("off")
        for (picture, bars), item in zip(cells, items, strict=False):
            _show(picture, item.image)
            known = "" if item.label is None else names[item.label]
            picture.set_title(style.literal(item.caption or known), fontsize=8)
            _bars(bars, item, names)
        return drawn


def _bars(axes: "Axes", item: Prediction, names: Sequence[str]) -> None:
    """Draws the three likeliest classes; the true one is blue, a wrong one orange."""
    top = np.argsort(-item.probabilities, kind="stable")[:3][::-1]
    right, wrong, other = style.COLOURS[0], style.COLOURS[1], "0.6"
    colours = [other] * len(top)
    colours[-1] = other if item.label is None else wrong
    for place, index in enumerate(top):
        if index == item.label:
            colours[place] = right
    axes.barh(range(len(top)), item.probabilities[top], color=colours, alpha=0.5, height=0.85)
    axes.set_xlim(0, 1)
    axes.axis("off")
    for place, index in enumerate(top):
        text = f"{names[index]}: {100 * item.probabilities[index]:.0f} %"
        axes.text(0.02, place, text, va="center", fontsize=7)


def rows(pictures: Mapping[str, np.ndarray], title: str) -> "Figure":
    """Returns one row of images for each name; uint8 [N, H, W, C] or float 0..1."""
    columns = max(len(images) for images in pictures.values())
    with style.styled():
        drawn = style.figure(9.0, 0.5 + 0.95 * len(pictures) * 8 / columns, title)
        grid = drawn.subplots(len(pictures), columns, squeeze=False)
        for line, (name, images) in zip(grid, pictures.items(), strict=True):
            for axes in line:
                axes.axis("off")
            for axes, image in zip(line, images, strict=False):
                _show(axes, image)
            line[0].set_title(name, fontsize=8, loc="left")
        return drawn


def filters(kernel: np.ndarray, title: str) -> "Figure":
    """Returns the filters of a first layer, float [h, w, C, F], at most 64 of them.

    Each is scaled by its own largest weight: grey is 0. Three channels are shown as red, green and
    blue, any other number as their mean.
    """
    kernel = kernel[..., :64].astype(np.float32)
    if kernel.shape[2] != 3:
        kernel = kernel.mean(2, keepdims=True)
    peak = np.maximum(np.abs(kernel).max((0, 1, 2), keepdims=True), 1e-12)
    images = np.moveaxis(0.5 + 0.5 * kernel / peak, 3, 0)
    columns = min(16, len(images))
    lines = -(-len(images) // columns)
    with style.styled():
        drawn = style.figure(8.0, 0.5 + 0.52 * lines, title)
        grid = drawn.subplots(lines, columns, squeeze=False)
        for axes in grid.flat:
            axes.axis("off")
        for axes, image in zip(grid.flat, images, strict=False):
            _show(axes, image)
        return drawn


def _show(axes: "Axes", image: np.ndarray) -> None:
    axes.axis("off")
    if image.shape[-1] == 3:
        axes.imshow(image)
    else:  # one channel; or another number of them, of which the first is shown
        axes.imshow(image[..., 0], cmap="gray", vmin=0, vmax=255 if image.dtype == np.uint8 else 1)
