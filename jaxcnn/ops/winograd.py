"""Dense 3x3 stride-1 convolutions as matrix products: Winograd's F(2x2, 3x3) and F(4x4, 3x3).

Lavin & Gray, "Fast Algorithms for Convolutional Neural Networks", arXiv:1509.09308, section 4.1:
Y = A^T [(G g G^T) * (B^T d B)] A for tiles of m x m outputs made from inputs of a x a, a = m + 2,
which takes a^2 multiplications instead of 9 m^2: 16 instead of 36, or 36 instead of 144. The
channel sum makes the product a^2 matrix products, one for each position in the tile.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from jaxcnn.ops import tiles
from jaxcnn.ops.chunks import Chunk, chunk_size, map_chunks, sum_chunks
from jaxcnn.ops.geometry import Geometry, Pads, Pair, height_width

# Tiles of one chunk: at 4, 8 and 12 MB ResNet-18 takes 1,147, 1,175 and 1,268 ms a step (batch 128,
# 2 cores of an EPYC with AVX-512, jax 0.10.2, medians of 7). Where the transformed kernels are
# larger (512 channels: 38 MB), as much as they are, so that they are read once.
_CHUNK_BYTES = 4 << 20

Multiply = Callable[[jax.Array, jax.Array], jax.Array]


# Below so many saved multiplications for each number of the transformed kernel, transforming it
# costs more: 4x4, 512 channels, forward, Winograd's against oneDNN's for 8, 32 and 128 images: 8.6
# and 4.0, 11.0 and 9.9, 18.7 and 32.3 ms; they save 24, 96 and 384.
LEAST_SAVED = 128


def _multiplications(output_size: Pair, m: int) -> int:
    rows, columns = tiles.tile_counts(output_size, m)
    return (m + 2) ** 2 * rows * columns


def _tile_size(output_size: Pair) -> int:
    """The m of the F(m x m, 3x3) with the fewest multiplications for outputs of this size."""
    return min(tiles.POINTS, key=lambda m: _multiplications(output_size, m))


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


def _chunk(batch: int, size: Pair, m: int, channels: int, features: int) -> int:
    """Images in a chunk."""
    rows, columns = tiles.tile_counts(size, m)
    kernels = 4 * (m + 2) ** 2 * channels * features
    image = 4 * (m + 2) ** 2 * rows * columns * max(channels, features)
    return chunk_size(batch, image, max(_CHUNK_BYTES, kernels))


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
    x, transformed = lax.optimization_barrier((x, tiles.transform_kernel(kernel, m)))

    def part(chunk: Chunk) -> jax.Array:
        points = tiles.transform_input(chunk, padding, size, m, kernel.dtype, is_flipped)
        products = multiply(points, transformed)
        y = tiles.transform_output(products, chunk.images, size, m, is_flipped)
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
        points = tiles.transform_input(x, padding, size, m, dtype)
        return multiply(points, tiles.transform_output_gradient(dy, m, dtype))

    images = _chunk(max(1, x.shape[0] // shards), size, m, x.shape[3], dy.shape[3])
    total = sum_chunks(part, (x, dy), images, shards, uncut=True)
    return tiles.transform_kernel_gradient(total, m)
