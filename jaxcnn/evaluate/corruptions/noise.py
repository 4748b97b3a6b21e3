"""Corruptions by noise: Gaussian, shot and impulse noise.

In all modules here an image is float32 `[H, W, C]`, 0..1; what leaves 0..1 is cut off later.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

_COUNTS = 1024  # more photons than are ever counted, where a white pixel has 500


def gaussian_noise(key: jax.Array, image: jax.Array, deviation: jax.Array) -> jax.Array:
    """Adds normal noise to each value."""
    return image + deviation * jax.random.normal(key, image.shape)


def photon_counts(photons: float) -> np.ndarray:
    """Returns the distribution of the photons of a pixel, float32 [256, 1024].

    Row v is the cumulated Poisson distribution of a pixel of the value v / 255, of which a white
    one has `photons` on average. As values are whole numbers, these are all that can occur, and
    drawing from a table is faster than any method for an arbitrary mean.
    """
    counts = np.arange(_COUNTS)
    factorials = np.array([math.lgamma(count + 1) for count in counts])
    means = np.arange(1, 256)[:, None] / 255 * photons
    table = np.ones((256, _COUNTS))
    table[1:] = np.exp(counts * np.log(means) - means - factorials).cumsum(1)
    return table.astype(np.float32)


def shot_noise(
    key: jax.Array, image: jax.Array, photons: jax.Array, counts: jax.Array
) -> jax.Array:
    """Counts photons, of which a white pixel has `photons` on average; see `photon_counts`."""
    drawn, counts = jax.random.uniform(key, image.shape), jnp.asarray(counts)
    rows = jnp.round(image * 255).astype(jnp.int32)
    found = jnp.zeros(image.shape, jnp.int32)
    # How many entries of its row are at most the drawn number: found by halving.
    for step in (2**power for power in reversed(range(_COUNTS.bit_length() - 1))):
        found = jnp.where(counts[rows, found + step - 1] <= drawn, found + step, found)
    return found.astype(jnp.float32) / photons


def impulse_noise(key: jax.Array, image: jax.Array, amount: jax.Array) -> jax.Array:
    """Replaces a fraction of all values, one half by 0 and the other by 1."""
    drawn = jax.random.uniform(key, image.shape)
    return jnp.where(drawn < amount / 2, 0.0, jnp.where(drawn < amount, 1.0, image))
