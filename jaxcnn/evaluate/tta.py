"""Test-time augmentation: the mean of what a network says about several views of an image."""

from collections.abc import Callable, Iterator

import numpy as np


def mirror(images: np.ndarray) -> Iterator[tuple[float, np.ndarray]]:
    """Yields the images and their mirror images, each with its weight."""
    yield 0.5, images
    yield 0.5, images[:, :, ::-1]


def mirror_shifts(images: np.ndarray) -> Iterator[tuple[float, np.ndarray]]:
    """Yields the mirror views, and those of the images shifted by a pixel up-left and down-right.

    The unshifted views have half of the weight (Jordan 2024, arXiv:2404.00498, sec. 3.5).
    """
    for weight, view in mirror(images):
        yield weight / 2, view
    _, height, width, _ = images.shape
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), "reflect")
    for start in (0, 2):
        shifted = padded[:, start : start + height, start : start + width]
        for weight, view in mirror(shifted):
            yield weight / 4, view


VIEWS: dict[str, Callable[[np.ndarray], Iterator[tuple[float, np.ndarray]]]] = {
    "mirror": mirror,
    "mirror-shifts": mirror_shifts,
}
"""By name, what yields weights, which add to 1, and views of images, uint8 `[N, H, W, C]`."""


def mean_logits(
    logits: Callable[[np.ndarray], np.ndarray], images: np.ndarray, views: str
) -> np.ndarray:
    """Returns the weighted mean of the logits of all views, float32 `[N, K]`.

    Args:
        logits: From uint8 `[N, H, W, C]` to float32 `[N, K]`.
        images: uint8 `[N, H, W, C]`.
        views: A key of `VIEWS`.
    """
    parts = [np.float32(w) * logits(np.ascontiguousarray(v)) for w, v in VIEWS[views](images)]
    return np.asarray(np.sum(parts, 0, dtype=np.float32))
