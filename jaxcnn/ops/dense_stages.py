"""One stage of a dense block on the CPU: normalise, rectify, convolve; and its gradient.

It reads the first channels of one array and writes some channels of another; see `dense_layers`.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxcnn.ops.dense_layers import (
    Moments,
    Norm,
    Pending,
    along,
    images_in_chunk,
    outer,
    patches,
    product,
    put,
    shifted_sum,
    take,
    totals,
    walk,
)

Output = tuple[jax.Array, jax.Array | None, Pending, jax.Array]


class Stage(NamedTuple):
    """Normalise, rectify and convolve.

    Attributes:
        norm: Of the input channels, [C].
        kernel: `[C, F]`, or `[C, 9 F]` for a 3x3 convolution.
        is_spatial: Whether the kernel is 3x3.
        begin: First channel of the output in its array.
        features: Output channels, F.
    """

    norm: Norm
    kernel: jax.Array
    is_spatial: bool
    begin: int
    features: int

    @property
    def channels(self) -> int:
        """Input channels, C."""
        return self.kernel.shape[0]

    def forward(self, source: jax.Array | None, target: jax.Array) -> tuple[jax.Array, Moments]:
        """Returns `target` with the output written to it, and the output's moments.

        The input is read from `source`, or from `target` itself where that is None.
        """
        *shards, images, height, width, _ = target.shape

        def body(carry: Any, start: Any, n: int) -> Any:
            target, sums, squares = carry
            x = take(target if source is None else source, start, n, 0, self.channels)
            y = product(self.norm.relu(x), self.kernel)
            if self.is_spatial:
                y = shifted_sum(y, (height, width))
            y = y.astype(target.dtype).astype(y.dtype)
            return put(target, y, start, self.begin), sums + totals(y), squares + totals(y, y)

        zeros = jnp.zeros((*shards, self.features), self.kernel.dtype)
        size = images_in_chunk(target, sum(self.kernel.shape))
        target, sums, squares = walk(body, (target, zeros, zeros), images, size)
        return target, moments(sums, squares, target.size // target.shape[-1])

    def gradient(
        self,
        output: Output,
        source: jax.Array,
        into: jax.Array,
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array, jax.Array], Pending]:
        """Adds the gradient of the input to `into`, but for a part left pending.

        Args:
          output: values and gradient of the array of the output; what is pending for the gradient
            of the output's channels, and their means. A gradient of None is `into` itself.
          source: the array of the input.
          into: gradient of the array of the input.

        Returns:
          `into`; the gradients of kernel, scale and bias; what is pending for the input channels.
        """
        values, given, pending, means = output
        *shards, images, height, width, channels = values.shape
        end = self.begin + self.features
        transposed = self.kernel.T

        def body(carry: Any, start: Any, n: int) -> Any:
            into, kernel, biases, scales = carry
            dy = take(into if given is None else given, start, n, self.begin, end)
            y = take(values, start, n, self.begin, end)
            dy = dy + along(y, pending.constant) + along(y, pending.factor) * (y - along(y, means))
            if self.is_spatial:
                dy = patches(dy, (height, width))
            else:
                dy = lax.optimization_barrier(dy)
            x = take(source, start, n, 0, self.channels)
            h = self.norm.relu(x)
            dh = jnp.where(h > 0, product(dy, transposed), 0)
            dh = lax.optimization_barrier(dh)
            old = take(into, start, n, 0, self.channels)
            return (
                put(into, old + along(x, self.norm.a) * dh, start, 0),
                kernel + outer(h, dy),
                biases + totals(dh),
                scales + totals(dh, x - along(x, self.norm.mean)),
            )

        zeros = jnp.zeros((*shards, *self.kernel.shape), self.kernel.dtype)
        size = images_in_chunk(values, 3 * self.channels + self.kernel.shape[1])
        into, kernel, biases, scales = walk(
            body, (into, zeros, zeros[..., 0], zeros[..., 0]), images, size
        )
        bias, scale = over_shards(biases, 1), over_shards(scales, 1) * self.norm.r
        factor = -self.norm.a * channels / values.size
        left = Pending(factor * bias, factor * self.norm.r * scale)
        return into, (over_shards(kernel, 2), scale, bias), left


def moments(sums: jax.Array, squares: jax.Array, count: int) -> Moments:
    """Mean and variance from each device's sums of values and squares, `[S, C]`."""
    mean = over_shards(sums, 1) / count
    return Moments(mean, jnp.maximum(over_shards(squares, 1) / count - jnp.square(mean), 0))


def over_shards(array: jax.Array, ndim: int) -> jax.Array:
    """The sum over devices of `[S, ...]`, the rest having `ndim` axes."""
    return array.sum(0) if array.ndim > ndim else array
