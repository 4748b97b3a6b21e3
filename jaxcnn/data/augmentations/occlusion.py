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


# Of the rectangle: its area as a fraction of the image's, and height over width, as in the paper.
# One that does not fit, which is rare, is drawn again, up to this number of times.
_AREA, _ASPECT, _ATTEMPTS = (0.02, 0.4), (0.3, 1 / 0.3), 10


def random_erasing(key: jax.Array, images: jax.Array, probability: float) -> jax.Array:
    """Fills a rectangle of some images with noise (Zhong et al. 2017, arXiv:1708.04896, alg. 1).

    Area and aspect are drawn evenly, then a place inside the image. The noise is that of the
    paper's best variant, RE-R: every value is drawn from 0..255.

    Args:
        key: A PRNG key.
        images: uint8 `[..., H, W, C]`.
        probability: That an image is changed, above 0, at most 1.

    Returns:
        uint8 `[..., H, W, C]`.
    """
    *leading, height, width, _ = images.shape
    chance, size, place, noise = jax.random.split(key, 4)
    drawn = jax.random.uniform(size, (*leading, _ATTEMPTS, 2))
    corners = jax.random.uniform(place, (*leading, 2))
    changed = jax.random.bernoulli(chance, probability, tuple(leading))
    values = jax.random.randint(noise, images.shape, 0, 256, jnp.uint8)

    def erase(
        image: jax.Array, drawn: jax.Array, corner: jax.Array, changed: jax.Array, values: jax.Array
    ) -> jax.Array:
        area = height * width * (_AREA[0] + drawn[:, 0] * (_AREA[1] - _AREA[0]))
        aspect = _ASPECT[0] + drawn[:, 1] * (_ASPECT[1] - _ASPECT[0])
        sides = jnp.stack([jnp.sqrt(area * aspect), jnp.sqrt(area / aspect)], -1)
        sides = jnp.round(sides).astype(jnp.int32)
        fits = (sides[:, 0] < height) & (sides[:, 1] < width)
        side = sides[jnp.argmax(fits)]
        room = jnp.int32([height, width]) - side + 1
        first = jnp.floor(corner * room).astype(jnp.int32)
        inside = in_box(first, first + side, height, width)
        return jnp.where(inside & changed & fits.any(), values, image)

    return each(erase, images, drawn, corners, changed, values)
