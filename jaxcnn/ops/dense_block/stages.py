"""One stage of a dense block on the CPU: norm, ReLU and convolution; and its gradient.

It reads the first channels of one array and writes some channels of another; see `arithmetic`.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxcnn.ops import norm as norms
from jaxcnn.ops.chunks import Chunk
from jaxcnn.ops.dense_block.arithmetic import (
    VECTOR,
    DeferredGrad,
    Moments,
    Norm,
    View,
    images_in_chunk,
    outer,
    patches,
    product,
    scan_batch,
    shifted_sum,
)
from jaxcnn.ops.norm import along


class Output(NamedTuple):
    """What a gradient begins with.

    Attributes:
        values: Where the stage's output lies.
        gradient: Where its gradient lies; None for where the input's gradient is added.
        deferred: What has not been added to that gradient yet, `[F]`.
        means: Means of the output's channels, `[F]`.
    """

    values: View
    gradient: View | None
    deferred: DeferredGrad
    means: jax.Array


class Stage(NamedTuple):
    """Norm, ReLU and convolution.

    Attributes:
        norm: Of the input channels, [C].
        kernel: `[C, F]`, or `[C, 9 F]` for a 3x3 convolution.
        is_spatial: Whether the kernel is 3x3.
        images: Images of each device.
        by_onednn: Whether oneDNN computes the products, for a single device in float32.
    """

    norm: Norm
    kernel: jax.Array
    is_spatial: bool
    images: int
    by_onednn: bool

    @property
    def channels(self) -> int:
        """Input channels, C."""
        return self.kernel.shape[0]

    @property
    def features(self) -> int:
        """Output channels, F."""
        return self.kernel.shape[1] // (9 if self.is_spatial else 1)

    def forward(self, source: View | None, target: View) -> tuple[jax.Array, Moments]:
        """Returns the array of `target` with the output written to it, and the output's moments.

        The input is read from `source`, or from the first channels of `target` where that is None.
        """
        *shards, _, height, width, _ = target.array.shape
        # Columns of zeros up to whole vectors (see VECTOR); `shifted_sum` reads the first 9 F.
        missing = -self.kernel.shape[1] % VECTOR if self.by_onednn and self.is_spatial else 0
        kernel = jnp.pad(self.kernel, ((0, 0), (0, missing)))

        def body(carry: Any, start: Any, n: int) -> Any:
            array, sums, squares = carry
            # From the carry: reading the array before the loop would forbid writing in place.
            x = (source or View(array)).take(start, n, self.channels)
            y = product(self.norm.relu(x), kernel, self.by_onednn)
            if self.is_spatial:
                y = shifted_sum(y, (height, width), self.features)
            # Rounded as it is stored, so the moments are those of what later layers read.
            y = y.astype(array.dtype).astype(y.dtype)
            values = power_sums(y.reshape(*shards, n, height, width, self.features))
            return target.of(array).put(y, start), sums + values[0], squares + values[1]

        zeros = jnp.zeros((*shards, self.features), self.kernel.dtype)
        # For each pixel C numbers after norm and ReLU, and F or 9 F products.
        size = images_in_chunk(target.array, self.images, sum(self.kernel.shape))
        array, sums, squares = scan_batch(body, (target.array, zeros, zeros), self.images, size)
        return array, moments(sums, squares, self._pixels(target.array))

    def gradient(
        self, output: Output, source: View, into: jax.Array, is_added: bool
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array, jax.Array], DeferredGrad]:
        """Writes the gradient of the input to `into`, but for a part that is deferred.

        Args:
            output: Output of this stage.
            source: Where the input lies.
            into: Array of the input's gradient, written from its first image and channel on.
            is_added: Whether it is added to what `into` holds, or replaces that.

        Returns:
            `into`; the gradients of kernel, scale and bias; what is deferred for the input
            channels.
        """
        values, given, deferred, means = output
        *shards, _, height, width, _ = values.array.shape
        transposed = self.kernel.T

        def body(carry: Any, start: Any, n: int) -> Any:
            into, kernel, biases, scales = carry
            # None for a feature: later layers have added its gradient up in `into`, at its place.
            dy = (given or values.of(into)).take(start, n, self.features)
            y = values.take(start, n, self.features)
            # The deferred terms of all who read this output. Now its gradient is whole.
            dy = (
                dy + along(y, deferred.constant) + along(y, deferred.factor) * (y - along(y, means))
            )
            # [S, P, 9 F] for both products below, in place of patches of h, with C channels.
            if self.is_spatial:
                dy = patches(dy, (height, width))
            else:
                dy = lax.optimization_barrier(dy)
            x = lax.optimization_barrier(source.take(start, n, self.channels))
            # Computed again: kept for all layers, h would take memory with the square of the depth.
            h = self.norm.relu(x)
            dh = lax.optimization_barrier(product(dy, transposed, self.by_onednn))
            # Of dh where ReLU lets it through, like dx.
            bias, scale = self._norm_sums(dh, x, (*shards, n, height, width, self.channels))
            # The first term of the norm's gradient; the others, `left`, need sums over all images.
            dx = jnp.where(self.norm.apply(x) > 0, along(x, self.norm.a) * dh, 0)
            if is_added:
                dx = View(into).take(start, n, self.channels) + dx
            # Computed by all cores, then written: XLA writes into an array on one.
            dx = lax.optimization_barrier(dx)
            return (
                View(into).put(dx, start),
                # [9 F, C] or [F, C], transposed when all images are added up.
                kernel + outer(dy, h, self.by_onednn),
                biases + bias,
                scales + scale,
            )

        zeros = jnp.zeros((*shards, *transposed.shape), self.kernel.dtype)
        chunk_channels = 3 * self.channels + self.kernel.shape[1]
        into, kernel, biases, scales = scan_batch(
            body,
            (into, zeros, zeros[..., 0, :], zeros[..., 0, :]),
            self.images,
            images_in_chunk(values.array, self.images, chunk_channels),
        )
        bias, scale = over_shards(biases, 1), over_shards(scales, 1) * self.norm.r
        # With n pixels: dx = a dh - a / n [sum dh + (x - mean) r^2 sum (dh (x - mean))], and
        # `scale` is already r times the last sum.
        factor = -self.norm.a / self._pixels(values.array)
        left = DeferredGrad(factor * bias, factor * self.norm.r * scale)
        return into, (over_shards(kernel, 2).T, scale, bias), left

    def _norm_sums(self, dh: jax.Array, x: jax.Array, shape: Sequence[int]) -> norms.Sums:
        """`norms.grad_sums` of the norm's result and input, of each device alone: `[S, C]`."""

        def of_device(dh: jax.Array, x: jax.Array) -> norms.Sums:
            norm = self.norm
            return norms.grad_sums(dh, Chunk.of(x), norm.mean, (norm.a, norm.b))

        # `[n, H, W, C]` is what `grad_sums` takes; S, if there is one, is mapped over.
        function = of_device if len(shape) == 4 else jax.vmap(of_device)
        return function(dh.reshape(shape), x.reshape(shape))

    def _pixels(self, array: jax.Array) -> int:
        """Pixels of the batch, over all devices."""
        *shards, _, height, width, _ = array.shape
        return math.prod((*shards, self.images, height, width))


def moments(sums: jax.Array, squares: jax.Array, count: int) -> Moments:
    """Mean and variance from each device's sums of values and squares, `[S, C]`."""
    # E[y^2] - E[y]^2, from sums of a single pass; rounding may leave less than zero.
    mean = over_shards(sums, 1) / count
    return Moments(mean, jnp.maximum(over_shards(squares, 1) / count - jnp.square(mean), 0))


def power_sums(images: jax.Array) -> norms.Sums:
    """`norms.power_sums` of each device alone: `[S, n, H, W, C]` to `[S, C]` each."""
    of_device = norms.power_sums
    return of_device(images) if images.ndim == 4 else jax.vmap(of_device)(images)


def over_shards(array: jax.Array, ndim: int) -> jax.Array:
    """The sum over devices of `[S, ...]`, the rest having `ndim` axes."""
    return array.sum(0) if array.ndim > ndim else array
