"""From stored pixels to what a network takes: each channel with mean 0 and variance 1."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class PixelStats(NamedTuple):
    """Mean and standard deviation of each channel, in units of full scale (0..1)."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


def normalize(images: jax.Array, stats: PixelStats) -> jax.Array:
    """Maps uint8 `[B, H, W, C]`, 0..255, to float32 with mean 0 and variance 1 per channel."""
    mean, std = (np.asarray(row).reshape(1, 1, 1, -1) for row in stats)
    # Computed in float64 and rounded once; each pixel then takes one product and one difference.
    scale, shift = (1 / (255 * std)).astype(np.float32), (mean / std).astype(np.float32)
    return images.astype(jnp.float32) * scale - shift
