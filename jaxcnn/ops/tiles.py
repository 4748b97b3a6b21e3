"""The transforms of Winograd's algorithm: of images, kernels and results, and back.

Toom and Cook's product of polynomials with 3 and m coefficients, transposed, along height and along
width (Lavin & Gray, arXiv:1509.09308, section 4.1). Tiles are `[a^2, T, C]`: a = m + 2 points along
height times as many along width, T tiles of all images in a chunk.

Every transform goes along one axis after the other, as a sum over all entries of a row of its
matrix, zeros included: one loop for XLA, which it divides among the cores. Without the zeros each
row is a loop of its own, and putting them together one more that runs on one core (32x32, 64
channels: 34 ms against 31 for the whole convolution; 16x16, 128: 24 against 20).

Between the two steps the positions stand beside the channels, `[n, rows, columns, a, C]`, or with
the image, so that a core finds what it reads in its own cache: ResNet-18's step takes 1,165 ms, and
1,261 if they come first (batch 128, 2 cores of an EPYC with AVX-512, jax 0.10.2, medians of 7).
"""

import functools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental.xla_metadata import set_xla_metadata

from jaxcnn.ops.chunks import Chunk
from jaxcnn.ops.geometry import Pads, Pair, height_width

# The points at which F(m x m, 3x3) evaluates its polynomials, besides infinity. 0, 1, -1, 2 and -2
# would leave twice the error for m = 4 (1.5e-6 of the norm against 0.7e-6, 64 channels); see
# Barabasz et al., arXiv:1803.10986, for why.
POINTS = {2: (0.0, 1.0, -1.0), 4: (0.0, 0.5**0.5, -(0.5**0.5), 2**0.5, -(2**0.5))}

Split = Callable[[Chunk], Sequence[jax.Array]]


@functools.cache
def _matrices(m: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A^T `[m, a]`, G `[a, 3]` and B^T `[a, a]`.

    Toom and Cook's product of polynomials with 3 and m coefficients, transposed: evaluate both at
    a - 1 points and at infinity, multiply, interpolate.
    """

    def evaluation(coefficients: int) -> np.ndarray:
        finite = [[point**k for k in range(coefficients)] for point in POINTS[m]]
        return np.array([*finite, [0.0] * (coefficients - 1) + [1.0]])

    interpolation = np.linalg.inv(evaluation(m + 2))
    return evaluation(m).T, evaluation(3), interpolation.T


@functools.cache
def _flipped(m: int) -> tuple[np.ndarray, np.ndarray]:
    """A^T and B^T for a kernel that is transformed as it is and is to be flipped.

    Flipped, a polynomial of 3 coefficients has at each point p the value that it had at 1 / p,
    times p^2; at 0 that at infinity. The inverse of every point is one.
    """
    at, _, bt = _matrices(m)
    points = (*POINTS[m], math.inf)
    inverses = [math.inf if point == 0 else 1 / point for point in points]
    places = [int(np.argmin(np.abs(np.arctan(points) - np.arctan(p)))) for p in inverses]
    factors = [1.0 if point in (0, math.inf) else point**2 for point in points]
    return (at * factors)[:, places], bt[places]


def tile_counts(output_size: Pair, m: int) -> Pair:
    """Tiles along height and width that cover an output of this size."""
    return -(-output_size[0] // m), -(-output_size[1] // m)


def _combine(matrix: np.ndarray, split: Split, x: Chunk, axis: int) -> jax.Array:
    """Sums of the parts of `x` by the rows of a matrix, stacked along a new axis, in one loop.

    A function of its own for XLA, which would compute it again for every use by the transform that
    follows: 32x32, 64 channels, forward, 99 in place of 35 ms. Barriers do the same only where
    `xla_disable_hlo_passes` keeps them.
    """

    def combine(array: jax.Array, start: jax.Array | None) -> jax.Array:
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
        combined: jax.Array = jax.jit(combine)(x.array, x.start)
    return combined


def _along(axis: int, *order: int) -> Split:
    """Splits an array along an axis, and brings the axes of the parts into an order."""

    def split(x: Chunk) -> list[jax.Array]:
        parts = [lax.index_in_dim(x.array, i, axis, False) for i in range(x.array.shape[axis])]
        return [part.transpose(order or range(part.ndim)) for part in parts]

    return split


def transform_kernel(kernel: jax.Array, m: int) -> jax.Array:
    """G g G^T: `[3, 3, C, F]` to `[a^2, C, F]`."""
    _, g, _ = _matrices(m)
    half = _combine(g, _along(0), Chunk.of(kernel), 0)
    whole = _combine(g, _along(1), Chunk.of(half), 1)
    return whole.reshape(-1, *kernel.shape[2:])


def transform_kernel_gradient(gradient: jax.Array, m: int) -> jax.Array:
    """The transpose of `transform_kernel`: `[a^2, C, F]` to `[3, 3, C, F]`."""
    _, g, _ = _matrices(m)
    whole = gradient.reshape(m + 2, m + 2, *gradient.shape[1:])
    half = _combine(g.T, _along(1), Chunk.of(whole), 1)
    return _combine(g.T, _along(0), Chunk.of(half), 0)


def _entries(
    x: Chunk, axis: int, m: int, tiles: int, low: int, count: int, dtype: jnp.dtype
) -> list[jax.Array]:
    """Entries 0 to `count` of each tile along an axis: `[..., size, ...]` to `[..., tiles, ...]`.

    The first tile begins `low` before the axis, the next m further on. Zeros for what lies outside
    are filled in by the loop that reads it; padded before, 32x32, 64 channels take 7.0 in place of
    4.9 ms, 4x4, 512 1.1 in place of 0.6.
    """

    def entry(i: int) -> jax.Array:
        before = min(tiles, max(0, -(-(low - i) // m)))
        first = i + m * before - low
        inside = max(0, min(tiles - before, -(-(x.array.shape[axis] - first) // m)))
        part = x.every(axis, first, m, inside).astype(dtype)
        config = [(0, 0, 0)] * part.ndim
        config[axis] = (before, tiles - before - inside, 0)
        return lax.pad(part, jnp.zeros((), dtype), config)

    return [entry(i) for i in range(count)]


def transform_input(
    x: Chunk, padding: Pads, output_size: Pair, m: int, dtype: jnp.dtype, is_flipped: bool = False
) -> jax.Array:
    """B^T d B of every tile: `[n, H, W, C]` to `[a^2, T, C]` of `dtype`."""
    bt = _flipped(m)[1] if is_flipped else _matrices(m)[2]
    lows = padding[0][0], padding[1][0]
    return _into_tiles(bt, x, m, tile_counts(output_size, m), lows, dtype)


def transform_output(
    products: jax.Array, images: int, output_size: Pair, m: int, is_flipped: bool = False
) -> jax.Array:
    """A^T y A of every tile: `[a^2, T, F]` to `[n, H, W, F]`."""
    at = _flipped(m)[0] if is_flipped else _matrices(m)[0]
    (height, width), (rows, columns) = output_size, tile_counts(output_size, m)
    tiles = products.reshape(m + 2, m + 2, images, rows, columns, -1)
    half = _combine(at, _along(1, 1, 0, 2, 3, 4), Chunk.of(tiles), 4)
    whole = _combine(at, _along(1), Chunk.of(half), 2)
    return whole.reshape(images, m * rows, m * columns, -1)[:, :height, :width]


def transform_output_gradient(dy: Chunk, m: int, dtype: jnp.dtype) -> jax.Array:
    """The transpose of `transform_output`: `[n, H, W, F]` to `[a^2, T, F]` of `dtype`."""
    at, _, _ = _matrices(m)
    return _into_tiles(at.T, dy, m, tile_counts(height_width(dy.array), m), (0, 0), dtype)


def _into_tiles(
    matrix: np.ndarray, x: Chunk, m: int, tiles: Pair, lows: Pair, dtype: jnp.dtype
) -> jax.Array:
    """M d M^T of every tile: `[n, H, W, C]` to `[a^2, T, C]` of `dtype`; see `_entries`."""
    entries = matrix.shape[1]

    def down(x: Chunk) -> list[jax.Array]:
        return _entries(x, 1, m, tiles[0], lows[0], entries, dtype)

    def across(half: Chunk) -> list[jax.Array]:
        parts = _entries(half, 2, m, tiles[1], lows[1], entries, dtype)
        return [part.transpose(3, 0, 1, 2, 4) for part in parts]

    half = _combine(matrix, down, x, 3)
    whole = _combine(matrix, across, Chunk.of(half), 1)
    return whole.reshape((m + 2) ** 2, -1, half.shape[4])
