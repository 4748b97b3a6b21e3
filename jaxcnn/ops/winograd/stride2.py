"""The gradient of 3x3 kernels of stride 2 as matrix products, by Winograd's algorithm.

The outer taps along an axis meet every other pixel: two taps, F(4, 2), five products instead of
eight. The inner tap meets the pixels between, one product for each output. So the nine taps fall
into four groups: corners, 25 products for 16 outputs; those above and below the center, and those
beside it, 20 each; the center, 16. That is 81, where the definition takes 144. Products that are
added up into the same numbers are one matrix product: there are 25 + 5 + 5 + 1 matrices.

The forward pass and the gradient of the images do not gain: each of the 81 would have to be written
and read again.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxcnn.ops.chunks import Chunk, chunk_size, sum_chunks
from jaxcnn.ops.spec import ConvSpec, Pair, cropped
from jaxcnn.ops.winograd import coefficients, costs, transforms
from jaxcnn.ops.winograd.stride1 import Matmul, Matmuls

# Transformed images and gradients of one chunk, or twice the sums over chunks if they are larger,
# so that these are read and written less often.
_CHUNK_BYTES = 16 << 20


def _tile_counts(size: Pair) -> Pair:
    return coefficients.tile_counts(size, coefficients.f_4_2())


class _Taps(NamedTuple):
    """The pixels that the taps of a 3x3 kernel of stride 2 meet, in a chunk of images.

    Attributes:
        size: Height and width of the convolution's result.
        lows: Zeros before the images along height and width.
        dtype: Of what is computed.
    """

    size: Pair
    lows: Pair
    dtype: jnp.dtype

    def inner(self, x: Chunk, axis: int) -> jax.Array:
        """The pixels along an axis that inner taps meet."""
        # Tap 1 of output o meets pixel 2 o + 1 of the padded image.
        size, low = self.size[axis - 1], self.lows[axis - 1]
        return transforms.entries(x, axis, 2, size, low, (1,), self.dtype)[0]

    def outer(self, x: Chunk, axis: int) -> list[jax.Array]:
        """For each tile along an axis the pixels that outer taps meet."""
        # Taps 0 and 2 of output o meet pixels 2 o and 2 o + 2: a tile of four outputs reads every
        # other pixel, five of them, and the next tile begins eight pixels on.
        scheme, count, low = coefficients.f_4_2(), self.counts[axis - 1], self.lows[axis - 1]
        step, places = 2 * scheme.outputs, range(0, 2 * scheme.points, 2)
        return transforms.entries(x, axis, step, count, low, places, self.dtype)

    def outputs(self, dy: Chunk, axis: int) -> list[jax.Array]:
        """For each tile along an axis its outputs."""
        # Zeros behind the last output, so that what a last tile reads beyond it adds nothing.
        outputs, count = coefficients.f_4_2().outputs, self.counts[axis - 1]
        return transforms.entries(dy, axis, outputs, count, 0, range(outputs), self.dtype)

    @property
    def counts(self) -> Pair:
        """Tiles along height and width."""
        return _tile_counts(self.size)

    def edge_products(
        self, x: Chunk, dy: Chunk, axis: int, other: int, matmul_tn: Matmul
    ) -> jax.Array:
        """The two outer taps along one axis, the inner tap of the other: `[5, C, F]`."""
        scheme = coefficients.f_4_2()

        def split(x: Chunk) -> list[jax.Array]:
            return [self.inner(Chunk.of(pixels), other) for pixels in self.outer(x, axis)]

        # B^T d and A dy, for axis 1 [5, n, tiles, W', C] and [5, n, tiles, W', F]: their products,
        # summed over all axes between, are the gradient but for G^T (see `stride1`).
        a = transforms.combine(scheme.bt, split, x, 0)
        b = transforms.combine(scheme.at.T, lambda dy: self.outputs(dy, axis), dy, 0)
        return matmul_tn(*(array.reshape(scheme.points, -1, array.shape[4]) for array in (a, b)))

    def corner_products(self, x: Chunk, dy: Chunk, matmul_tn: Matmul) -> jax.Array:
        """The two outer taps along both axes: `[25, C, F]`."""
        scheme, columns = coefficients.f_4_2(), self.counts[1]
        # The even columns that all tiles of a row read: neighboring tiles share one.
        width = scheme.outputs * columns + 1

        def split(x: Chunk) -> list[jax.Array]:
            # Of these columns alone, tiles are those of stride 1 along the width, and begin at 0.
            return [
                transforms.entries(Chunk.of(rows), 2, 2, width, self.lows[1], (0,), self.dtype)[0]
                for rows in self.outer(x, 1)
            ]

        # [n, rows, width, 5, C], then [25, T, C], as in `transforms.transform_input`.
        half = transforms.combine(scheme.bt, split, x, 3)
        a = transforms.across(scheme.bt, half, scheme.outputs, columns, self.dtype)
        return matmul_tn(a, transforms.transform_output_grad(dy, scheme, self.dtype))

    def center_product(self, x: Chunk, dy: Chunk, matmul_tn: Matmul) -> jax.Array:
        """The inner tap along both axes: `[C, F]`."""
        # [n, H', W', C], a pixel for each output: a product as of a 1x1 convolution.
        pixels = self.inner(Chunk.of(self.inner(x, 1)), 2)
        arrays = (pixels, dy.sliced().astype(self.dtype))
        return matmul_tn(*(array.reshape(-1, array.shape[3]) for array in arrays))


def conv_kernel_grad(
    x: jax.Array, dy: jax.Array, spec: ConvSpec, matmuls: Matmuls, shards: int = 1
) -> jax.Array:
    """The gradient of the convolution with respect to the kernel.

    Args:
        x: Images, `[N, H, W, C]`.
        dy: Gradient of the convolution, `[N, H', W', F]`.
        spec: The convolution, of stride 2.
        matmuls: The library's matrix products.
        shards: Devices over which the batch may be sharded.

    Returns:
        `[3, 3, C, F]`, float32 or better.
    """
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    x, ((top, _), (left, _)) = cropped(x, spec.padding)
    taps = _Taps(spec.output_size, (top, left), dtype)
    matmul_tn = matmuls.tn

    def of_chunk(x: Chunk, dy: Chunk) -> tuple[jax.Array, ...]:
        corners = taps.corner_products(x, dy, matmul_tn)
        center = taps.center_product(x, dy, matmul_tn)
        down = taps.edge_products(x, dy, 1, 2, matmul_tn)
        across = taps.edge_products(x, dy, 2, 1, matmul_tn)
        return corners, down, across, center

    images = _images_in_chunk(x.shape[0] // shards, spec.output_size, x.shape[3], dy.shape[3])
    sums = sum_chunks(of_chunk, (x, dy), images, shards, lazy=True)
    return _kernel_from_groups(*sums)


def _images_in_chunk(batch: int, size: Pair, channels: int, features: int) -> int:
    # Both factors of every product. The sums are read and written once for each chunk.
    cost = costs.stride2_kernel_grad(size)
    image_bytes = 4 * cost.winograd * (channels + features)
    sum_bytes = 4 * cost.matrices * channels * features
    return chunk_size(max(1, batch), image_bytes, max(_CHUNK_BYTES, 2 * sum_bytes))


def _kernel_from_groups(
    corners: jax.Array, down: jax.Array, across: jax.Array, center: jax.Array
) -> jax.Array:
    """The four groups of taps, transformed back and put together: `[3, 3, C, F]`.

    Args:
        corners: `[25, C, F]`.
        down: Of the taps above and below the center, `[5, C, F]`.
        across: Of the taps beside the center, `[5, C, F]`.
        center: `[C, F]`.
    """
    scheme = coefficients.f_4_2()
    # [2, 2, C, F]: taps 0 and 2 along both axes.
    (a, b), (c, d) = transforms.transform_kernel_grad(corners, scheme)
    # [2, C, F] each.
    above, below = transforms.combine(scheme.g.T, transforms.parts_along(0), Chunk.of(down), 0)
    left, right = transforms.combine(scheme.g.T, transforms.parts_along(0), Chunk.of(across), 0)
    rows = [a, above, b, left, center, right, c, below, d]
    return jnp.stack(rows).reshape(3, 3, *center.shape)
