"""The forward and the backward pass of a dense block on the CPU; see `dense_layers`.

A layer is one stage or two. The last has a 3x3 kernel; a bottleneck is a 1x1 before.
"""

import jax
import jax.numpy as jnp
from jax import lax

from jaxcnn.ops.dense_layers import (
    Moments,
    Norm,
    Pending,
    Saved,
    Weights,
    along,
    flat_kernel,
    square_kernel,
    totals,
    wide,
)
from jaxcnn.ops.dense_stages import Output, Stage, moments


def forward(
    x: jax.Array, weights: Weights, epsilon: float, shards: int = 1
) -> tuple[jax.Array, Saved]:
    """Returns the block's features, `[B, H, W, C + layers * k]`, and what is to be saved."""
    dtype = wide(x.dtype)
    new = sum(layer["conv2"]["kernel"].shape[3] for layer in weights)
    split = _split(x, shards)
    pixels = split.reshape(*split.shape[:-4], -1, x.shape[3]).astype(dtype)
    known = moments(totals(pixels), totals(pixels, pixels), x.size // x.shape[3])
    features = lax.pad(
        split, jnp.zeros((), x.dtype), [(0, 0, 0)] * (split.ndim - 1) + [(0, new, 0)]
    )
    bottlenecks, inner = [], []
    for layer in weights:
        bottleneck = None
        if "conv1" in layer:
            stage = _pointwise(layer, known, epsilon)
            empty = jnp.zeros((*features.shape[:-1], stage.features), x.dtype)
            bottleneck, bottleneck_moments = stage.forward(features, empty)
            bottlenecks.append(bottleneck.reshape(*x.shape[:3], -1))
            inner.append(bottleneck_moments)
        stage = _spatial(layer, inner[-1] if "conv1" in layer else known, epsilon, len(known.mean))
        features, added = stage.forward(bottleneck, features)
        known = Moments(*(jnp.concatenate(pair) for pair in zip(known, added, strict=True)))
    return features.reshape(*x.shape[:3], -1), Saved(known, bottlenecks, inner)


def backward(
    features: jax.Array,
    saved: Saved,
    weights: Weights,
    gradient: jax.Array,
    epsilon: float,
    shards: int = 1,
) -> tuple[jax.Array, Weights]:
    """Returns the gradients of the block's input and of the weights, from that of `features`."""
    values, into = _split(features, shards), _split(gradient, shards)
    mean = saved.features.mean
    pending = Pending(jnp.zeros_like(mean), jnp.zeros_like(mean))
    bottlenecks, inner = list(saved.bottlenecks), list(saved.inner)
    channels, gradients = features.shape[3], []
    for layer in reversed(weights):
        k = layer["conv2"]["kernel"].shape[3]
        end, channels = channels, channels - k
        output: Output = (
            values,
            None,
            Pending(*(p[channels:end] for p in pending)),
            mean[channels:end],
        )
        known = saved.features.first(channels)
        if "conv1" in layer:
            z, z_moments = _split(bottlenecks.pop(), shards), inner.pop()
            stage = _spatial(layer, z_moments, epsilon, channels)
            output = (values, into, *output[2:])
            dz, spatial_grads, z_pending = stage.gradient(output, z, jnp.zeros_like(z))
            stage = _pointwise(layer, known, epsilon)
            into, pointwise_grads, left = stage.gradient(
                (z, dz, z_pending, z_moments.mean), values, into
            )
            grads = _named(1, pointwise_grads, layer) | _named(2, spatial_grads, layer)
        else:
            stage = _spatial(layer, known, epsilon, channels)
            into, spatial_grads, left = stage.gradient(output, values, into)
            grads = _named(2, spatial_grads, layer)
        pending = pending.add(left)
        gradients.append(grads)
    pixels = values[..., :channels].astype(mean.dtype)
    constant, factor, centre = (
        along(pixels, array[:channels]) for array in (*pending, saved.features.mean)
    )
    dx = (into[..., :channels] + constant + factor * (pixels - centre)).astype(into.dtype)
    return dx.reshape(*features.shape[:3], channels), gradients[::-1]


def _split(array: jax.Array, shards: int) -> jax.Array:
    """`[B, ...]` as `[S, B / S, ...]`; a batch that S does not divide is on every device."""
    if shards == 1 or array.shape[0] % shards:
        return array
    return array.reshape(shards, -1, *array.shape[1:])


def _pointwise(layer: dict[str, dict[str, jax.Array]], known: Moments, epsilon: float) -> Stage:
    norm = Norm.create(layer["norm1"], known, epsilon)
    kernel = layer["conv1"]["kernel"][0, 0].astype(norm.a.dtype)
    return Stage(norm, kernel, False, 0, kernel.shape[1])


def _spatial(
    layer: dict[str, dict[str, jax.Array]], known: Moments, epsilon: float, begin: int
) -> Stage:
    norm = Norm.create(layer["norm2"], known, epsilon)
    kernel = layer["conv2"]["kernel"]
    return Stage(norm, flat_kernel(kernel, norm.a.dtype), True, begin, kernel.shape[3])


def _named(
    number: int,
    gradients: tuple[jax.Array, jax.Array, jax.Array],
    layer: dict[str, dict[str, jax.Array]],
) -> dict[str, dict[str, jax.Array]]:
    """Gradients of one stage under the names, and in the shapes and dtypes, of its weights."""
    kernel, scale, bias = gradients
    norm, conv = f"norm{number}", f"conv{number}"
    like = layer[conv]["kernel"]
    kernel = square_kernel(kernel, like) if number == 2 else kernel.reshape(like.shape)
    named = {norm: {"scale": scale, "bias": bias}, conv: {"kernel": kernel}}
    weights = {norm: layer[norm], conv: layer[conv]}
    return jax.tree.map(lambda new, old: new.astype(old.dtype), named, weights)
