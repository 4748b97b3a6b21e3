"""Dense 3x3 convolutions as matrix products: Winograd's algorithms.

Lavin & Gray, "Fast Algorithms for Convolutional Neural Networks", arXiv:1509.09308, section 4.1:
Y = A^T [(G g G^T) * (B^T d B)] A for tiles of m x m outputs, which takes a multiplication for each
of P x P points in place of 9 m^2: F(2x2, 3x3) 16 instead of 36, F(4x4, 3x3) 36 instead of 144. The
channel sum makes the product P^2 matrix products, one for each point.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxcnn.ops.chunks import Chunk, chunk_size, map_and_sum_chunks, map_chunks, sum_chunks
from jaxcnn.ops.norm import NormRelu, Sums, at_least_float32, totals
from jaxcnn.ops.spec import ConvSpec, Pair, cropped
from jaxcnn.ops.winograd import coefficients
from jaxcnn.ops.winograd import transforms as tiles
from jaxcnn.ops.winograd.coefficients import Scheme

# Tiles of one chunk: at 4, 8 and 12 MB ResNet-18 takes 1,147, 1,175 and 1,268 ms a step (batch 128,
# 2 cores of an EPYC with AVX-512, jax 0.10.2, medians of 7). Where the transformed kernels are
# larger (512 channels: 38 MB), as much as they are, so that they are read once.
_CHUNK_BYTES = 4 << 20

Multiply = Callable[[jax.Array, jax.Array], jax.Array]


class Products(NamedTuple):
    """A library's products of matrices, one pair or a stack of them.

    Attributes:
      plain: of `[..., T, C]` and `[..., C, F]`.
      exchanged: of `[..., T, F]` and, its last axes exchanged, `[..., C, F]`.
      transposed: sums over T of products of `[..., T, C]` and `[..., T, F]`.
    """

    plain: Multiply
    exchanged: Multiply
    transposed: Multiply


# Below so many saved multiplications for each number of the transformed kernel, transforming it
# costs more: 4x4, 512 channels, forward, Winograd's against oneDNN's for 8, 32 and 128 images: 8.6
# and 4.0, 11.0 and 9.9, 18.7 and 32.3 ms; they save 24, 96 and 384.
LEAST_SAVED = 128

# The part of the multiplications that may be left, as there are transforms, too.
_MOST_LEFT = 1 / 2


def _multiplications(output_size: Pair, scheme: Scheme) -> int:
    rows, columns = tiles.tile_counts(output_size, scheme)
    return scheme.points**2 * rows * columns


def _scheme(output_size: Pair) -> Scheme:
    """The scheme with the fewest multiplications for outputs of this size."""
    dense = map(coefficients.dense, coefficients.POINTS)
    return min(dense, key=lambda scheme: _multiplications(output_size, scheme))


def is_profitable(spec: ConvSpec, batch: int) -> bool:
    """Whether it saves enough multiplications of this convolution."""
    dense = spec.kernel_size == (3, 3) and not spec.depthwise
    if not dense or spec.strides != (1, 1):
        return False
    height, width = size = spec.output_size
    scheme = _scheme(size)
    direct, left = 9 * height * width, _multiplications(size, scheme)
    enough = batch * (direct - left) >= LEAST_SAVED * scheme.points**2
    return left <= _MOST_LEFT * direct and enough


def forward(
    x: jax.Array,
    kernel: jax.Array,
    spec: ConvSpec,
    products: Products,
    shards: int = 1,
    norm: NormRelu | None = None,
) -> jax.Array:
    """The convolution of `[N, H, W, C]` with `[3, 3, C, F]`, computed in float32 or better.

    Args:
      x: the images.
      kernel: of the convolution.
      spec: of the convolution, whose stride is 1.
      products: that compute it.
      shards: devices over which the batch may be sharded.
      norm: what makes of `x` the images; its padding must not be negative.
    """
    scheme = _scheme(spec.output_size)
    transformed = _transformed(kernel, scheme)
    return _convolve(x, transformed, spec, scheme, products.plain, shards, norm)


def conv_input_grad(
    dy: jax.Array, kernel: jax.Array, spec: ConvSpec, products: Products, shards: int = 1
) -> jax.Array:
    """The gradient of `forward` with respect to the images, `[N, H, W, C]`.

    Args:
      dy: gradient of the convolution, `[N, H', W', F]`.
      kernel: as in `forward`.
      spec: as in `forward`.
      products: as in `forward`.
      shards: as in `forward`.
    """
    back = spec.reversed()
    scheme = coefficients.dense_flipped(_scheme(back.output_size).outputs)
    transformed, multiply = _backwards(kernel, scheme, products)
    return _convolve(dy, transformed, back, scheme, multiply, shards)


def _transformed(kernel: jax.Array, scheme: Scheme) -> jax.Array:
    """`[3, 3, C, F]` to `[P^2, C, F]`, in float32 or better."""
    return tiles.transform_kernel(at_least_float32(kernel), scheme)


def _backwards(kernel: jax.Array, scheme: Scheme, products: Products) -> tuple[jax.Array, Multiply]:
    """The transformed kernel for the gradient of the images, and what multiplies by it.

    A large one is that of the forward pass, which XLA then computes once: if all were, ResNet-18's
    step would take 1,199 ms, and 1,237 if none (times as above). A small one is quickly transformed
    again, channels and features exchanged, and plain products are faster: both gradients take 0.976
    times as long (32x32, 64 channels), 0.956 (16x16, 128), 1.002 (8x8, 256; medians of 30 pairs).
    """
    channels, features = kernel.shape[2:]
    if 4 * scheme.points**2 * channels * features > _CHUNK_BYTES:
        return _transformed(kernel, scheme), products.exchanged
    return _transformed(kernel.swapaxes(2, 3), scheme), products.plain


def _convolve(
    x: jax.Array,
    transformed: jax.Array,
    spec: ConvSpec,
    scheme: Scheme,
    multiply: Multiply,
    shards: int,
    norm: NormRelu | None = None,
) -> jax.Array:
    """`forward` by a scheme, with a transformed kernel."""
    x, ((top, _), (left, _)) = cropped(x, spec.padding)
    size = spec.output_size
    # Everything else waits until the kernel is transformed.
    x, transformed = lax.optimization_barrier((x, transformed))

    def part(chunk: Chunk) -> jax.Array:
        if norm is not None:
            chunk = chunk._replace(function=norm.of)
        points = tiles.transform_input(chunk, (top, left), size, scheme, transformed.dtype)
        multiplied = multiply(points, transformed)
        return tiles.transform_output(multiplied, chunk.images, size, scheme).astype(x.dtype)

    images = _chunk(max(1, x.shape[0] // shards), size, scheme, *transformed.shape[1:])
    return map_chunks(part, (x,), images, shards, lazy=True)


def conv_kernel_grad(
    x: jax.Array, dy: jax.Array, spec: ConvSpec, products: Products, shards: int = 1
) -> jax.Array:
    """The gradient of `forward` with respect to the kernel, `[3, 3, C, F]`.

    Args:
      x: the images, `[N, H, W, C]`.
      dy: gradient of the convolution, `[N, H', W', F]`.
      spec: of the convolution, whose stride is 1.
      products: as in `forward`.
      shards: as in `forward`.
    """
    size, dtype = spec.output_size, jnp.promote_types(x.dtype, jnp.float32)
    scheme = _scheme(size)
    x, ((top, _), (left, _)) = cropped(x, spec.padding)

    def part(x: Chunk, dy: Chunk) -> jax.Array:
        points = tiles.transform_input(x, (top, left), size, scheme, dtype)
        of_outputs = tiles.transform_output_gradient(dy, scheme, dtype)
        return products.transposed(points, of_outputs)

    images = _chunk(max(1, x.shape[0] // shards), size, scheme, x.shape[3], dy.shape[3])
    total = sum_chunks(part, (x, dy), images, shards, lazy=True)
    return tiles.transform_kernel_gradient(total, scheme)


def gradients(
    x: jax.Array,
    kernel: jax.Array,
    dy: jax.Array,
    spec: ConvSpec,
    products: Products,
    shards: int = 1,
    norm: NormRelu | None = None,
) -> tuple[jax.Array, jax.Array, Sums | None]:
    """`conv_input_grad` and `conv_kernel_grad`, of stride 1, from one transform of `dy`.

    That of the kernel is bilinear in the other two, so that either may be the one that is read in
    overlapping tiles; here it is `dy`, as the gradient of the images needs it.

    Args:
      x: the images, `[N, H, W, C]`.
      kernel: of the convolution, `[3, 3, C, F]`.
      dy: gradient of the convolution, `[N, H', W', F]`.
      spec: of the convolution, whose stride is 1.
      products: as in `forward`.
      shards: as in `forward`.
      norm: as in `forward`.

    Returns:
      The gradients of the images, after the norm if there is one, and of the kernel; with a norm
      also its `totals`.
    """
    back = spec.reversed()
    size, dtype = back.output_size, jnp.promote_types(x.dtype, jnp.float32)
    scheme = coefficients.dense_flipped(_scheme(size).outputs)
    dy, ((top, _), (left, _)) = cropped(dy, back.padding)
    transformed, multiply = _backwards(kernel, scheme, products)
    x, dy, transformed = lax.optimization_barrier((x, dy, transformed))

    def part(x: Chunk, dy: Chunk) -> tuple[jax.Array, Any]:
        points = tiles.transform_input(dy, (top, left), size, scheme, dtype)
        multiplied = multiply(points, transformed)
        dx = tiles.transform_output(multiplied, dy.images, size, scheme).astype(dy.array.dtype)
        images = x if norm is None else x._replace(function=norm.of)
        tiles_of_images = tiles.transform_output_gradient(images, scheme, dtype)
        sums = None if norm is None else totals(dx, x, norm.mean, norm.affine)
        return dx, (products.transposed(tiles_of_images, points), sums)

    images = _chunk(max(1, x.shape[0] // shards), size, scheme, *kernel.shape[2:])
    dx, (total, sums) = map_and_sum_chunks(part, (x, dy), images, shards)
    d_kernel = tiles.transform_kernel_gradient(total, scheme)
    return dx, d_kernel.astype(kernel.dtype), sums


def _chunk(batch: int, size: Pair, scheme: Scheme, channels: int, features: int) -> int:
    """Images in a chunk."""
    kernels = 4 * scheme.points**2 * channels * features
    image = 4 * _multiplications(size, scheme) * max(channels, features)
    return chunk_size(batch, image, max(_CHUNK_BYTES, kernels))
