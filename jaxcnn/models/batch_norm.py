"""Batch normalisation with the variables of flax's, and the gradient of `ops.normalised`."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from jaxcnn import ops


class BatchNorm(nn.Module):
    """`nn.BatchNorm` with the same variables and results; its own order of arithmetic.

    `nn.BatchNorm` subtracts the mean and keeps the difference for the backward pass: one more array
    of the size of the input, written and read again. Here `y = a x + b` with `a` and `b` per
    channel, and the gradient needs `x` alone (Ioffe & Szegedy 2015, arXiv:1502.03167, alg. 1,
    rearranged). Statistics are over the whole global batch, in float32.

    Attributes:
        use_running_average: Normalise by the running statistics, and leave them as they are.
        momentum: Kept fraction of the running statistics.
        epsilon: Added to the variance.
        dtype: Of the result.
        is_rectified: Whether ReLU follows, whose gradient is computed with that of the norm.
        is_deferred: Whether the result, in training, is left to the convolution behind it.
    """

    use_running_average: bool
    momentum: float
    epsilon: float
    dtype: DTypeLike
    is_rectified: bool = False
    is_deferred: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array | ops.DeferredNorm:
        """Normalises each channel of `[..., C]`."""
        channels = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (channels,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (channels,), jnp.float32)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,), jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, (channels,), jnp.float32)
        if self.use_running_average:
            factor = scale * jax.lax.rsqrt(running_var.value + self.epsilon)
            factor, shift = (
                jnp.expand_dims(array, range(x.ndim - 1))
                for array in (factor, bias - running_mean.value * factor)
            )
            y = x * factor + shift
            return (jax.nn.relu(y) if self.is_rectified else y).astype(self.dtype)
        mean, var = ops.moments(x)
        if not self.is_initializing():
            running = {"mean": running_mean.value, "var": running_var.value}
            updated = updated_moments(running, mean, var, self.momentum)
            running_mean.value, running_var.value = updated["mean"], updated["var"]
        result = ops.DeferredNorm(
            x, scale, bias, mean, var, self.epsilon, self.is_rectified, self.dtype
        )
        return result if self.is_deferred else result.value()


def updated_moments(
    running: Mapping[str, jax.Array], mean: jax.Array, var: jax.Array, momentum: float
) -> dict[str, jax.Array]:
    """Returns the running "mean" and "var", of which `momentum` is kept, after one more batch."""
    now = {"mean": mean, "var": var}
    return {name: momentum * running[name] + (1 - momentum) * now[name] for name in now}
