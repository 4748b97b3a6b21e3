"""The gradient of 3x3 kernels of stride 2 as matrix products, by Winograd's algorithm.

The outer taps along an axis meet every other pixel: two taps, F(4, 2), five products in place of
eight. The inner tap meets those between, one product for each output. So the nine taps fall into
four groups: corners, 25 products for 16 outputs; those above and below the centre, and those beside
it, 20 each; the centre, 16. That is 81 in place of 144; and products that are summed up into the
same numbers are one: there are 25 + 5 + 5 + 1 matrices.

Forward and for the images nothing is gained, as each of the 81 would have to be written and read
again: 32x32, 64 to 128 channels, 28 ms forward, 39 for the images; oneDNN's convolutions 25 and 33
(batch 128, 2 cores of an EPYC with AVX-512, jax 0.10.2, medians of 15).
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxcnn.ops.chunks import Chunk, chunk_size, sum_chunks
from jaxcnn.ops.spec import ConvSpec, Pair, cropped
from jaxcnn.ops.winograd import coefficients, stride1
from jaxcnn.ops.winograd import transforms as tiles
from jaxcnn.ops.winograd.stride1 import Products

# Transformed images and gradients of one chunk, or twice the sums if they are larger, so that these
# are read and written less often. 32x32, 64 to 128 channels, 4, 8, 16 images: 28.4, 27.3, 28.0 ms;
# 16x16, 128 to 256: 8, 16, 32 images: 22.6, 21.2, 20.5; 8x8, 256 to 512: 32, 64, 128: 23.3, 20.4,
# 17.9 (batch 128, 2 cores of an EPYC with AVX-512, jax 0.10.2, medians of 25).
_CHUNK_BYTES = 16 << 20

# The part of the multiplications that may be left, as there are transforms, too.
_MOST_LEFT = 3 / 5


def is_profitable(spec: ConvSpec, batch: int) -> bool:
    """Whether it saves enough multiplications of this kernel's gradient."""
    dense = spec.kernel_size == (3, 3) and not spec.depthwise
    if not dense or spec.strides != (2, 2):
        return False
    height, width = size = spec.output_size
    direct, left = 9 * height * width, _multiplications(size)
    enough = batch * (direct - left) >= stride1.LEAST_SAVED / 2 * _matrices()
    return left <= _MOST_LEFT * direct and enough


def _multiplications(size: Pair) -> int:
    """Those for an output of this size."""
    points, counts = coefficients.outer_taps().points, _tile_counts(size)
    down, across = (points * count + n for n, count in zip(size, counts, strict=True))
    return down * across


def _matrices() -> int:
    return (coefficients.outer_taps().points + 1) ** 2


def _tile_counts(size: Pair) -> Pair:
    return tiles.tile_counts(size, coefficients.outer_taps())


def conv_kernel_grad(
    x: jax.Array, dy: jax.Array, spec: ConvSpec, products: Products, shards: int = 1
) -> jax.Array:
    """The gradient of the convolution with respect to the kernel, `[3, 3, C, F]`.

    Args:
      x: the images, `[N, H, W, C]`.
      dy: gradient of the convolution, `[N, H', W', F]`.
      spec: of the convolution, whose stride is 2.
      products: that compute it.
      shards: devices over which the batch may be sharded.
    """
    scheme, size = coefficients.outer_taps(), spec.output_size
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    x, pads = cropped(x, spec.padding)
    lows, counts = (pads[0][0], pads[1][0]), _tile_counts(size)
    outputs, points, multiply = scheme.outputs, scheme.points, products.transposed

    def between(x: Chunk, axis: int) -> jax.Array:
        """The pixels along an axis that inner taps meet."""
        return tiles.entries(x, axis, 2, size[axis - 1], lows[axis - 1], (1,), dtype)[0]

    def met(x: Chunk, axis: int) -> list[jax.Array]:
        """For each tile along an axis the pixels that outer taps meet."""
        step, places = 2 * outputs, range(0, 2 * points, 2)
        return tiles.entries(x, axis, step, counts[axis - 1], lows[axis - 1], places, dtype)

    def of_outputs(dy: Chunk, axis: int) -> list[jax.Array]:
        """For each tile along an axis its outputs."""
        return tiles.entries(dy, axis, outputs, counts[axis - 1], 0, range(outputs), dtype)

    def part(x: Chunk, dy: Chunk) -> Sequence[jax.Array]:
        def along(axis: int, other: int) -> jax.Array:
            """Products of the two outer taps along one axis, the inner tap of the other."""

            def images(x: Chunk) -> list[jax.Array]:
                return [between(Chunk.of(pixels), other) for pixels in met(x, axis)]

            a = tiles.combine(scheme.bt, images, x, 0)
            b = tiles.combine(scheme.at.T, lambda dy: of_outputs(dy, axis), dy, 0)
            return multiply(*(array.reshape(points, -1, array.shape[4]) for array in (a, b)))

        def met_along_both(x: Chunk) -> list[jax.Array]:
            """For each row of tiles the pixels that outer taps meet along both axes."""
            width = outputs * counts[1] + 1
            return [
                tiles.entries(Chunk.of(rows), 2, 2, width, lows[1], (0,), dtype)[0]
                for rows in met(x, 1)
            ]

        half = tiles.combine(scheme.bt, met_along_both, x, 3)
        a = tiles.across(scheme.bt, half, outputs, counts[1], dtype)
        of_corners = multiply(a, tiles.transform_output_gradient(dy, scheme, dtype))
        centre = between(Chunk.of(between(x, 1)), 2)
        pixels = dy.cut().astype(dtype)
        of_centre = multiply(*(array.reshape(-1, array.shape[3]) for array in (centre, pixels)))
        return of_corners, along(1, 2), along(2, 1), of_centre

    channels, features = x.shape[3], dy.shape[3]
    image = 4 * _multiplications(size) * (channels + features)
    budget = max(_CHUNK_BYTES, 2 * 4 * _matrices() * channels * features)
    images = chunk_size(max(1, x.shape[0] // shards), image, budget)
    corners, down, across, centre = sum_chunks(part, (x, dy), images, shards, lazy=True)
    (a, b), (c, d) = tiles.transform_kernel_gradient(corners, scheme)
    above, below = tiles.combine(scheme.g.T, tiles.parts_along(0), Chunk.of(down), 0)
    left, right = tiles.combine(scheme.g.T, tiles.parts_along(0), Chunk.of(across), 0)
    return jnp.stack([a, above, b, left, centre, right, c, below, d]).reshape(3, 3, *centre.shape)
