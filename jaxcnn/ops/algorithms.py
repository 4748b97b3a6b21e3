"""Which algorithm computes a convolution and its two gradients on the CPU, by shape."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxcnn.ops import depthwise, patches, winograd
from jaxcnn.ops.chunks import chunk_size, map_chunks, sum_chunks
from jaxcnn.ops.geometry import Geometry


def _compute_dtype(x: jax.Array) -> jnp.dtype:
    """bfloat16 is computed in float32: CPUs of this class have no bfloat16 arithmetic."""
    return jnp.promote_types(x.dtype, jnp.float32)


def _is_winograd(geometry: Geometry, channels: int, features: int) -> bool:
    """Whether the tile transforms cost less than the multiplications they save."""
    dense3x3 = geometry.kernel_size == (3, 3) and geometry.strides == (1, 1)
    return dense3x3 and not geometry.depthwise and min(channels, features) >= 8


def _is_plain_product(geometry: Geometry) -> bool:
    """Whether the convolution is one matrix product with nothing to move before it."""
    return (
        not geometry.depthwise
        and geometry.kernel_size == geometry.strides == (1, 1)
        and geometry.padding == ((0, 0), (0, 0))
    )


def forward(x: jax.Array, kernel: jax.Array, geometry: Geometry, shards: int = 1) -> jax.Array:
    """The convolution of `[N, H, W, C]` with `[h, w, C, F]` (depthwise: `[h, w, 1, C]`)."""
    dtype = _compute_dtype(x)
    weights = kernel.astype(dtype)
    strides, padding, size = geometry.strides, geometry.padding, geometry.output_size
    channels, features = x.shape[3], kernel.shape[3]
    run: Callable[[jax.Array], jax.Array]
    if _is_winograd(geometry, channels, features):
        rows, columns = winograd.tile_counts(size)
        floats = 16 * rows * columns * max(channels, features)
        transformed = winograd.transform_kernel(weights)

        def run(c: jax.Array) -> jax.Array:
            return winograd.forward(c.astype(dtype), transformed, padding, size)

    elif geometry.depthwise:
        floats = 2 * geometry.input_size[0] * geometry.input_size[1] * channels

        def run(c: jax.Array) -> jax.Array:
            return depthwise.forward(c.astype(dtype), weights, strides, padding, size)

    else:
        taps = kernel.shape[0] * kernel.shape[1]
        floats = size[0] * size[1] * max(taps * channels, features)

        def run(c: jax.Array) -> jax.Array:
            return patches.forward(c.astype(dtype), weights, strides, padding, size)

    if _is_plain_product(geometry) and dtype == x.dtype:
        return run(x)
    images = chunk_size(x.shape[0] // shards or 1, floats * dtype.itemsize)
    return map_chunks(lambda c: run(c).astype(x.dtype), (x,), images, shards)


def input_gradient(
    dy: jax.Array, kernel: jax.Array, geometry: Geometry, shards: int = 1
) -> jax.Array:
    """The gradient of `forward` with respect to x, `[N, H, W, C]`.

    With strides, the input pixels of each phase (row and column modulo the strides) see the
    gradient through their own part of the kernel: one stride-1 convolution for each phase.
    """
    stride_h, stride_w = geometry.strides
    if (stride_h, stride_w) == (1, 1):
        back = geometry.reversed()
        return forward(dy, _exchange(kernel, geometry.depthwise), back, shards)
    channels = kernel.shape[3] if geometry.depthwise else kernel.shape[2]
    height, width = geometry.input_size
    rows, columns = -(-height // stride_h), -(-width // stride_w)
    phases = []
    for a in range(stride_h):
        for b in range(stride_w):
            first_h, before_h = _phase(a, stride_h, geometry.padding[0][0])
            first_w, before_w = _phase(b, stride_w, geometry.padding[1][0])
            part = kernel[first_h::stride_h, first_w::stride_w]
            taps_h, taps_w = part.shape[:2]
            if not taps_h or not taps_w:
                phases.append(jnp.zeros((dy.shape[0], rows, columns, channels), dy.dtype))
                continue
            out_h, out_w = geometry.output_size
            low_h, low_w = taps_h - 1 - before_h, taps_w - 1 - before_w
            back = Geometry(
                input_size=(out_h, out_w),
                kernel_size=(taps_h, taps_w),
                strides=(1, 1),
                padding=(
                    (low_h, rows + taps_h - 1 - out_h - low_h),
                    (low_w, columns + taps_w - 1 - out_w - low_w),
                ),
                depthwise=geometry.depthwise,
            )
            phases.append(forward(dy, _exchange(part, geometry.depthwise), back, shards))
    grid = [phases[a * stride_w : (a + 1) * stride_w] for a in range(stride_h)]
    interleaved = jnp.stack([jnp.stack(row, 3) for row in grid], 2)
    whole = interleaved.reshape(dy.shape[0], rows * stride_h, columns * stride_w, channels)
    return whole[:, :height, :width]


def _phase(offset: int, stride: int, low: int) -> tuple[int, int]:
    """First kernel position that meets pixels of this phase, and how far it is shifted.

    Pixel `stride * r + offset` meets kernel position `p` at output `(stride * r + offset + low - p)
    / stride`; with `p = first + stride * t` that is `r + shift - t`.
    """
    first = (offset + low) % stride
    return first, (offset + low - first) // stride


def _exchange(kernel: jax.Array, is_depthwise: bool) -> jax.Array:
    """The kernel flipped along both axes, input and output channels exchanged."""
    flipped = jnp.flip(kernel, (0, 1))
    return flipped if is_depthwise else flipped.swapaxes(2, 3)


def kernel_gradient(x: jax.Array, dy: jax.Array, geometry: Geometry, shards: int = 1) -> jax.Array:
    """The gradient of `forward` with respect to the kernel, `[h, w, C, F]` (or `[h, w, 1, C]`)."""
    dtype = _compute_dtype(x)
    strides, padding = geometry.strides, geometry.padding
    channels, features = x.shape[3], dy.shape[3]
    taps = geometry.kernel_size[0] * geometry.kernel_size[1]
    local = x.shape[0] // shards or 1
    if _is_winograd(geometry, channels, features):
        rows, columns = winograd.tile_counts(geometry.output_size)
        images = chunk_size(local, 16 * rows * columns * max(channels, features) * dtype.itemsize)
        gradient = sum_chunks(
            lambda c, d: winograd.kernel_gradient(c.astype(dtype), d.astype(dtype), padding),
            (x, dy),
            images,
            shards,
        )
        return winograd.transform_kernel_gradient(gradient).astype(x.dtype)
    module = depthwise if geometry.depthwise else patches
    pixels = geometry.output_size[0] * geometry.output_size[1]
    floats = pixels * (2 if geometry.depthwise else taps) * channels
    images = chunk_size(local, floats * dtype.itemsize)
    gradient = sum_chunks(
        lambda c, d: module.kernel_gradient(
            c.astype(dtype), d.astype(dtype), geometry.kernel_size, strides, padding
        ),
        (x, dy),
        images,
        shards,
    )
    channels_in = 1 if geometry.depthwise else channels
    return gradient.reshape(*geometry.kernel_size, channels_in, features).astype(x.dtype)
