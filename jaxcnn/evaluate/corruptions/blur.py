"""Corruptions by blur: defocus, frosted glass, motion and zoom."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn.evaluate.corruptions import resampled

_DISK = 5  # the largest disk's height and width, smoothed


def defocus_kernel(radius: float, sigma: float) -> np.ndarray:
    """Returns a disk smoothed by a Gaussian of 3x3 pixels, float32 [5, 5]."""
    places = np.arange(_DISK) - _DISK // 2
    disk = (np.square(places)[:, None] + np.square(places) <= radius**2).astype(np.float64)
    taps = np.exp(-0.5 * np.square(np.arange(-1, 2) / sigma))
    taps /= taps.sum()
    for axis in (0, 1):
        disk = np.apply_along_axis(np.convolve, axis, disk / disk.sum(), taps, "same")
    return disk.astype(np.float32)


def defocus_blur(key: jax.Array, image: jax.Array, kernel: jax.Array) -> jax.Array:
    """Filters by a disk, [5, 5]; the image is mirrored at its border pixels."""
    del key
    (height, width, _), margin = image.shape, _DISK // 2
    padded = jnp.pad(image, ((margin, margin), (margin, margin), (0, 0)), "reflect")
    total = jnp.zeros_like(image)
    for row in range(_DISK):
        for column in range(_DISK):
            window = padded[row : row + height, column : column + width]
            total = total + kernel[row, column] * window
    return total


def glass_blur(
    key: jax.Array, image: jax.Array, rows: jax.Array, columns: jax.Array, again: jax.Array
) -> jax.Array:
    """Smooths, moves pixels by up to one up and left, and smooths.

    The published program means to exchange two pixels, but copies one over the other, as NumPy's
    rows are views. In the order in which it goes through them that is what is done here: each pixel
    takes the value of itself or of a neighbor above or to the left.

    Args:
        key: A PRNG key.
        image: float32 `[H, W, C]`.
        rows: Matrix of the smoothing, `[H, H]`.
        columns: Likewise, `[W, W]`.
        again: 1 to move the pixels twice, 0 for once.
    """
    height, width, _ = image.shape
    image = resampled.along_both(rows, columns, image)
    y, x = jnp.mgrid[:height, :width]
    inside = ((y >= 2) & (x >= 2))[None, None]
    moves = jax.random.bernoulli(key, shape=(2, 2, height, width)) & inside
    moves = moves.at[1].set(moves[1] & (again > 0))
    for up, left in moves.astype(jnp.int32):
        image = image[y - up, x - left]
    return resampled.along_both(rows, columns, image)


def motion_taps(radius: int, sigma: float, length: int) -> np.ndarray:
    """Returns the weights of ImageMagick's motion blur, float32 [length]: half of a Gaussian."""
    taps = np.exp(-0.5 * np.square(np.arange(2 * radius + 1) / sigma))
    return np.pad(taps / taps.sum(), (0, length - len(taps))).astype(np.float32)


def smear(image: jax.Array, angle: jax.Array, taps: jax.Array) -> jax.Array:
    """Adds the image to itself, moved step by step; beyond the edge stands its last pixel.

    Args:
        image: float32 `[H, W, C]`.
        angle: Of the motion, radians.
        taps: The weight of each step, which is as long as a pixel.
    """
    height, width, _ = image.shape
    steps = jnp.arange(len(taps))
    downs = jnp.ceil(steps * jnp.sin(angle) - 0.5).astype(jnp.int32)
    rights = jnp.ceil(steps * jnp.cos(angle) - 0.5).astype(jnp.int32)

    def add(total: jax.Array, step: tuple[jax.Array, ...]) -> tuple[jax.Array, None]:
        down, right, tap = step
        rows = jnp.clip(jnp.arange(height) + down, 0, height - 1)
        columns = jnp.clip(jnp.arange(width) + right, 0, width - 1)
        return total + tap * image[rows[:, None], columns], None

    total, _ = jax.lax.scan(add, jnp.zeros_like(image), (downs, rights, taps))
    return total


def motion_blur(key: jax.Array, image: jax.Array, taps: jax.Array) -> jax.Array:
    """Smears the image in a direction within 45 degrees of the horizontal."""
    return smear(image, jax.random.uniform(key, (), minval=-jnp.pi / 4, maxval=jnp.pi / 4), taps)


def zoom_blur(
    key: jax.Array, image: jax.Array, rows: jax.Array, columns: jax.Array, count: jax.Array
) -> jax.Array:
    """Returns the mean of the image and of `count` enlarged ones.

    Args:
        key: Not used.
        image: float32 `[H, W, C]`.
        rows: Matrices that enlarge, `[F, H, H]`, those beyond the first `count` zero.
        columns: Likewise, `[F, W, W]`.
        count: Number of enlargements.
    """
    del key

    def add(total: jax.Array, matrices: tuple[jax.Array, ...]) -> tuple[jax.Array, None]:
        by_row, by_column = matrices
        return total + resampled.along_both(by_row, by_column, image), None

    total, _ = jax.lax.scan(add, image, (rows, columns))
    return total / (count + 1)
