"""Dense 3x3 stride-1 convolutions as matrix products: Winograd's F(2x2, 3x3) and F(4x4, 3x3).

Lavin & Gray, "Fast Algorithms for Convolutional Neural Networks", arXiv:1509.09308, section 4.1:
Y = A^T [(G g G^T) * (B^T d B)] A for tiles of m x m outputs made from inputs of a x a, a = m + 2,
which takes a^2 multiplications instead of 9 m^2: 16 instead of 36, or 36 instead of 144. The
channel sum makes the product a^2 matrix products, one for each position in the tile. Here tiles are
`[a^2, T, C]`, T counting tiles of all images in a chunk.

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

from jaxcnn.ops.chunks import Chunk, chunk_size, map_chunks, sum_chunks
from jaxcnn.ops.geometry import Geometry, Pads, Pair, height_width

# The points at which F(m x m, 3x3) evaluates its polynomials, besides infinity. 0, 1, -1, 2 and -2
# would leave twice the error for m = 4 (1.5e-6 of the norm against 0.7e-6, 64 channels); see
# Barabasz et al., arXiv:1803.10986, for why.
_POINTS = {2: (0.0, 1.0, -1.0), 4: (0.0, 0.5**0.5, -(0.5**0.5), 2**0.5, -(2**0.5))}

# Tiles of one chunk. Forward, 32x32, 64 channels at 4, 8 and 16 MB: 33, 31 and 35 ms; 8x8, 256: 19,
# 19 and 19. Gradient of the kernel, 16x16, 128: 27, 27 and 28 ms. Where the transformed kernels
# are larger (512 channels: 38 MB), as much as they are: 40, 33 and, at 38 MB, 25 ms (4x4).
_CHUNK_BYTES = 8 << 20

Multiply = Callable[[jax.Array, jax.Array], jax.Array]
Split = Callable[[Chunk], Sequence[jax.Array]]


@functools.cache
def _matrices(m: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A^T `[m, a]`, G `[a, 3]` and B^T `[a, a]`.

    Toom and Cook's product of polynomials with 3 and m coefficients, transposed: evaluate both at
    a - 1 points and at infinity, multiply, interpolate.
    """

    def evaluation(coefficients: int) -> np.ndarray:
        finite = [[point**k for k in range(coefficients)] for point in _POINTS[m]]
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
    points = (*_POINTS[m], math.inf)
    inverses = [math.inf if point == 0 else 1 / point for point in points]
    places = [int(np.argmin(np.abs(np.arctan(points) - np.arctan(p)))) for p in inverses]
    factors = [1.0 if point in (0, math.inf) else point**2 for point in points]
    return (at * factors)[:, places], bt[places]


# Below so many saved multiplications for each number of the transformed kernel, transforming it
# costs more: 4x4, 512 channels, forward, Winograd's against oneDNN's for 8, 32 and 128 images: 8.6
# and 4.0, 11.0 and 9.9, 18.7 and 32.3 ms; they save 24, 96 and 384.
LEAST_SAVED = 128


def _multiplications(output_size: Pair, m: int) -> int:
    rows, columns = tile_counts(output_size, m)
    return (m + 2) ** 2 * rows * columns


def _tile_size(output_size: Pair) -> int:
    """The m of the F(m x m, 3x3) with the fewest multiplications for outputs of this size."""
    return min(_POINTS, key=lambda m: _multiplications(output_size, m))


def pays(geometry: Geometry, batch: int) -> bool:
    """Whether it can compute this convolution, and saves enough multiplications.

    At least half of them, for there are the transforms of the images, too.
    """
    height, width = size = geometry.output_size
    m = _tile_size(size)
    direct, fewest = 9 * height * width, _multiplications(size, m)
    dense = geometry.kernel_size == (3, 3) and not geometry.depthwise
    enough = batch * (direct - fewest) >= LEAST_SAVED * (m + 2) ** 2
    return dense and geometry.strides == (1, 1) and 2 * fewest <= direct and enough


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


def _chunk(batch: int, size: Pair, m: int, channels: int, features: int) -> int:
    """Images in a chunk."""
    rows, columns = tile_counts(size, m)
    kernels = 4 * (m + 2) ** 2 * channels * features
    tiles = 4 * (m + 2) ** 2 * rows * columns * max(channels, features)
    return chunk_size(batch, tiles, max(_CHUNK_BYTES, kernels))


def forward(
    x: jax.Array,
    kernel: jax.Array,
    padding: Pads,
    size: Pair,
    multiply: Multiply,
    shards: int = 1,
    is_flipped: bool = False,
) -> jax.Array:
    """The convolution of `[N, H, W, C]` with `[3, 3, C, F]`, computed in the kernel's dtype.

    Args:
      x: the images.
      kernel: of the convolution; `[3, 3, F, C]` if `multiply` exchanges its channels.
      padding: zeros before and after, along height and width.
      size: of the result, height and width.
      multiply: products of `[a^2, T, C]` and `[a^2, C, F]`.
      shards: devices over which the batch may be sharded.
      is_flipped: whether the kernel is flipped along height and width, as for the gradient of the
        images.
    """
    m = _tile_size(size)
    # The kernel is transformed in the same way for the gradient of the images, so XLA does it once:
    # ResNet-18's step takes 1,199 ms, and 1,237 with a transform of its own (times as above); 60 MB
    # more. The barrier keeps everything else until the kernel is transformed.
    x, transformed = lax.optimization_barrier((x, transform_kernel(kernel, m)))

    def part(chunk: Chunk) -> jax.Array:
        tiles = transform_input(chunk, padding, size, m, kernel.dtype, is_flipped)
        y = transform_output(multiply(tiles, transformed), chunk.images, size, m, is_flipped)
        return y.astype(x.dtype)

    images = _chunk(max(1, x.shape[0] // shards), size, m, *kernel.shape[2:])
    return map_chunks(part, (x,), images, shards, uncut=True)


def kernel_gradient(
    x: jax.Array, dy: jax.Array, padding: Pads, multiply: Multiply, shards: int = 1
) -> jax.Array:
    """The gradient of `forward` with respect to the kernel, `[3, 3, C, F]`.

    Args:
      x: the images, `[N, H, W, C]`.
      dy: gradient of the convolution, `[N, H', W', F]`.
      padding: as in `forward`.
      multiply: sums over T of products of `[a^2, T, C]` and `[a^2, T, F]`.
      shards: devices over which the batch may be sharded.
    """
    size, dtype = height_width(dy), jnp.promote_types(x.dtype, jnp.float32)
    m = _tile_size(size)

    def part(x: Chunk, dy: Chunk) -> jax.Array:
        tiles = transform_input(x, padding, size, m, dtype)
        return multiply(tiles, transform_output_gradient(dy, m, dtype))

    images = _chunk(max(1, x.shape[0] // shards), size, m, x.shape[3], dy.shape[3])
    total = sum_chunks(part, (x, dy), images, shards, uncut=True)
    return transform_kernel_gradient(total, m)
