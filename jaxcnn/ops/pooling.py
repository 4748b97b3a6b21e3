"""Pooling whose gradient is elementwise on the CPU, not a select-and-scatter."""

import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxcnn.ops.lowering import cpu_or_stock
from jaxcnn.ops.spec import Pads, Pair

Padding = str | Sequence[tuple[int, int]]


def max_pool(
    x: jax.Array,
    window_shape: tuple[int, ...],
    strides: tuple[int, ...] | None = None,
    padding: Padding = "VALID",
) -> jax.Array:
    """`flax.linen.max_pool`, with a gradient that costs no more than the pooling on a CPU.

    As in `lax`, the whole gradient of a window goes to its first largest pixel, row by row.

    Args:
        x: Floating point `[N, H, W, C]`; other ranks and types get the stock operation.
        window_shape: Height and width of the window in pixels.
        strides: Step of the window; None means 1, as in Flax.
        padding: "SAME", "VALID" or pairs of pixels, which never win.

    Returns:
        `[N, H', W', C]` of the same type.
    """
    stock = functools.partial(
        nn.max_pool, window_shape=window_shape, strides=strides, padding=padding
    )
    if not _is_fast(x, window_shape):
        return stock(x)
    window, steps, pads = _resolve(x, window_shape, strides, padding)
    return cpu_or_stock(lambda x: _max_pool(x, window, steps, pads), stock, x)


def avg_pool(
    x: jax.Array,
    window_shape: tuple[int, ...],
    strides: tuple[int, ...] | None = None,
    padding: Padding = "VALID",
    count_include_pad: bool = True,
) -> jax.Array:
    """`flax.linen.avg_pool`, with a gradient that costs no more than the pooling on a CPU.

    Args:
        x: Floating point `[N, H, W, C]`; other ranks and types get the stock operation.
        window_shape: Height and width of the window in pixels.
        strides: Step of the window; None means 1, as in Flax.
        padding: "SAME", "VALID" or pairs of pixels.
        count_include_pad: Whether padded pixels count as zeros, as in Flax.

    Returns:
        `[N, H', W', C]` of the same type.
    """
    stock = functools.partial(
        nn.avg_pool,
        window_shape=window_shape,
        strides=strides,
        padding=padding,
        count_include_pad=count_include_pad,
    )
    # Without padded pixels each window at the border has a divisor of its own.
    if not (_is_fast(x, window_shape) and count_include_pad):
        return stock(x)
    window, steps, pads = _resolve(x, window_shape, strides, padding)
    return cpu_or_stock(lambda x: _avg_pool(x, window, steps, pads), stock, x)


def _is_fast(x: jax.Array, window_shape: Sequence[int]) -> bool:
    return (
        x.ndim == 4
        and len(window_shape) == 2
        and jnp.issubdtype(x.dtype, jnp.floating)
        and all(isinstance(n, int) and n > 0 for n in x.shape)
    )


def _resolve(
    x: jax.Array, window_shape: Sequence[int], strides: Sequence[int] | None, padding: Padding
) -> tuple[Pair, Pair, Pads]:
    """Window, strides and padding as plain pairs."""
    height, width = window_shape
    steps = tuple(strides) if strides else (1, 1)
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(x.shape[1:3], (height, width), steps, padding)
    first, second = ((int(low), int(high)) for low, high in padding)
    return (height, width), (steps[0], steps[1]), (first, second)


def _is_partition(x: jax.Array, window: Pair, strides: Pair, pads: Pads) -> bool:
    """Whether every pixel lies in exactly one window."""
    divides = all(n % w == 0 for n, w in zip(x.shape[1:3], window, strict=True))
    return divides and window == strides and pads == ((0, 0), (0, 0))


def _in_windows(x: jax.Array, window: Pair) -> jax.Array:
    """`[N, H, W, C]` to `[N, H / h, h, W / w, w, C]`."""
    n, height, width, channels = x.shape
    h, w = window
    return x.reshape(n, height // h, h, width // w, w, channels)


def _windows(x: jax.Array, window: Pair, strides: Pair, pads: Pads, fill: float) -> list[jax.Array]:
    """For each position in the window, row by row, its pixels: `[N, H', W', C]` each."""
    # No padding, no operation: a padded copy of the images would be one more array to write.
    config = [(0, 0, 0), (*pads[0], 0), (*pads[1], 0), (0, 0, 0)]
    padded = x if pads == ((0, 0), (0, 0)) else lax.pad(x, jnp.asarray(fill, x.dtype), config)
    height, width = (
        (size - w) // step * step + 1
        for size, w, step in zip(padded.shape[1:3], window, strides, strict=True)
    )
    return [
        padded[:, i : i + height : strides[0], j : j + width : strides[1]]
        for i in range(window[0])
        for j in range(window[1])
    ]


# A rule for tangents, which JAX transposes for reverse mode, so that both modes and higher
# derivatives work; -inf pads, and never wins.
@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2, 3))
def _max_pool(x: jax.Array, window: Pair, strides: Pair, pads: Pads) -> jax.Array:
    return functools.reduce(jnp.maximum, _windows(x, window, strides, pads, -np.inf))


@_max_pool.defjvp
def _max_pool_jvp(
    window: Pair, strides: Pair, pads: Pads, primals: tuple[Any], tangents: tuple[Any]
) -> tuple[jax.Array, jax.Array]:
    """The tangent of a window is the tangent of its first largest pixel.

    Written with comparisons, its transpose is elementwise too.
    """
    (x,), (t,) = primals, tangents
    parts = _windows(x, window, strides, pads, -np.inf)
    y = functools.reduce(jnp.maximum, parts)
    # From the last position to the first, so that of equal pixels the first stays.
    winner = jnp.full(y.shape, len(parts) - 1, jnp.int32)
    for index in range(len(parts) - 2, -1, -1):
        winner = jnp.where(parts[index] == y, index, winner)
    # Without the barrier each pixel would look for its window's winner.
    winner = lax.optimization_barrier(winner)
    # Each pixel has one window: a single comparison of the whole image with its place in it.
    if _is_partition(x, window, strides, pads):
        place = jnp.arange(window[0] * window[1], dtype=jnp.int32)
        place = place.reshape(1, 1, window[0], 1, window[1], 1)
        is_winner = winner[:, :, None, :, None] == place
        return y, jnp.sum(jnp.where(is_winner, _in_windows(t, window), 0), axis=(2, 4))
    # Windows overlap or leave pixels out: a term for each position, whose transpose pads and adds.
    total = jnp.zeros_like(y)
    for index, part in enumerate(_windows(t, window, strides, pads, 0.0)):
        total = total + jnp.where(winner == index, part, 0)
    return y, total


def _avg_pool(x: jax.Array, window: Pair, strides: Pair, pads: Pads) -> jax.Array:
    if _is_partition(x, window, strides, pads):
        return _mean_of_windows(x, window)
    total = functools.reduce(jnp.add, _windows(x, window, strides, pads, 0.0))
    return total / (window[0] * window[1])


# Values and tangents are written differently, so each gets a form that is fast by itself.
@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _mean_of_windows(x: jax.Array, window: Pair) -> jax.Array:
    """The mean of each window, in one loop together with what computes `x`.

    A sum over axes would be YNNPACK's, which wants `x` written to memory.
    """
    windows = _in_windows(x, window)
    pixels = [windows[:, :, i, :, j] for i in range(window[0]) for j in range(window[1])]
    return functools.reduce(jnp.add, pixels) / len(pixels)


@_mean_of_windows.defjvp
def _mean_of_windows_jvp(
    window: Pair, primals: tuple[Any], tangents: tuple[Any]
) -> tuple[jax.Array, jax.Array]:
    """The tangent's mean is written as a sum over axes, whose transpose is elementwise."""
    (x,), (t,) = primals, tangents
    return _mean_of_windows(x, window), jnp.mean(_in_windows(t, window), axis=(2, 4))
