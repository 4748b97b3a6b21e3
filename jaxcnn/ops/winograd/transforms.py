"""The transforms of Winograd's algorithms: of images, kernels and results, and back.

The layout. An image is cut into tiles of m x m outputs; a tile reads P x P inputs, P = m + 2, and
neighboring tiles overlap by two. `transform_input` makes of `[n, H, W, C]` the array

    [P^2, T, C]    T = n * rows * columns, the tiles of all images of a chunk

whose entry `[i * P + j, t, c]` is point (i, j) of tile t. The kernel becomes `[P^2, C, F]`, so that
all is left to P^2 matrix products `[T, C] x [C, F]`, and `transform_output` takes their results,
`[P^2, T, F]`, back to `[n, H', W', F]`.

A transform goes along the height, then along the width, each time as `combine`: a sum over all
entries of a row of the matrix, zeros included. That is one loop, which XLA divides among the cores;
without the zeros each row is a loop of its own, and putting them together one more that runs on one
core.

Between the two steps the points of the height stand beside the channels, `[n, rows, W, P, C]`, so
that a core finds what it reads in its own cache. If they came first, every core would go through
all of a chunk once for each point.
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
from jaxcnn.ops.winograd.coefficients import Scheme, tile_counts

Split = Callable[[Chunk], Sequence[jax.Array]]


def combine(matrix: np.ndarray, split: Split, x: Chunk, axis: int) -> jax.Array:
    """The product of a matrix and the parts of `x`, along a new axis, in one loop.

    Args:
        matrix: `[rows, parts]`.
        split: Makes of `x` one array for each column of the matrix.
        x: The chunk.
        axis: Of the result, along which the rows of the matrix lie.

    Returns:
        An array of the shape of a part, with `rows` inserted at `axis`.
    """
    # Not inlined: XLA would compute it again for every use by the transform that follows. Barriers
    # prevent that only where the option `xla_disable_hlo_passes` keeps them.

    def combined(array: jax.Array, start: jax.Array | None) -> jax.Array:
        parts = split(x._replace(array=array, start=start))
        shape = list(parts[0].shape)
        shape.insert(axis, len(matrix))
        others = tuple(d for d in range(len(shape)) if d != axis)
        # Row r of the product is the sum over parts p of matrix[r, p] * part p: each term is a
        # part, repeated along the new axis, times the matrix's column.
        terms = [
            lax.broadcast_in_dim(part, shape, others)
            * lax.broadcast_in_dim(jnp.asarray(column, part.dtype), shape, (axis,))
            for part, column in zip(parts, matrix.T, strict=True)
        ]
        # One expression of the shape of the result: XLA makes one loop of it.
        return functools.reduce(jnp.add, terms)

    with set_xla_metadata(inlineable="false"):
        result: jax.Array = jax.jit(combined)(x.array, x.start)
    return result


def parts_along(axis: int, *order: int) -> Split:
    """Returns a function that splits an array along an axis, and orders the axes of the parts."""

    def split(x: Chunk) -> list[jax.Array]:
        parts = [lax.index_in_dim(x.array, i, axis, False) for i in range(x.array.shape[axis])]
        return [part.transpose(order or range(part.ndim)) for part in parts]

    return split


def transform_kernel(kernel: jax.Array, scheme: Scheme) -> jax.Array:
    """G g G^T: `[3, 3, C, F]` to `[P^2, C, F]`."""
    # [3, 3, C, F] to [P, 3, C, F] to [P, P, C, F].
    half = combine(scheme.g, parts_along(0), Chunk.of(kernel), 0)
    whole = combine(scheme.g, parts_along(1), Chunk.of(half), 1)
    return whole.reshape(-1, *kernel.shape[2:])


def transform_kernel_grad(gradient: jax.Array, scheme: Scheme) -> jax.Array:
    """The transpose of `transform_kernel`: `[P^2, C, F]` to `[3, 3, C, F]`."""
    whole = gradient.reshape(scheme.points, scheme.points, *gradient.shape[1:])
    # [P, P, C, F] to [P, 3, C, F] to [3, 3, C, F].
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
    """The entries at some places of every tile along an axis, zeros for what lies outside.

    The first tile begins `low` before the axis, the next a step further on. The zeros are filled in
    by the loop that reads the result: padding the images before would copy them.

    Args:
        x: The chunk, `[..., size, ...]`.
        axis: Along which the tiles lie.
        step: Entries from the first of a tile to the first of the next.
        tiles: Number of tiles.
        low: Entries of the first tile that lie before the axis.
        places: Within a tile, counted from its first entry.
        dtype: Of the result.

    Returns:
        An array `[..., tiles, ...]` for each place.
    """
    taken: set[tuple[int, int]] = set()

    def entry(i: int) -> jax.Array:
        # Entry i of tile t is i + step * t - low on the axis: negative in the first `before` tiles,
        # on the axis in the next `inside`, behind its end in the rest.
        before = min(tiles, max(0, -(-(low - i) // step)))
        first = i + step * before - low
        inside = max(0, min(tiles - before, -(-(x.array.shape[axis] - first) // step)))
        # Tiles at both ends may read the same rows, see `strided`; a spare one has to exist.
        is_spare = first + step * (inside - 1) + 1 < x.array.shape[axis]
        spare = int(is_spare and (first, inside) in taken)
        taken.add((first, inside))
        # The chunk's function is applied here; a norm would not leave zeros that are filled in.
        part = x.strided(axis, first, step, inside, spare).astype(dtype)
        config = [(0, 0, 0)] * part.ndim
        config[axis] = (before, tiles - before - inside, 0)
        return lax.pad(part, jnp.zeros((), dtype), config)

    return [entry(i) for i in places]


def transform_input(
    x: Chunk, lows: Pair, output_size: Pair, scheme: Scheme, dtype: jnp.dtype
) -> jax.Array:
    """B^T d B of every tile: `[n, H, W, C]` to `[P^2, T, C]` of `dtype`.

    Args:
        x: Images.
        lows: How far before the images the first tile begins, along height and width.
        output_size: Of the convolution, height and width.
        scheme: Along height and width.
        dtype: Of the result.
    """
    counts = tile_counts(output_size, scheme)
    return _into_tiles(scheme.bt, x, scheme.step, counts, lows, dtype)


def transform_output(
    products: jax.Array, images: int, output_size: Pair, scheme: Scheme
) -> jax.Array:
    """A^T y A of every tile: `[P^2, T, F]` to `[n, H, W, F]`."""
    (height, width), (rows, columns) = output_size, tile_counts(output_size, scheme)
    # [P, P, n, rows, columns, F]: points of the height, points of the width, tiles.
    tiles = products.reshape(scheme.points, scheme.points, images, rows, columns, -1)
    # The width: [n, P, rows, columns, m, F], the points of the height moved beside the images.
    half = combine(scheme.at, parts_along(1, 1, 0, 2, 3, 4), Chunk.of(tiles), 4)
    # The height: [n, rows, m, columns, m, F], which is the order of pixels.
    whole = combine(scheme.at, parts_along(1), Chunk.of(half), 2)
    whole = whole.reshape(images, scheme.outputs * rows, scheme.outputs * columns, -1)
    # The last tiles may reach beyond the output.
    return whole[:, :height, :width]


def transform_output_grad(dy: Chunk, scheme: Scheme, dtype: jnp.dtype) -> jax.Array:
    """The transpose of `transform_output`: `[n, H, W, F]` to `[P^2, T, F]` of `dtype`."""
    counts = tile_counts(height_width(dy.array), scheme)
    # Tiles of m x m outputs side by side: they do not overlap, as those of the input do.
    return _into_tiles(scheme.at.T, dy, scheme.outputs, counts, (0, 0), dtype)


def _into_tiles(
    matrix: np.ndarray, x: Chunk, step: int, tiles: Pair, lows: Pair, dtype: jnp.dtype
) -> jax.Array:
    """M d M^T of every tile: `[n, H, W, C]` to `[P^2, T, C]` of `dtype`; see `entries`."""
    places = range(matrix.shape[1])
    # The height: [n, rows, W, P, C].
    half = combine(matrix, lambda x: entries(x, 1, step, tiles[0], lows[0], places, dtype), x, 3)
    return across(matrix, half, step, tiles[1], dtype, lows[1])


def across(
    matrix: np.ndarray, half: jax.Array, step: int, tiles: int, dtype: jnp.dtype, low: int = 0
) -> jax.Array:
    """The second half of a transform: `[n, rows, W, P, C]` to `[P^2, T, C]`; see `entries`."""

    def split(half: Chunk) -> list[jax.Array]:
        parts = entries(half, 2, step, tiles, low, range(matrix.shape[1]), dtype)
        # [P, n, rows, tiles, C]: points first, as the products want them.
        return [part.transpose(3, 0, 1, 2, 4) for part in parts]

    # [P, P, n, rows, tiles, C].
    whole = combine(matrix, split, Chunk.of(half), 1)
    return whole.reshape(len(matrix) ** 2, -1, half.shape[4])
