"""Resizing and smoothing as matrices: one for the rows of an image, one for its columns.

The matrices depend on sizes alone and are made by NumPy in float64; JAX then multiplies by them.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np


def along_both(rows: jax.Array, columns: jax.Array, image: jax.Array) -> jax.Array:
    """Returns `[H', W', C]` of an image `[H, W, C]`, matrices `[H', H]` and `[W', W]`."""
    # "highest": a GPU would round the factors to 10 bits otherwise.
    return jnp.einsum("ah,bw,hwc->abc", rows, columns, image, precision="highest")


def gaussian(size: int, sigma: float, truncate: float, edge: str) -> np.ndarray:
    """Returns the matrix of Gaussian smoothing, float32 `[size, size]`; sigma 0 changes nothing.

    Args:
        size: Pixels.
        sigma: Standard deviation, pixels.
        truncate: Where the kernel ends, standard deviations.
        edge: What lies beyond the edge: "nearest" for the pixel at the edge, "reflect" for the
            mirror image that begins with it.
    """
    radius = int(truncate * sigma + 0.5)
    taps = np.arange(-radius, radius + 1)
    weights = np.exp(-0.5 * np.square(taps / sigma)) if radius else np.ones(1)
    matrix = np.zeros((size, size))
    for tap, weight in zip(taps, weights / weights.sum(), strict=True):
        place = np.arange(size) + tap
        if edge == "reflect":
            place %= 2 * size
            place = np.minimum(place, 2 * size - 1 - place)
        np.add.at(matrix, (np.arange(size), place.clip(0, size - 1)), weight)
    return matrix.astype(np.float32)


def zoom(size: int, factor: float) -> np.ndarray:
    """Returns the matrix that enlarges the middle, float32 `[size, size]`, bilinearly.

    The middle 1 / `factor`, rounded up, becomes `factor` times as long, its first and last pixel
    staying the first and last; what then stands out over `size` is cut off on both sides.
    """
    middle = math.ceil(size / factor)
    enlarged = round(middle * factor)
    # Pixel i of the result in pixels of the image.
    inside = np.arange(size) + (enlarged - size) // 2
    place = inside * (middle - 1) / max(1, enlarged - 1) + (size - middle) // 2
    below = np.floor(place).astype(int)
    matrix = np.zeros((size, size))
    np.add.at(matrix, (np.arange(size), below), below + 1 - place)
    np.add.at(matrix, (np.arange(size), np.minimum(below + 1, size - 1)), place - below)
    return matrix.astype(np.float32)


def box(size: int, result: int) -> np.ndarray:
    """Returns the matrix of Pillow's BOX filter, float32 `[result, size]`.

    A pixel of the result is the mean of the pixels whose centers lie in what it covers, and if it
    is smaller than a pixel, the pixel that its center lies in.
    """
    scale = size / result
    centers = (np.arange(result) + 0.5)[:, None] * scale
    distance = (np.arange(size) + 0.5 - centers) / max(scale, 1.0)
    inside = (distance > -0.5) & (distance <= 0.5)
    return (inside / inside.sum(1, keepdims=True)).astype(np.float32)


def sample(image: jax.Array, y: jax.Array, x: jax.Array, mirror_edge: bool) -> jax.Array:
    """Returns the image at positions between pixels, bilinearly, `[*positions, C]`.

    Args:
        image: float `[H, W, C]`, mirrored beyond its edges.
        y: float, of any shape: 0 is the center of the first row.
        x: Likewise, of columns.
        mirror_edge: Whether a mirror image begins with the pixel at the edge, or the one behind it.
    """
    top, left = jnp.floor(y), jnp.floor(x)
    down, right = (y - top)[..., None], (x - left)[..., None]

    def at(row: jax.Array, column: jax.Array) -> jax.Array:
        height, width, _ = image.shape
        return image[_mirrored(row, height, mirror_edge), _mirrored(column, width, mirror_edge)]

    above = at(top, left) * (1 - right) + at(top, left + 1) * right
    below = at(top + 1, left) * (1 - right) + at(top + 1, left + 1) * right
    return above * (1 - down) + below * down


def _mirrored(place: jax.Array, size: int, mirror_edge: bool) -> jax.Array:
    """Returns the pixel, int32, that stands at whole-numbered places inside and outside."""
    last = 2 * size - 1 if mirror_edge else 2 * size - 2
    place = place.astype(jnp.int32) % (last + 1 if mirror_edge else last)
    return jnp.minimum(place, last - place)
