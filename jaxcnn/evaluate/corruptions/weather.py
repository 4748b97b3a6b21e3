"""Corruptions by weather: snow, frost, fog and brightness."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn.evaluate.corruptions import resampled
from jaxcnn.evaluate.corruptions.blur import smear

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # of red, green, blue (ITU-R BT.601)
_ICE = np.array([0.82, 0.91, 1.0], np.float32)  # the color of frost
_ROUGH = 1.45  # the decay of frost's fractals: much detail


def fractal(key: jax.Array, shape: tuple[int, int], decay: jax.Array | float) -> jax.Array:
    """Returns a plasma fractal, float32 `[H, W]`, from 0 to 1 (diamond-square algorithm).

    A square whose edges meet is halved until it is as fine as the image. A new point is the mean of
    its four neighbors and a random number, whose range shrinks by the square of `decay` each time:
    the published program multiplies two ranges that shrink by `decay`.

    Args:
        key: A PRNG key.
        shape: (H, W).
        decay: Above 1; the larger, the smoother.
    """
    levels = (max(shape) - 1).bit_length()
    # All numbers are drawn at once, as each drawing has to be compiled.
    drawn = jax.random.uniform(key, (4**levels - 1,), minval=-1.0, maxval=1.0)
    grid = jnp.zeros((1, 1))
    for level in range(levels):
        size = 2**level
        noise = drawn[size**2 - 1 : 4 * size**2 - 1].reshape(3, size, size)
        noise = noise / jnp.square(jnp.asarray(decay, jnp.float32)) ** level
        pairs = grid + jnp.roll(grid, -1, 0)
        middles = (pairs + jnp.roll(pairs, -1, 1)) / 4 + noise[0]
        along_row = grid + jnp.roll(grid, -1, 1) + middles + jnp.roll(middles, 1, 0)
        along_column = pairs + middles + jnp.roll(middles, 1, 1)
        upper = jnp.stack([grid, along_row / 4 + noise[1]], -1).reshape(size, -1)
        lower = jnp.stack([along_column / 4 + noise[2], middles], -1).reshape(size, -1)
        grid = jnp.stack([upper, lower], 1).reshape(2 * size, 2 * size)
        # The barrier has XLA write it; each level reads the one before several times.
        grid = jax.lax.optimization_barrier(grid)
    grid = grid - grid.min()
    return (grid / grid.max())[: shape[0], : shape[1]]


def snow(
    key: jax.Array,
    image: jax.Array,
    numbers: jax.Array,
    rows: jax.Array,
    columns: jax.Array,
    taps: jax.Array,
) -> jax.Array:
    """Whitens the image and lets flakes fall, in two directions.

    Args:
        key: A PRNG key.
        image: float32 `[H, W, C]`.
        numbers: Mean and standard deviation of the noise that flakes are made of, what is too
            little for one, and the fraction of the image that is not whitened.
        rows: Matrix that enlarges the flakes, `[H, H]`.
        columns: Likewise, `[W, W]`.
        taps: Of the flakes' motion, see `smear`.
    """
    mean, deviation, least, kept = numbers
    noise_key, angle_key = jax.random.split(key)
    flakes = mean + deviation * jax.random.normal(noise_key, (*image.shape[:2], 1))
    flakes = resampled.along_both(rows, columns, flakes)
    flakes = jnp.clip(jnp.where(flakes < least, 0.0, flakes), 0, 1)
    angle = jax.random.uniform(angle_key, (), minval=-0.75 * jnp.pi, maxval=-0.25 * jnp.pi)
    flakes = smear(flakes, angle, taps)
    grey = image @ _LUMA if image.shape[-1] == 3 else image.mean(-1)
    image = kept * image + (1 - kept) * jnp.maximum(image, grey[..., None] * 1.5 + 0.5)
    return image + flakes + flakes[::-1, ::-1]


def frost_texture(key: jax.Array, shape: tuple[int, int]) -> jax.Array:
    """Returns ice crystals of this program's own, float32 `[H, W]`, 0..1.

    The published program lays photographs of frost over an image. These are the ridges of two rough
    fractals: a veil, and needles within it.
    """
    fractals = jax.vmap(lambda key: fractal(key, shape, _ROUGH))(jax.random.split(key))
    veil, needles = 1 - jnp.abs(2 * fractals - 1)
    return jnp.clip(0.15 + 0.55 * jnp.square(veil) + 0.6 * needles**8, 0, 1)


def frost(key: jax.Array, image: jax.Array, numbers: jax.Array) -> jax.Array:
    """Lays frost over the image: the weights of both are `numbers`."""
    own, ices = numbers
    height, width, channels = image.shape
    ice = frost_texture(key, (height, width))[..., None]
    if channels == 3:
        ice = ice * _ICE.reshape(1, 1, 3)
    return own * image + ices * ice


def fog(key: jax.Array, image: jax.Array, numbers: jax.Array) -> jax.Array:
    """Lays a fractal over the image: `numbers` are how much of it, and its decay."""
    amount, decay = numbers
    brightest, (height, width, _) = image.max(), image.shape
    veil = fractal(key, (height, width), decay)[..., None]
    return (image + amount * veil) * brightest / (brightest + amount)


def brightness(key: jax.Array, image: jax.Array, amount: jax.Array) -> jax.Array:
    """Adds to the value of each pixel's color, with the same hue and saturation (HSV)."""
    del key
    value = image.max(-1, keepdims=True)
    raised = jnp.clip(value + amount, 0, 1)
    # All of a color's components are in proportion to its value; black turns grey.
    return jnp.where(value > 0, image * (raised / jnp.maximum(value, 1e-6)), raised)
