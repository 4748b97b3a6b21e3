"""ReLU and GELU with gradients of their own, for the CPU; the stock functions elsewhere."""

import functools
import math

import jax
import jax.numpy as jnp
from jax import lax

from jaxcnn.ops.lowering import cpu_or_stock
from jaxcnn.ops.norm import at_least_float32


@jax.custom_jvp
def relu(x: jax.Array) -> jax.Array:
    """ReLU; on the CPU its gradient looks at the result, not at what the result was made of.

    The result is kept for the next layer anyway. Otherwise XLA computes it again for the gradient,
    from every array that it is the sum of.
    """

    def written_once(x: jax.Array) -> jax.Array:
        return lax.optimization_barrier(jnp.maximum(x, 0))

    y: jax.Array = cpu_or_stock(written_once, jax.nn.relu, x)
    return y


@relu.defjvp
def _relu_jvp(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    y = relu(*primals)
    return y, jnp.where(y > 0, tangents[0], 0)


@jax.custom_jvp
def gelu(x: jax.Array) -> jax.Array:
    """The Gaussian error linear unit x Phi(x), Phi the normal distribution, not approximated.

    Hendrycks & Gimpel 2016, arXiv:1606.08415. On the CPU by erf, whose gradient is computed again
    from `x`: by erfc, as in `jax.nn.gelu`, it takes three loops and keeps arrays between them.
    """
    y: jax.Array = cpu_or_stock(_gelu, functools.partial(jax.nn.gelu, approximate=False), x)
    return y


@gelu.defjvp
def _gelu_jvp(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    (x,) = primals
    # The barrier keeps XLA from computing erf once for both and keeping it.
    again = lax.optimization_barrier(x)
    slope = _normal_cdf(again) + again * jnp.exp(-0.5 * again * again) / math.sqrt(2 * math.pi)
    return gelu(x), tangents[0] * slope.astype(x.dtype)


def _gelu(x: jax.Array) -> jax.Array:
    return (x * _normal_cdf(x)).astype(x.dtype)


def _normal_cdf(x: jax.Array) -> jax.Array:
    return 0.5 * (1 + lax.erf(at_least_float32(x) / math.sqrt(2)))
