"""A depthwise convolution as shifted multiply-adds, one for each kernel position."""

import jax
import jax.numpy as jnp

from jaxcnn.ops.conv.im2col import shifted
from jaxcnn.ops.spec import Pads, Pair, height_width


def conv_forward(
    x: jax.Array, kernel: jax.Array, strides: Pair, padding: Pads, output_size: Pair
) -> jax.Array:
    """The depthwise convolution of `[n, H, W, C]` with `[h, w, 1, C]`."""
    parts = shifted(x, (kernel.shape[0], kernel.shape[1]), strides, padding, output_size)
    weights = kernel.reshape(-1, kernel.shape[3])
    # A chain of sums, not a sum over a new axis: XLA makes one elementwise loop of the chain.
    total = parts[0] * weights[0][None, None, None]
    for part, weight in zip(parts[1:], weights[1:], strict=True):
        total = total + part * weight[None, None, None]
    return total


def conv_kernel_grad(
    x: jax.Array, dy: jax.Array, kernel_size: Pair, strides: Pair, padding: Pads
) -> jax.Array:
    """The gradient of the kernel as one matrix, `[h * w, C]`."""
    parts = shifted(x, kernel_size, strides, padding, height_width(dy))
    return jnp.stack([jnp.sum(part * dy, axis=(0, 1, 2)) for part in parts])
