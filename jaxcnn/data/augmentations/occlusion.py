"""Covering a part of each image."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn.data.augmentations.each import each


def cutout(key: jax.Array, images: jax.Array, size: int, fill: np.ndarray) -> jax.Array:
    """Covers a square of each image (DeVries & Taylor 2017, arXiv:1708.04552, sec. 3.2).

    Every pixel is equally likely to be the square's center, so a part of the square may lie
    outside.

    Args:
        key: A PRNG key.
        images: uint8 `[..., H, W, C]`.
        size: Side of the square, in pixels, from 1 on.
        fill: uint8 `[C]`; the paper's is the mean pixel, which normalization maps to 0.

    Returns:
        uint8 `[..., H, W, C]`.
    """
    *leading, height, width, _ = images.shape
    centers = jax.random.randint(key, (*leading, 2), 0, np.resize([height, width], (*leading, 2)))

    def cover(image: jax.Array, center: jax.Array) -> jax.Array:
        first = center - size // 2
        inside = in_box(first, first + size, height, width)
        return jnp.where(inside, fill.reshape(1, 1, -1), image)

    return each(cover, images, centers)


def in_box(first: jax.Array, end: jax.Array, height: int, width: int) -> jax.Array:
    """Returns which pixels lie in a box, bool `[H, W, 1]`.

    Args:
        first: int32 [2], the first row and column.
        end: int32 [2], the row and column behind the last.
        height: H.
        width: W.
    """
    rows, columns = jnp.arange(height)[:, None, None], jnp.arange(width)[None, :, None]
    return (rows >= first[0]) & (rows < end[0]) & (columns >= first[1]) & (columns < end[1])
