"""Which filters give the patches of training images covariance 1, before the first step?"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxcnn.models import layers
from jaxcnn.ops.pixels import PixelStats

IMAGES = 5000
"""Images, the first ones of the training split, whose patches are whitened."""

# Added to the eigenvalues: the weakest patterns are mostly noise, and are not raised to 1.
EPSILON = 5e-4

# Of the largest eigenvalue: patterns below it do not occur, and what is left of them is rounding.
_LEAST = 1e-6

# Rows of a sum: 25 MB of them for patches of 2x2 pixels in 3 channels.
_ROWS = 1 << 18


class WhiteningConv(layers.Conv):
    """A "VALID" convolution whose kernel is a statistic of the training images, not a parameter.

    It stands as "kernel" in "batch_stats": without a gradient, but part of all that is saved. Until
    `kernel_of` has computed it, it is that of white noise, the unit vectors and their negatives.
    """

    @nn.compact
    def weights(self, channels: int) -> tuple[jax.Array, jax.Array | None]:
        """As in the base class; the bias begins as PyTorch's do."""
        size = self.kernel_size**2 * channels
        kernel = self.variable("batch_stats", "kernel", _of_white_noise, self.kernel_size, channels)
        bias = self.param("bias", uniform(size), (self.features,), jnp.float32)
        return kernel.value.astype(self.dtype), bias.astype(self.dtype)


def uniform(fan_in: int) -> Callable[..., jax.Array]:
    """PyTorch's initial values of layers, uniform with the bound 1 / sqrt(fan-in)."""
    bound = fan_in**-0.5

    def init(
        key: jax.Array, shape: tuple[int, ...], dtype: jax.typing.DTypeLike = jnp.float32
    ) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def _of_white_noise(size: int, channels: int) -> jax.Array:
    unit = jnp.eye(size**2 * channels, dtype=jnp.float32)
    return jnp.concatenate([unit, -unit], 1).reshape(size, size, channels, -1)


def kernel_of(images: np.ndarray, stats: PixelStats, size: int = 2) -> np.ndarray:
    """Returns the whitening kernel of images, the same bytes in every run on a machine.

    Its filters are the eigenvectors of the covariance of patches, about zero, by falling
    eigenvalue, each divided by sqrt(eigenvalue + `EPSILON`), then their negatives (Jordan 2024,
    arXiv:2404.00498, sec. 3.2). Of an eigenvector's two signs it takes the one whose largest
    component is positive. Patterns that do not occur, as colors in grey images of three channels,
    give their place to those that do, in turn: a norm would raise their rounding errors to 1.

    Args:
        images: uint8 `[N, H, W, C]`, H and W at least `size`.
        stats: By which they are normalized.
        size: Height and width of a patch.

    Returns:
        float32 `[size, size, C, 2 * size**2 * C]`.
    """
    channels = images.shape[-1]
    count, total, products = _moments(images, size)
    # A pixel p is normalized to p * scale - shift; patches have their channels last.
    mean, std = (np.tile(np.asarray(row, np.float64), size**2) for row in stats)
    scale, shift = 1 / (255 * std), mean / std
    first = total * scale / count
    covariance = products * np.outer(scale, scale) / count + np.outer(shift, shift)
    covariance -= np.outer(first, shift) + np.outer(shift, first)
    values, vectors = np.linalg.eigh(covariance)
    values, vectors = values[::-1], vectors[:, ::-1]
    occurring = np.arange(len(values)) % max(1, int((values > _LEAST * values[0]).sum()))
    values, vectors = values[occurring], vectors[:, occurring]
    largest = np.take_along_axis(vectors, np.abs(vectors).argmax(0)[None], 0)
    # Of images of one grey the largest, too, may be rounding, below 0.
    filters = vectors * np.sign(largest) / np.sqrt(np.maximum(values, 0) + EPSILON)
    kernel = np.concatenate([filters, -filters], 1).astype(np.float32)
    return kernel.reshape(size, size, channels, -1)


def _moments(images: np.ndarray, size: int) -> tuple[int, np.ndarray, np.ndarray]:
    """Returns the number of patches, their sum `[D]` and that of their outer products `[D, D]`.

    Of pixels 0..255 both are whole numbers below 2^53, so float64 holds them exactly, in whichever
    order a library adds them on however many threads.
    """
    _, height, width, channels = images.shape
    height, width = height - size + 1, width - size + 1
    total = np.zeros(size**2 * channels)
    products = np.zeros((total.size, total.size))
    for chunk in np.array_split(images, max(1, len(images) * height * width // _ROWS)):
        shifted = [
            chunk[:, i : i + height, j : j + width] for i in range(size) for j in range(size)
        ]
        patches = np.concatenate(shifted, -1).reshape(-1, total.size).astype(np.float64)
        total += patches.sum(0)
        products += patches.T @ patches
    return len(images) * height * width, total, products
