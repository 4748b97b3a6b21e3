"""Dense 3x3 convolutions of stride 1 as matrix products: Winograd's algorithms.

Lavin & Gray, "Fast Algorithms for Convolutional Neural Networks", arXiv:1509.09308, section 4.1:
Y = A^T [(G g G^T) * (B^T d B)] A for tiles of m x m outputs, which takes one multiplication for
each of P x P points, where the definition takes 9 m^2: F(2x2, 3x3) saves 20 of 36, F(4x4, 3x3) 108
of 144. The sum over channels makes the elementwise product P^2 matrix products, one for each point.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxcnn.ops.chunks import Chunk, chunk_size, map_and_sum_chunks, map_chunks, sum_chunks
from jaxcnn.ops.norm import NormRelu, Sums, at_least_float32, grad_sums
from jaxcnn.ops.spec import ConvSpec, Pair, cropped
from jaxcnn.ops.winograd import coefficients, costs, transforms
from jaxcnn.ops.winograd.coefficients import Scheme

# Transformed images of one chunk: 4 MB stay in the last-level cache beside their products. Where
# the transformed kernel is larger, as much as that, so that it is read once.
_CHUNK_BYTES = 4 << 20

Matmul = Callable[[jax.Array, jax.Array], jax.Array]


class Matmuls(NamedTuple):
    """A library's matrix products, of one pair or a stack of pairs.

    Named as in BLAS: n for an operand as it is, t for a transposed one.

    Attributes:
        nn: Of `[..., T, C]` and `[..., C, F]`.
        nt: Of `[..., T, F]` and, its last two axes transposed, `[..., C, F]`.
        tn: Of `[..., T, C]`, its last two axes transposed, and `[..., T, F]`.
    """

    nn: Matmul
    nt: Matmul
    tn: Matmul


def conv_forward(
    x: jax.Array,
    kernel: jax.Array,
    spec: ConvSpec,
    matmuls: Matmuls,
    shards: int = 1,
    norm: NormRelu | None = None,
) -> jax.Array:
    """The convolution, computed in float32 or better.

    Args:
        x: Images, `[N, H, W, C]`.
        kernel: `[3, 3, C, F]`.
        spec: The convolution, of stride 1.
        matmuls: The library's matrix products.
        shards: Devices over which the batch may be sharded.
        norm: Applied to `x` before the convolution, in the loop that reads it; the padding must
            not be negative then.

    Returns:
        `[N, H', W', F]`, of the dtype of `x`.
    """
    scheme = costs.best_scheme(spec.output_size)
    transformed = _transformed(kernel, scheme)
    return _convolve(x, transformed, spec, scheme, matmuls.nn, shards, norm)


def conv_input_grad(
    dy: jax.Array, kernel: jax.Array, spec: ConvSpec, matmuls: Matmuls, shards: int = 1
) -> jax.Array:
    """The gradient of `conv_forward` with respect to the images.

    Args:
        dy: Gradient of the convolution, `[N, H', W', F]`.
        kernel: As in `conv_forward`.
        spec: As in `conv_forward`.
        matmuls: As in `conv_forward`.
        shards: As in `conv_forward`.

    Returns:
        `[N, H, W, C]`, of the dtype of `dy`.
    """
    # The gradient is a convolution by the flipped kernel. The scheme flips, so that G, and with it
    # the transformed kernel, can be that of the forward pass.
    back = spec.reversed()
    scheme = coefficients.f_m_3_flipped(costs.best_scheme(back.output_size).outputs)
    transformed, matmul = _transformed_for_input_grad(kernel, scheme, matmuls)
    return _convolve(dy, transformed, back, scheme, matmul, shards)


def _transformed(kernel: jax.Array, scheme: Scheme) -> jax.Array:
    """`[3, 3, C, F]` to `[P^2, C, F]`, in float32 or better."""
    return transforms.transform_kernel(at_least_float32(kernel), scheme)


def _transformed_for_input_grad(
    kernel: jax.Array, scheme: Scheme, matmuls: Matmuls
) -> tuple[jax.Array, Matmul]:
    """The transformed kernel for the gradient of the images, and the product that takes it.

    A large one is that of the forward pass, which XLA then computes once. A small one is quickly
    transformed again with channels and features exchanged, and plain products are faster.
    """
    channels, features = kernel.shape[2:]
    # By `nt` [P^2, C, F] as it is; by `nn` [P^2, F, C].
    if 4 * scheme.points**2 * channels * features > _CHUNK_BYTES:
        return _transformed(kernel, scheme), matmuls.nt
    return _transformed(kernel.swapaxes(2, 3), scheme), matmuls.nn


def _convolve(
    x: jax.Array,
    transformed: jax.Array,
    spec: ConvSpec,
    scheme: Scheme,
    matmul: Matmul,
    shards: int,
    norm: NormRelu | None = None,
) -> jax.Array:
    """`conv_forward` by a scheme, with a transformed kernel."""
    x, ((top, _), (left, _)) = cropped(x, spec.padding)
    size = spec.output_size
    # Everything else waits until the kernel is transformed.
    x, transformed = lax.optimization_barrier((x, transformed))

    def of_chunk(chunk: Chunk) -> jax.Array:
        if norm is not None:
            chunk = chunk._replace(function=norm.of)
        # [n, H, W, C] to [P^2, T, C]; what pads the images stays zero, as the norm comes first.
        points = transforms.transform_input(chunk, (top, left), size, scheme, transformed.dtype)
        # All points as one batch of products: [P^2, T, C] x [P^2, C, F].
        products = matmul(points, transformed)
        return transforms.transform_output(products, chunk.images, size, scheme).astype(x.dtype)

    # Each device walks through its own images. `lazy`: the transforms slice them, see `Chunk`.
    images = _images_in_chunk(x.shape[0] // shards, size, scheme, *transformed.shape[1:])
    return map_chunks(of_chunk, (x,), images, shards, lazy=True)


def conv_kernel_grad(
    x: jax.Array, dy: jax.Array, spec: ConvSpec, matmuls: Matmuls, shards: int = 1
) -> jax.Array:
    """The gradient of `conv_forward` with respect to the kernel.

    Args:
        x: Images, `[N, H, W, C]`.
        dy: Gradient of the convolution, `[N, H', W', F]`.
        spec: As in `conv_forward`.
        matmuls: As in `conv_forward`.
        shards: As in `conv_forward`.

    Returns:
        `[3, 3, C, F]`, float32 or better.
    """
    size, dtype = spec.output_size, jnp.promote_types(x.dtype, jnp.float32)
    scheme = costs.best_scheme(size)
    x, ((top, _), (left, _)) = cropped(x, spec.padding)

    # y = A^T [(G g G^T) * (B^T d B)] A is linear in g. Its transpose, with the products in brackets
    # summed over all tiles: dg = G^T [(B^T d B) * (A dy A^T)] G. `tn` sums over the tiles of a
    # chunk, [P^2, T, C] and [P^2, T, F] to [P^2, C, F]; G is applied to the sum of all chunks.
    def of_chunk(x: Chunk, dy: Chunk) -> jax.Array:
        input_points = transforms.transform_input(x, (top, left), size, scheme, dtype)
        output_points = transforms.transform_output_grad(dy, scheme, dtype)
        return matmuls.tn(input_points, output_points)

    images = _images_in_chunk(x.shape[0] // shards, size, scheme, x.shape[3], dy.shape[3])
    total = sum_chunks(of_chunk, (x, dy), images, shards, lazy=True)
    return transforms.transform_kernel_grad(total, scheme)


def conv_vjp(
    x: jax.Array,
    kernel: jax.Array,
    dy: jax.Array,
    spec: ConvSpec,
    matmuls: Matmuls,
    shards: int = 1,
    norm: NormRelu | None = None,
) -> tuple[jax.Array, jax.Array, Sums | None]:
    """`conv_input_grad` and `conv_kernel_grad` from one transform of `dy`.

    The kernel's gradient is bilinear in `x` and `dy`, so either may be the one that is read in
    overlapping tiles; here it is `dy`, because the gradient of the images needs it that way.

    Args:
        x: Images, `[N, H, W, C]`.
        kernel: As in `conv_forward`.
        dy: Gradient of the convolution, `[N, H', W', F]`.
        spec: As in `conv_forward`.
        matmuls: As in `conv_forward`.
        shards: As in `conv_forward`.
        norm: As in `conv_forward`.

    Returns:
        The gradient of the images (after the norm if there is one), `[N, H, W, C]`; the gradient of
        the kernel, `[3, 3, C, F]`; with a norm also the sums over pixels that its own gradient
        needs.
    """
    back = spec.reversed()
    size, dtype = back.output_size, jnp.promote_types(x.dtype, jnp.float32)
    scheme = coefficients.f_m_3_flipped(costs.best_scheme(size).outputs)
    dy, ((top, _), (left, _)) = cropped(dy, back.padding)
    transformed, matmul = _transformed_for_input_grad(kernel, scheme, matmuls)
    x, dy, transformed = lax.optimization_barrier((x, dy, transformed))

    # With g the kernel, <dy, conv(x, g)> = <x, back(dy, g)>: by g either side has the same
    # derivative, the kernel's gradient. On the right dy takes the place of d and x that of the
    # output's gradient. The scheme has flipped, so G gives the kernel's gradient in its own order.
    def of_chunk(x: Chunk, dy: Chunk) -> tuple[jax.Array, Any]:
        dy_points = transforms.transform_input(dy, (top, left), size, scheme, dtype)
        products = matmul(dy_points, transformed)
        dx = transforms.transform_output(products, dy.images, size, scheme).astype(dy.array.dtype)
        # The convolution has read the norm's result; the norm's own sums need its input.
        images = x if norm is None else x._replace(function=norm.of)
        x_points = transforms.transform_output_grad(images, scheme, dtype)
        # While the chunk is in the cache: later, both arrays would have to be read again.
        sums = None if norm is None else grad_sums(dx, x, norm.mean, norm.affine)
        return dx, (matmuls.tn(x_points, dy_points), sums)

    images = _images_in_chunk(x.shape[0] // shards, size, scheme, *kernel.shape[2:])
    dx, (total, sums) = map_and_sum_chunks(of_chunk, (x, dy), images, shards)
    d_kernel = transforms.transform_kernel_grad(total, scheme)
    return dx, d_kernel.astype(kernel.dtype), sums


def _images_in_chunk(batch: int, size: Pair, scheme: Scheme, channels: int, features: int) -> int:
    # 4 bytes a number: float64 is for tests of exactness, not of speed.
    kernel_bytes = 4 * scheme.points**2 * channels * features
    image_bytes = 4 * costs.multiplications(size, scheme) * max(channels, features)
    return chunk_size(max(1, batch), image_bytes, max(_CHUNK_BYTES, kernel_bytes))
