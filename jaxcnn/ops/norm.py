"""Batch normalization in training as one operation with its own gradient.

Left to XLA, the gradient of norm and ReLU reads and writes nine arrays of the input's size: it
writes the masked gradient, and reads it and the input again for each of two sums. The gradient here
reads four and writes one, and no array but the input is kept for it.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental.xla_metadata import set_xla_metadata

from jaxcnn.ops.chunks import Chunk
from jaxcnn.ops.lowering import cpu_or_stock

# Pixels of a row that are added up at a time, at most.
_PIXELS = 8

Affine = tuple[jax.Array, jax.Array]
Sums = tuple[jax.Array, jax.Array]


class NormRelu(NamedTuple):
    """Norm and ReLU, `max(a x + b, 0)`.

    Attributes:
        affine: `a` and `b`, `[C]` each, float32 or better.
        mean: Mean of `x`, `[C]`.
    """

    affine: Affine
    mean: jax.Array

    def of(self, x: jax.Array) -> jax.Array:
        """Norm and ReLU of `[..., C]`, in float32 or better."""
        return jnp.maximum(_apply_affine(at_least_float32(x), self.affine), 0)


def moments(x: jax.Array, groups: int = 1) -> tuple[jax.Array, jax.Array]:
    """Mean and variance of each channel, without a gradient: `normalize` has their part in its own.

    Args:
        x: `[B, ..., C]`.
        groups: Number of equal parts of the batch, in order, each of which has moments of its own.

    Returns:
        Mean and (biased) variance, float32 or better, `[C]` each; `[groups, C]` if there are
        several groups.
    """
    if groups > 1:
        return jax.vmap(moments)(in_groups(x, groups))
    x, count = lax.stop_gradient(x), x.size // x.shape[-1]
    total, squares = cpu_or_stock(power_sums, _plain_power_sums, x)
    # E[x^2] - E[x]^2 takes one reading of x, E[(x - E[x])^2] two. Rounding may leave less than 0.
    mean = total / count
    return mean, jnp.maximum(squares / count - jnp.square(mean), 0.0)


def normalize(
    x: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    mean: jax.Array,
    var: jax.Array,
    epsilon: float,
    with_relu: bool,
) -> jax.Array:
    """Batch normalization (Ioffe & Szegedy 2015, arXiv:1502.03167, alg. 1), optionally with ReLU.

    Reverse mode only.

    Args:
        x: `[B, ..., C]`.
        scale: gamma, `[C]`.
        bias: beta, `[C]`.
        mean: The mean from `moments(x, groups)`; the gradient of x relies on it being just that.
        var: The variance from `moments(x, groups)`.
        epsilon: Added to the variance.
        with_relu: Whether ReLU follows.

    Returns:
        The result in float32 or better, `[B, ..., C]`.
    """
    if mean.ndim == 1:
        return _normalize(x, scale, bias, mean, var, epsilon, with_relu)

    def group(x: jax.Array, mean: jax.Array, var: jax.Array) -> jax.Array:
        return _normalize(x, scale, bias, mean, var, epsilon, with_relu)

    y: jax.Array = jax.vmap(group)(in_groups(x, mean.shape[0]), mean, var)
    return y.reshape(x.shape)


def in_groups(x: jax.Array, groups: int) -> jax.Array:
    """`[B, ...]` as `[groups, B / groups, ...]`."""
    return x.reshape(groups, -1, *x.shape[1:])


@functools.partial(jax.custom_vjp, nondiff_argnums=(5, 6))
def _normalize(
    x: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    mean: jax.Array,
    var: jax.Array,
    epsilon: float,
    with_relu: bool,
) -> jax.Array:
    """`normalize` of one group."""
    norm = NormRelu(affine_of(scale, bias, mean, var, epsilon), mean)
    return norm.of(x) if with_relu else _apply_affine(at_least_float32(x), norm.affine)


def affine_of(
    scale: jax.Array, bias: jax.Array, mean: jax.Array, var: jax.Array, epsilon: float
) -> Affine:
    """`a` and `b`, with which `normalize` is `a x + b`."""
    a = scale * lax.rsqrt(var + epsilon)
    return a, bias - mean * a


def along(pixels: jax.Array, channels: jax.Array) -> jax.Array:
    """`[C]` in the rank of pixels, `[..., C]`."""
    return jnp.expand_dims(channels, range(pixels.ndim - 1))


def at_least_float32(x: jax.Array) -> jax.Array:
    """Widens what has fewer bits; float64, which tests of exactness use, stays."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _apply_affine(x: jax.Array, affine: Affine) -> jax.Array:
    return x * along(x, affine[0]) + along(x, affine[1])


def _forward(
    x: Any, scale: Any, bias: Any, mean: Any, var: Any, epsilon: float, with_relu: bool
) -> Any:
    saved = x, scale, bias, mean, var
    return _normalize(*saved, epsilon, with_relu), saved


def _backward(epsilon: float, with_relu: bool, saved: Any, dy: jax.Array) -> Any:
    x, scale, bias, mean, var = saved
    # ReLU's mask is a x + b > 0, computed again from x: no array is kept for it.
    affine = affine_of(scale, bias, mean, var, epsilon) if with_relu else None
    sums = cpu_or_stock(
        lambda dy, x, *others: grad_sums(dy, Chunk.of(x), *others),
        plain_grad_sums,
        dy,
        x,
        mean,
        affine,
    )
    of_inputs = norm_grads(dy, x, scale, bias, mean, var, epsilon, affine, sums)
    # That mean and variance depend on x is part of the gradient of x.
    return (*of_inputs, None, None)


_normalize.defvjp(_forward, _backward)


def norm_grads(
    dy: jax.Array,
    x: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    mean: jax.Array,
    var: jax.Array,
    epsilon: float,
    affine: Affine | None,
    sums: Sums,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The gradients of `normalize` with respect to x, scale and bias, from the `grad_sums`."""
    total, by_x = sums
    count = x.size // x.shape[-1]
    # With n pixels and g = dy where ReLU lets it through, else 0:
    # dx = a [g - sum(g) / n - (x - mean) r^2 sum(g (x - mean)) / n]
    # (arXiv:1502.03167, sec. 3, where mean and variance have gradients of their own).
    r = lax.rsqrt(var + epsilon)
    a = scale * r
    d_scale = r * by_x
    values = at_least_float32(x)
    if affine is not None:
        dy = jnp.where(_apply_affine(values, affine) > 0, dy, 0)
    factor = a * r * d_scale / count
    dx = along(x, a) * dy - along(x, a * total / count)
    dx = dx - along(x, factor) * (values - along(x, mean))
    return dx.astype(x.dtype), _like(scale, d_scale), _like(bias, total)


def _like(primal: jax.Array, gradient: jax.Array) -> jax.Array:
    """The gradient, summed over those axes of a `shard_map` over which `primal` does not vary."""
    # A parameter that is the same on all devices gets the sum of what their images give.
    axes = [jax.typeof(array).manual_axis_type.varying for array in (gradient, primal)]
    return lax.psum(gradient, tuple(sorted(axes[0] - axes[1])))


def grad_sums(dy: jax.Array, x: Chunk, mean: jax.Array, affine: Affine | None) -> Sums:
    """Sums over pixels of `dy` and of `dy (x - mean)`, from one reading of both arrays.

    The first is the gradient of the bias; the second, over sqrt(var + epsilon), that of the scale.
    One loop adds up a few pixels at a time, and its result, much smaller, is then summed. The mask
    is a factor there: where `dy` is not finite, neither are the sums, even behind the mask.

    Args:
        dy: Gradient of the norm's result, or of what ReLU makes of it, `[..., C]`.
        x: The norm's input, `[..., C]`.
        mean: Mean of `x`, `[C]`.
        affine: `a` and `b`, `[C]` each; where `a x + b` is not positive nothing is added.
            None without ReLU.
    """
    width = dy.shape[2] if dy.ndim == 4 else 1
    # A divisor of the width, so that all partial sums have as many terms, and one shape.
    few = max(n for n in range(1, _PIXELS + 1) if width % n == 0)
    if few == 1:
        return plain_grad_sums(dy, x.sliced(), mean, affine)

    def partial(
        dy: jax.Array,
        array: jax.Array,
        start: jax.Array | None,
        mean: jax.Array,
        affine: Affine | None,
    ) -> jax.Array:
        chunk = x._replace(array=array, start=start)
        pixels = [(chunk.strided(2, i, few, width // few), dy[:, :, i::few]) for i in range(few)]
        return _added_up(pixels, mean, affine)

    with set_xla_metadata(inlineable="false"):
        # [n, H, W / few, 2, C]: what remains to be added up is a small part of the two arrays.
        sums = jax.jit(partial)(dy, x.array, x.start, mean, affine)
    # Each image for itself, on all cores, then the images: XLA adds up all at once on one core.
    total, by_x = jnp.sum(lax.optimization_barrier(jnp.sum(sums, (1, 2))), 0)
    return total, by_x


def power_sums(x: jax.Array) -> Sums:
    """Sums over pixels of `x` and of its square, `[..., C]` to `[C]` each; float32 or better."""
    zeros = jnp.zeros(x.shape[-1], jnp.promote_types(x.dtype, jnp.float32))
    return grad_sums(x, Chunk.of(x), zeros, None)


def _plain_power_sums(x: jax.Array) -> Sums:
    """The definition of `power_sums`."""
    values, axes = at_least_float32(x), tuple(range(x.ndim - 1))
    return jnp.sum(values, axes), jnp.sum(jnp.square(values), axes)


def plain_grad_sums(dy: jax.Array, x: jax.Array, mean: jax.Array, affine: Affine | None) -> Sums:
    """The definition of `grad_sums`."""
    values, dy, axes = at_least_float32(x), at_least_float32(dy), tuple(range(x.ndim - 1))
    if affine is not None:
        dy = jnp.where(_apply_affine(values, affine) > 0, dy, 0)
    return jnp.sum(dy, axes), jnp.sum(dy * (values - along(x, mean)), axes)


def _added_up(
    pixels: list[tuple[jax.Array, jax.Array]], mean: jax.Array, affine: Affine | None
) -> jax.Array:
    """Both sums over pairs of values and gradients, `[n, H, w, C]` each: `[n, H, w, 2, C]`.

    Two sums in one array, as XLA would make a loop for each of two.
    """
    *lead, channels = pixels[0][0].shape
    shape = (*lead, 2, channels)

    def spread(array: jax.Array, *axes: int) -> jax.Array:
        return lax.broadcast_in_dim(array.astype(mean.dtype), shape, axes)

    # Of the axis of two, the first sum takes dy times 1, the second dy times (x - mean).
    ones, factors = spread(jnp.array([1, 0]), 3), spread(jnp.array([0, 1]), 3)

    def term(x: jax.Array, dy: jax.Array) -> jax.Array:
        x, dy = spread(x, 0, 1, 2, 4), spread(dy, 0, 1, 2, 4)
        if affine is not None:
            # As a factor: LLVM does not vectorize a selection here.
            dy = dy * (x * spread(affine[0], 4) + spread(affine[1], 4) > 0).astype(dy.dtype)
        return dy * (ones + factors * (x - spread(mean, 4)))

    return functools.reduce(jnp.add, [term(*pair) for pair in pixels])
