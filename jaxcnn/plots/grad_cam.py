"""Where a network looks: maps laid over images."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from jaxcnn.plots import style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SHARE = 0.55  # of the map's color; the rest is the image in grey


class Attribution(NamedTuple):
    """An image, and maps of what in it speaks for some classes.

    Attributes:
        image: uint8 [H, W, C].
        caption: A line above it.
        maps: float [H, W], 0..1, by the line above each.
    """

    image: np.ndarray
    caption: str
    maps: Mapping[str, np.ndarray]


def overlay(image: np.ndarray, cam: np.ndarray) -> np.ndarray:
    """Returns an image with a map laid over it, from dark (0) to bright (1), uint8 [H, W, 3].

    Args:
        image: uint8 [H, W, C].
        cam: float [H, W], 0..1.
    """
    import matplotlib

    color = matplotlib.colormaps["inferno"](cam)[..., :3]
    grey = image.mean(-1, keepdims=True) / 255
    return np.round(255 * (_SHARE * color + (1 - _SHARE) * grey)).astype(np.uint8)


def grad_cam(sections: Mapping[str, Sequence[Attribution]], title: str) -> "Figure":
    """Returns a block for each section: a column for each image, with its maps below it.

    Args:
        sections: The images by what they have in common; a section without any is left out.
        title: Of the figure.
    """
    shown = {name: looks for name, looks in sections.items() if looks}
    columns = max(map(len, shown.values()))
    lines = [1 + max(len(look.maps) for look in looks) for looks in shown.values()]
    with style.styled():
        drawn = style.figure(max(6.4, 1.3 * columns), 0.5 + 1.45 * sum(lines), title)
        blocks = drawn.subfigures(len(shown), 1, squeeze=False, height_ratios=lines)[:, 0]
        for block, count, (name, looks) in zip(blocks, lines, shown.items(), strict=True):
            block.suptitle(name, fontsize=9)
            grid = block.subplots(count, columns, squeeze=False)
            for axes in grid.flat:
                axes.axis("off")
            for column, look in zip(grid.T, looks, strict=False):
                pictures = {look.caption: look.image if look.image.shape[-1] == 3 else
                            np.repeat(look.image[..., :1], 3, -1)}  # fmt: skip
                pictures |= {text: overlay(look.image, cam) for text, cam in look.maps.items()}
                for axes, (text, picture) in zip(column, pictures.items(), strict=False):
                    axes.imshow(picture)
                    axes.set_title(style.literal(text), fontsize=7)
        return drawn
