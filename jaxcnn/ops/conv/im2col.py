"""The gradient of any dense kernel as one matrix product: patches side by side (im2col)."""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from jaxcnn.ops.spec import Pads, Pair, height_width


def shifted(
    x: jax.Array, kernel_size: Pair, strides: Pair, padding: Pads, output_size: Pair
) -> list[jax.Array]:
    """For each kernel position, row by row, the pixels it meets: `[n, H', W', C]` each."""
    # Behind, just what the last window reads: a stride may leave padding or pixels unread.
    config = [(0, 0, 0)] + [
        (low, (out - 1) * stride + k - n - low, 0)
        for n, k, stride, out, (low, _) in zip(
            x.shape[1:3], kernel_size, strides, output_size, padding, strict=True
        )
    ]
    padded = lax.pad(x, jnp.zeros((), x.dtype), [*config, (0, 0, 0)])
    height, width = (
        (out - 1) * stride + 1 for out, stride in zip(output_size, strides, strict=True)
    )
    return [
        padded[:, i : i + height : strides[0], j : j + width : strides[1]]
        for i in range(kernel_size[0])
        for j in range(kernel_size[1])
    ]


def patches(
    x: jax.Array, kernel_size: Pair, strides: Pair, padding: Pads, output_size: Pair
) -> jax.Array:
    """`[n, H, W, C]` to `[n, H', W', h * w * C]`, the kernel's input at each output pixel."""
    parts = shifted(x, kernel_size, strides, padding, output_size)
    return parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis=-1)


def side_by_side(parts: list[jax.Array]) -> jax.Array:
    """The parts, `[n, H, W, C]`, one after the other along the channels, in one loop.

    They are added up with zeros around each; XLA would write the parts of a concatenation to memory
    one by one, each on one core.
    """
    channels, count = parts[0].shape[3], len(parts)
    zero = jnp.zeros((), parts[0].dtype)
    placed = [
        lax.pad(part, zero, [(0, 0, 0)] * 3 + [(i * channels, (count - 1 - i) * channels, 0)])
        for i, part in enumerate(parts)
    ]
    return functools.reduce(jnp.add, placed)


def conv_kernel_grad(
    x: jax.Array, dy: jax.Array, kernel_size: Pair, strides: Pair, padding: Pads
) -> jax.Array:
    """The gradient of the kernel as one matrix, `[h * w * C, F]`."""
    rows = patches(x, kernel_size, strides, padding, height_width(dy))
    return rows.reshape(-1, rows.shape[3]).T @ dy.reshape(-1, dy.shape[3])
