"""Dense 3x3 convolutions as matrix products: Winograd's algorithms.

Lavin & Gray, "Fast Algorithms for Convolutional Neural Networks", arXiv:1509.09308, section 4.1:
Y = A^T [(G g G^T) * (B^T d B)] A for tiles of m x m outputs, which takes a multiplication for each
of P x P points in place of 9 m^2: F(2x2, 3x3) 16 instead of 36, F(4x4, 3x3) 36 instead of 144. The
channel sum makes the product P^2 matrix products, one for each point.

With stride 2 there are 81 instead of 144, and 81 numbers for each 16 of the result, so that forward
and for the images nothing is gained (32x32, 64 to 128 channels: 28 ms forward, 39 for the images;
oneDNN's convolutions 25 and 33). The gradient of the kernel takes 33 in place of 48 ms, with 16x16,
128 to 256 channels 26 in place of 35, ResNet-18's step 0.96 times as long (batch 128, 2 cores of an
EPYC with AVX-512, jax 0.10.2, medians of 15, the step's of 40 pairs).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxcnn.ops import schemes, tiles
from jaxcnn.ops.chunks import Chunk, chunk_size, map_and_sum_chunks, map_chunks, sum_chunks
from jaxcnn.ops.geometry import Geometry, Pair, cropped
from jaxcnn.ops.norms import Rectified, Sums, totals
from jaxcnn.ops.schemes import Scheme

# Tiles of one chunk: at 4, 8 and 12 MB ResNet-18 takes 1,147, 1,175 and 1,268 ms a step (batch 128,
# 2 cores of an EPYC with AVX-512, jax 0.10.2, medians of 7). Where the transformed kernels are
# larger (512 channels: 38 MB), as much as they are, so that they are read once.
_CHUNK_BYTES = 4 << 20

Multiply = Callable[[jax.Array, jax.Array], jax.Array]


# Below so many saved multiplications for each number of the transformed kernel, transforming it
# costs more: 4x4, 512 channels, forward, Winograd's against oneDNN's for 8, 32 and 128 images: 8.6
# and 4.0, 11.0 and 9.9, 18.7 and 32.3 ms; they save 24, 96 and 384. With stride 2, for the gradient
# of the kernel, half of it is enough: 8x8, 256 to 512 channels, 32, 64 and 128 images: 9.3 and 6.9,
# 14.2 and 14.4, 25.7 and 29.7 ms; they save 25, 50 and 100.
LEAST_SAVED = 128

# The part of the multiplications that may be left, by stride, as there are transforms, too.
_MOST_LEFT = {1: 1 / 2, 2: 3 / 5}


def _multiplications(output_size: Pair, scheme: Scheme) -> int:
    rows, columns = tiles.tile_counts(output_size, scheme)
    return scheme.points**2 * rows * columns


def _scheme(output_size: Pair, stride: int = 1) -> Scheme:
    """The scheme with the fewest multiplications for outputs of this size."""
    if stride == 2:
        return schemes.strided()
    dense = map(schemes.dense, schemes.POINTS)
    return min(dense, key=lambda scheme: _multiplications(output_size, scheme))


def pays(geometry: Geometry, batch: int) -> bool:
    """Whether it saves enough multiplications of this convolution, or its kernel's gradient."""
    stride, across = geometry.strides
    dense = geometry.kernel_size == (3, 3) and not geometry.depthwise
    if not dense or stride != across or stride not in _MOST_LEFT:
        return False
    height, width = size = geometry.output_size
    scheme = _scheme(size, stride)
    direct, left = 9 * height * width, _multiplications(size, scheme)
    enough = batch * (direct - left) >= LEAST_SAVED / stride * scheme.points**2
    return left <= _MOST_LEFT[stride] * direct and enough


def forward(
    x: jax.Array,
    kernel: jax.Array,
    geometry: Geometry,
    multiply: Multiply,
    shards: int = 1,
    norm: Rectified | None = None,
) -> jax.Array:
    """The convolution of `[N, H, W, C]` with `[3, 3, C, F]`, computed in the kernel's dtype.

    Args:
      x: the images.
      kernel: of the convolution.
      geometry: of the convolution, whose stride is 1.
      multiply: products of `[P^2, T, C]` and `[P^2, C, F]`.
      shards: devices over which the batch may be sharded.
      norm: what makes of `x` the images; its padding must not be negative.
    """
    scheme = _scheme(geometry.output_size)
    return _convolve(x, kernel, geometry, scheme, multiply, shards, norm)


def input_gradient(
    dy: jax.Array, kernel: jax.Array, geometry: Geometry, multiply: Multiply, shards: int = 1
) -> jax.Array:
    """The gradient of `forward` with respect to the images, `[N, H, W, C]`.

    Args:
      dy: gradient of the convolution, `[N, H', W', F]`.
      kernel: as in `forward`.
      geometry: as in `forward`.
      multiply: products of `[P^2, T, F]` and, its last axes exchanged, `[P^2, C, F]`.
      shards: as in `forward`.
    """
    back = geometry.reversed()
    scheme = schemes.dense_flipped(_scheme(back.output_size).outputs)
    return _convolve(dy, kernel, back, scheme, multiply, shards)


def _convolve(
    x: jax.Array,
    kernel: jax.Array,
    geometry: Geometry,
    scheme: Scheme,
    multiply: Multiply,
    shards: int,
    norm: Rectified | None = None,
) -> jax.Array:
    """`forward` by a scheme."""
    x, ((top, _), (left, _)) = cropped(x, geometry.padding)
    size = geometry.output_size
    # The kernel is transformed in the same way for the gradient of the images, so XLA does it once:
    # ResNet-18's step takes 1,199 ms, and 1,237 with a transform of its own (times as above); 60 MB
    # more. The barrier keeps everything else until the kernel is transformed.
    x, transformed = lax.optimization_barrier((x, tiles.transform_kernel(kernel, scheme)))

    def part(chunk: Chunk) -> jax.Array:
        if norm is not None:
            chunk = chunk._replace(function=norm.of)
        points = tiles.transform_input(chunk, (top, left), size, scheme, kernel.dtype)
        products = multiply(points, transformed)
        return tiles.transform_output(products, chunk.images, size, scheme).astype(x.dtype)

    images = _chunk(max(1, x.shape[0] // shards), size, scheme, *kernel.shape[2:])
    return map_chunks(part, (x,), images, shards, uncut=True)


def kernel_gradient(
    x: jax.Array, dy: jax.Array, geometry: Geometry, multiply: Multiply, shards: int = 1
) -> jax.Array:
    """The gradient of `forward` with respect to the kernel, `[3, 3, C, F]`.

    Args:
      x: the images, `[N, H, W, C]`.
      dy: gradient of the convolution, `[N, H', W', F]`.
      geometry: of the convolution, whose stride is 1 or 2.
      multiply: sums over T of products of `[P^2, T, C]` and `[P^2, T, F]`.
      shards: as in `forward`.
    """
    size, dtype = geometry.output_size, jnp.promote_types(x.dtype, jnp.float32)
    scheme = _scheme(size, geometry.strides[0])
    x, ((top, _), (left, _)) = cropped(x, geometry.padding)

    def part(x: Chunk, dy: Chunk) -> jax.Array:
        points = tiles.transform_input(x, (top, left), size, scheme, dtype)
        return multiply(points, tiles.transform_output_gradient(dy, scheme, dtype))

    images = _chunk(max(1, x.shape[0] // shards), size, scheme, x.shape[3], dy.shape[3])
    total = sum_chunks(part, (x, dy), images, shards, uncut=True)
    return tiles.transform_kernel_gradient(total, scheme)


def gradients(
    x: jax.Array,
    kernel: jax.Array,
    dy: jax.Array,
    geometry: Geometry,
    multiply: Multiply,
    multiply_pixels: Multiply,
    shards: int = 1,
    norm: Rectified | None = None,
) -> tuple[jax.Array, jax.Array, Sums | None]:
    """`input_gradient` and `kernel_gradient`, of stride 1, from one transform of `dy`.

    That of the kernel is bilinear in the other two, so that either may be the one that is read in
    overlapping tiles; here it is `dy`, as the gradient of the images needs it.

    Args:
      x: the images, `[N, H, W, C]`.
      kernel: of the convolution, `[3, 3, C, F]`.
      dy: gradient of the convolution, `[N, H', W', F]`.
      geometry: of the convolution, whose stride is 1.
      multiply: as in `input_gradient`.
      multiply_pixels: as in `kernel_gradient`.
      shards: as in `forward`.
      norm: as in `forward`.

    Returns:
      The gradients of the images, after the norm if there is one, and of the kernel; with a norm
      also its `totals`.
    """
    back = geometry.reversed()
    size, dtype = back.output_size, kernel.dtype
    scheme = schemes.dense_flipped(_scheme(size).outputs)
    dy, ((top, _), (left, _)) = cropped(dy, back.padding)
    x, dy, transformed = lax.optimization_barrier((x, dy, tiles.transform_kernel(kernel, scheme)))

    def part(x: Chunk, dy: Chunk) -> tuple[jax.Array, Any]:
        points = tiles.transform_input(dy, (top, left), size, scheme, dtype)
        products = multiply(points, transformed)
        dx = tiles.transform_output(products, dy.images, size, scheme).astype(dy.array.dtype)
        images = x if norm is None else x._replace(function=norm.of)
        tiles_of_images = tiles.transform_output_gradient(images, scheme, dtype)
        sums = None if norm is None else totals(dx, x, norm.mean, norm.line)
        return dx, (multiply_pixels(tiles_of_images, points), sums)

    images = _chunk(max(1, x.shape[0] // shards), size, scheme, *kernel.shape[2:])
    dx, (total, sums) = map_and_sum_chunks(part, (x, dy), images, shards)
    return dx, tiles.transform_kernel_gradient(total, scheme), sums


def _chunk(batch: int, size: Pair, scheme: Scheme, channels: int, features: int) -> int:
    """Images in a chunk."""
    kernels = 4 * scheme.points**2 * channels * features
    image = 4 * _multiplications(size, scheme) * max(channels, features)
    return chunk_size(batch, image, max(_CHUNK_BYTES, kernels))
