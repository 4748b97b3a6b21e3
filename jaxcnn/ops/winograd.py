"""How a dense 3x3 stride-1 convolution becomes matrix products: Winograd's F(2x2, 3x3).

Lavin & Gray, "Fast Algorithms for Convolutional Neural Networks", arXiv:1509.09308, section 4.1:
Y = A^T [(G g G^T) * (B^T d B)] A for tiles of 2x2 outputs made from 4x4 inputs, which takes 16
multiplications instead of 36. The channel sum makes the product 16 matrix products, one for each
position in the tile. Here tiles are 16 times `[T, C]`, T counting tiles of all images in a chunk.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxcnn.ops.geometry import Pads, Pair, height_width

_BT = ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1))
_G = ((1, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1))
_AT = ((1, 1, 1, 0), (0, 1, -1, -1))
_A = tuple(zip(*_AT, strict=True))

Grid = list[list[jax.Array]]


def _combine(coefficients: tuple[float, ...], arrays: list[jax.Array]) -> jax.Array:
    """Sum of coefficient * array for coefficients 1, -1 and 0, as plain additions."""
    terms = [(c, a) for c, a in zip(coefficients, arrays, strict=True) if c]
    terms.sort(key=lambda term: -term[0])  # Begin with a positive one: no negation.
    total = terms[0][1] if terms[0][0] > 0 else -terms[0][1]
    for c, a in terms[1:]:
        total = total + a if c > 0 else total - a
    return total


def _both_axes(matrix: tuple[tuple[float, ...], ...], grid: Grid) -> Grid:
    """Matrix @ grid @ matrix^T, each entry of the grid being an array."""
    columns = list(zip(*grid, strict=True))
    half = [[_combine(row, list(column)) for column in columns] for row in matrix]
    return [[_combine(row, entries) for row in matrix] for entries in half]


def tile_counts(output_size: Pair) -> Pair:
    """Tiles along height and width that cover an output of this size."""
    return -(-output_size[0] // 2), -(-output_size[1] // 2)


def transform_kernel(kernel: jax.Array) -> jax.Array:
    """G g G^T: `[3, 3, C, F]` to `[16, C, F]`."""
    g = np.asarray(_G, kernel.dtype)
    return jnp.einsum("ip,jq,pqcf->ijcf", g, g, kernel).reshape(16, *kernel.shape[2:])


def transform_kernel_gradient(gradient: jax.Array) -> jax.Array:
    """The transpose of `transform_kernel`: `[16, C, F]` to `[3, 3, C, F]`."""
    g = np.asarray(_G, gradient.dtype)
    return jnp.einsum("ip,jq,ijcf->pqcf", g, g, gradient.reshape(4, 4, *gradient.shape[1:]))


def transform_input(x: jax.Array, padding: Pads, output_size: Pair) -> list[jax.Array]:
    """B^T d B of every tile: `[n, H, W, C]` to 16 times `[T, C]`."""
    rows, columns = tile_counts(output_size)
    config = [(0, 0, 0)] + [
        (low, 2 * tiles + 2 - size - low, 0)
        for tiles, size, (low, _) in zip((rows, columns), x.shape[1:3], padding, strict=True)
    ]
    padded = lax.pad(x, jnp.zeros((), x.dtype), [*config, (0, 0, 0)])
    grid = [
        [padded[:, i : i + 2 * rows - 1 : 2, j : j + 2 * columns - 1 : 2] for j in range(4)]
        for i in range(4)
    ]
    return [v.reshape(-1, x.shape[3]) for row in _both_axes(_BT, grid) for v in row]


def transform_output(products: list[jax.Array], images: int, output_size: Pair) -> jax.Array:
    """A^T m A of every tile: 16 times `[T, F]` to `[n, H, W, F]`."""
    rows, columns = tile_counts(output_size)
    m = [product.reshape(images, rows, columns, -1) for product in products]
    y = _both_axes(_AT, [m[4 * i : 4 * i + 4] for i in range(4)])
    interleaved = jnp.stack([jnp.stack(row, 3) for row in y], 2)
    whole = interleaved.reshape(images, 2 * rows, 2 * columns, -1)
    return whole[:, : output_size[0], : output_size[1]]


def transform_output_gradient(dy: jax.Array) -> jax.Array:
    """The transpose of `transform_output`: `[n, H, W, F]` to `[16, T, F]`."""
    n, height, width, features = dy.shape
    rows, columns = tile_counts((height, width))
    dy = jnp.pad(dy, ((0, 0), (0, 2 * rows - height), (0, 2 * columns - width), (0, 0)))
    d = dy.reshape(n, rows, 2, columns, 2, features)
    tiles = _both_axes(_A, [[d[:, :, p, :, q] for q in range(2)] for p in range(2)])
    return jnp.stack([v.reshape(-1, features) for row in tiles for v in row])


def forward(x: jax.Array, transformed: jax.Array, padding: Pads, output_size: Pair) -> jax.Array:
    """The convolution of `[n, H, W, C]` with a kernel already transformed, `[16, C, F]`."""
    # 16 products, not one batched product, whose operand would have to be put together first: 68
    # ms against 74 (128 images, 32x32, 64 channels; 2 cores of an EPYC, jax 0.10.2, best of 5).
    tiles = transform_input(x, padding, output_size)
    products = [tile @ transformed[i] for i, tile in enumerate(tiles)]
    return transform_output(products, x.shape[0], output_size)


def kernel_gradient(x: jax.Array, dy: jax.Array, padding: Pads) -> jax.Array:
    """The gradient of the transformed kernel, `[16, C, F]`."""
    # Transposed before the product: Eigen is slow where the left operand is (94 ms against 104).
    tiles = jnp.stack(transform_input(x, padding, height_width(dy))).swapaxes(1, 2)
    return jnp.matmul(lax.optimization_barrier(tiles), transform_output_gradient(dy))
