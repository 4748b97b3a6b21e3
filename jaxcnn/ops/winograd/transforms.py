"""The transforms of Winograd's algorithm: of images, kernels and results, and back.

A scheme (`schemes`) of P points for height and width makes tiles `[P^2, T, C]`, T of all images in
a chunk.

Every transform goes along one axis after the other, as a sum over all entries of a row of its
matrix, zeros included: one loop for XLA, which it divides among the cores. Without the zeros each
row is a loop of its own, and putting them together one more that runs on one core (32x32, 64
channels: 34 ms against 31 for the whole convolution; 16x16, 128: 24 against 20).

Between the two steps the positions stand beside the channels, `[n, rows, columns, P, C]`, or with
the image, so that a core finds what it reads in its own cache: ResNet-18's step takes 1,165 ms, and
1,261 if they come first (batch 128, 2 cores of an EPYC with AVX-512, jax 0.10.2, medians of 7).
"""

import functools
from collections.abc import Callable, Iterable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental.xla_metadata import set_xla_metadata

from jaxcnn.ops.chunks import Chunk
from jaxcnn.ops.spec import Pair, height_width
from jaxcnn.ops.winograd.coefficients import Scheme

Split = Callable[[Chunk], Sequence[jax.Array]]


def tile_counts(output_size: Pair, scheme: Scheme) -> Pair:
    """Tiles along height and width that cover an output of this size."""
    return -(-output_size[0] // scheme.outputs), -(-output_size[1] // scheme.outputs)


def combine(matrix: np.ndarray, split: Split, x: Chunk, axis: int) -> jax.Array:
    """Sums of the parts of `x` by the rows of a matrix, stacked along a new axis, in one loop.

    A function of its own for XLA, which would compute it again for every use by the transform that
    follows: 32x32, 64 channels, forward, 99 in place of 35 ms. Barriers do the same only where
    `xla_disable_hlo_passes` keeps them.
    """

    def combined(array: jax.Array, start: jax.Array | None) -> jax.Array:
        parts = split(x._replace(array=array, start=start))
        shape = list(parts[0].shape)
        shape.insert(axis, len(matrix))
        others = tuple(d for d in range(len(shape)) if d != axis)
        terms = [
            lax.broadcast_in_dim(part, shape, others)
            * lax.broadcast_in_dim(jnp.asarray(column, part.dtype), shape, (axis,))
            for part, column in zip(parts, matrix.T, strict=True)
        ]
        return functools.reduce(jnp.add, terms)

    with set_xla_metadata(inlineable="false"):
        result: jax.Array = jax.jit(combined)(x.array, x.start)
    return result


def parts_along(axis: int, *order: int) -> Split:
    """Splits an array along an axis, and brings the axes of the parts into an order."""

    def split(x: Chunk) -> list[jax.Array]:
        parts = [lax.index_in_dim(x.array, i, axis, False) for i in range(x.array.shape[axis])]
        return [part.transpose(order or range(part.ndim)) for part in parts]

    return split


def transform_kernel(kernel: jax.Array, scheme: Scheme) -> jax.Array:
    """G g G^T: `[3, 3, C, F]` to `[P^2, C, F]`."""
    half = combine(scheme.g, parts_along(0), Chunk.of(kernel), 0)
    whole = combine(scheme.g, parts_along(1), Chunk.of(half), 1)
    return whole.reshape(-1, *kernel.shape[2:])


def transform_kernel_gradient(gradient: jax.Array, scheme: Scheme) -> jax.Array:
    """The transpose of `transform_kernel`: `[P^2, C, F]` to `[3, 3, C, F]`."""
    whole = gradient.reshape(scheme.points, scheme.points, *gradient.shape[1:])
    half = combine(scheme.g.T, parts_along(1), Chunk.of(whole), 1)
    return combine(scheme.g.T, parts_along(0), Chunk.of(half), 0)


def entries(
    x: Chunk,
    axis: int,
    step: int,
    tiles: int,
    low: int,
    places: Iterable[int],
    dtype: jnp.dtype,
) -> list[jax.Array]:
    """What lies at places of each tile along an axis: `[..., size, ...]` to `[..., tiles, ...]`.

    The first tile begins `low` before the axis, the next a step further on. Zeros for what lies
    outside are filled in by the loop that reads it; padded before, 32x32, 64 channels take 7.0 in
    place of 4.9 ms, 4x4, 512 1.1 in place of 0.6.
    """

    def entry(i: int) -> jax.Array:
        before = min(tiles, max(0, -(-(low - i) // step)))
        first = i + step * before - low
        inside = max(0, min(tiles - before, -(-(x.array.shape[axis] - first) // step)))
        part = x.every(axis, first, step, inside).astype(dtype)
        config = [(0, 0, 0)] * part.ndim
        config[axis] = (before, tiles - before - inside, 0)
        return lax.pad(part, jnp.zeros((), dtype), config)

    return [entry(i) for i in places]


def transform_input(
    x: Chunk, lows: Pair, output_size: Pair, scheme: Scheme, dtype: jnp.dtype
) -> jax.Array:
    """B^T d B of every tile: `[n, H, W, C]` to `[P^2, T, C]` of `dtype`.

    Args:
      x: the images.
      lows: how far before the images the first tile begins, along height and width.
      output_size: of the convolution, height and width.
      scheme: along height and width.
      dtype: of the tiles.
    """
    counts = tile_counts(output_size, scheme)
    return _into_tiles(scheme.bt, x, scheme.step, counts, lows, dtype)


def transform_output(
    products: jax.Array, images: int, output_size: Pair, scheme: Scheme
) -> jax.Array:
    """A^T y A of every tile: `[P^2, T, F]` to `[n, H, W, F]`."""
    (height, width), (rows, columns) = output_size, tile_counts(output_size, scheme)
    tiles = products.reshape(scheme.points, scheme.points, images, rows, columns, -1)
    half = combine(scheme.at, parts_along(1, 1, 0, 2, 3, 4), Chunk.of(tiles), 4)
    whole = combine(scheme.at, parts_along(1), Chunk.of(half), 2)
    whole = whole.reshape(images, scheme.outputs * rows, scheme.outputs * columns, -1)
    return whole[:, :height, :width]


def transform_output_gradient(dy: Chunk, scheme: Scheme, dtype: jnp.dtype) -> jax.Array:
    """The transpose of `transform_output`: `[n, H, W, F]` to `[P^2, T, F]` of `dtype`."""
    counts = tile_counts(height_width(dy.array), scheme)
    return _into_tiles(scheme.at.T, dy, scheme.outputs, counts, (0, 0), dtype)


def _into_tiles(
    matrix: np.ndarray, x: Chunk, step: int, tiles: Pair, lows: Pair, dtype: jnp.dtype
) -> jax.Array:
    """M d M^T of every tile: `[n, H, W, C]` to `[P^2, T, C]` of `dtype`; see `entries`."""
    places = range(matrix.shape[1])
    half = combine(matrix, lambda x: entries(x, 1, step, tiles[0], lows[0], places, dtype), x, 3)
    return across(matrix, half, step, tiles[1], dtype, lows[1])


def across(
    matrix: np.ndarray, half: jax.Array, step: int, tiles: int, dtype: jnp.dtype, low: int = 0
) -> jax.Array:
    """The second half of a transform: `[n, rows, W, P, C]` to `[P^2, T, C]`; see `entries`."""

    def split(half: Chunk) -> list[jax.Array]:
        parts = entries(half, 2, step, tiles, low, range(matrix.shape[1]), dtype)
        return [part.transpose(3, 0, 1, 2, 4) for part in parts]

    whole = combine(matrix, split, Chunk.of(half), 1)
    return whole.reshape(len(matrix) ** 2, -1, half.shape[4])
