"""A dense block layer by layer: the definition, and what platforms other than the CPU compute.

Both passes have the same arguments and results as those in `passes`, so that a program is traced
once and the choice is made when it is lowered. The backward pass is therefore written out. It takes
each layer's gradient from the features and bottlenecks that the forward pass has stored: norm and
ReLU are cheap to compute again, and no convolution is.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxcnn.ops import norm as norms
from jaxcnn.ops.conv import reference
from jaxcnn.ops.dense_block.arithmetic import Moments, Saved, Weights
from jaxcnn.ops.spec import ConvSpec, height_width

Params = dict[str, jax.Array]
Layer = dict[str, Params]


def forward(
    x: jax.Array,
    weights: Weights,
    epsilon: float,
    convolve: Callable[[jax.Array, jax.Array, ConvSpec], jax.Array] = reference.conv_forward,
) -> tuple[jax.Array, Saved]:
    """Returns the block's features and what is to be saved, as `passes.forward` does.

    Args:
        x: `[B, H, W, C]`.
        weights: See `op.dense_block`.
        epsilon: Added to the variances.
        convolve: Computes a convolution of images with a kernel.
    """
    known, bottlenecks, inner = _moments(x), [], []
    for layer in weights:
        inputs, own = x, known
        if "conv1" in layer:
            inputs = _norm_relu_conv(inputs, layer, 1, own, epsilon, convolve)
            own = _moments(inputs)
            bottlenecks.append(inputs)
            inner.append(own)
        new = _norm_relu_conv(inputs, layer, 2, own, epsilon, convolve)
        known = Moments(*map(_joined, zip(known, _moments(new), strict=True)))
        # The barrier has XLA write the concatenation once, not in every kernel that reads it.
        x = lax.optimization_barrier(_joined((x, new)))
    if not bottlenecks:
        return x, Saved(known, None, None)
    inner_moments = Moments(*(jnp.stack(each) for each in zip(*inner, strict=True)))
    return x, Saved(known, jnp.stack(bottlenecks), inner_moments)


def backward(
    features: jax.Array, saved: Saved, weights: Weights, gradient: jax.Array, epsilon: float
) -> tuple[jax.Array, Weights]:
    """Returns the gradients of the block's input and of the weights, as `passes.backward` does.

    Args:
        features: From `forward`, `[B, H, W, C + L * k]`.
        saved: From `forward`.
        weights: See `op.dense_block`.
        gradient: Gradient of `features`.
        epsilon: Added to the variances.
    """
    gradients: list[Layer] = []
    for number, layer in reversed(list(enumerate(weights))):
        channels = features.shape[3] - layer["conv2"]["kernel"].shape[3]
        # What the layer read, and the gradient of what it wrote behind that.
        features = features[..., :channels]
        gradient, dy = gradient[..., :channels], gradient[..., channels:]
        known, found = saved.features.first(channels), {}
        if saved.bottlenecks is None or saved.inner is None:
            dx, found["norm2"], found["conv2"] = _gradients(dy, features, layer, 2, known, epsilon)
        else:
            inputs, inner = saved.bottlenecks[number], Moments(*(a[number] for a in saved.inner))
            # Back through the 3x3 convolution, then through the bottleneck before it.
            dz, found["norm2"], found["conv2"] = _gradients(dy, inputs, layer, 2, inner, epsilon)
            dx, found["norm1"], found["conv1"] = _gradients(dz, features, layer, 1, known, epsilon)
        gradient = gradient + dx
        gradients.insert(0, found)
    return gradient, gradients


def _norm_relu_conv(
    x: jax.Array,
    layer: Layer,
    number: int,
    moments: Moments,
    epsilon: float,
    convolve: Callable[[jax.Array, jax.Array, ConvSpec], jax.Array],
) -> jax.Array:
    """Norm, ReLU and convolution `number` (1 or 2) of a layer: `[B, H, W, C]` to `[B, H, W, F]`."""
    kernel = layer[f"conv{number}"]["kernel"].astype(x.dtype)
    images = _norm_relu(x, layer[f"norm{number}"], moments, epsilon)
    return convolve(images, kernel, _conv_spec(x, kernel))


def _gradients(
    dy: jax.Array, x: jax.Array, layer: Layer, number: int, moments: Moments, epsilon: float
) -> tuple[jax.Array, Params, Params]:
    """The gradients of `_norm_relu_conv` with respect to x, the norm's and the conv's parameters.

    Args:
        dy: Gradient of the result, `[B, H, W, F]`.
        x: The input, `[B, H, W, C]`.
        layer: Weights of the layer.
        number: Of the norm and convolution, 1 or 2.
        moments: Moments of the input, `[C]`.
        epsilon: Added to the variances.
    """
    norm, kernel = layer[f"norm{number}"], layer[f"conv{number}"]["kernel"]
    spec = _conv_spec(x, kernel)
    # Not saved by the forward pass: all layers' together grow with the square of the depth.
    images = _norm_relu(x, norm, moments, epsilon)
    d_images = reference.conv_input_grad(dy, kernel.astype(x.dtype), spec)
    d_kernel = reference.conv_kernel_grad(images, dy, spec).astype(kernel.dtype)
    scale, bias = _in_dtype_of(moments, norm)
    affine = norms.affine_of(scale, bias, *moments, epsilon)
    sums = norms.plain_grad_sums(d_images, x, moments.mean, affine)
    # All three terms at once; the passes for the CPU defer two of them.
    dx, d_scale, d_bias = norms.norm_grads(
        d_images, x, scale, bias, *moments, epsilon, affine, sums
    )
    d_norm = {
        "scale": d_scale.astype(norm["scale"].dtype),
        "bias": d_bias.astype(norm["bias"].dtype),
    }
    return dx, d_norm, {"kernel": d_kernel}


def _norm_relu(x: jax.Array, norm: Params, moments: Moments, epsilon: float) -> jax.Array:
    """Norm and ReLU of `[B, H, W, C]`, in its dtype."""
    scale, bias = _in_dtype_of(moments, norm)
    return norms.normalize(x, scale, bias, *moments, epsilon, True).astype(x.dtype)


def _in_dtype_of(moments: Moments, norm: Params) -> tuple[jax.Array, jax.Array]:
    """Scale and bias, `[C]` each."""
    return norm["scale"].astype(moments.var.dtype), norm["bias"].astype(moments.var.dtype)


def _moments(x: jax.Array) -> Moments:
    return Moments(*norms.moments(x))


def _joined(arrays: Any) -> jax.Array:
    return jnp.concatenate(arrays, axis=-1)


def _conv_spec(x: jax.Array, kernel: jax.Array) -> ConvSpec:
    """A convolution of stride 1 that keeps the size."""
    height, width = kernel.shape[:2]
    pads = ((height // 2, height // 2), (width // 2, width // 2))
    return ConvSpec(height_width(x), (height, width), (1, 1), pads, depthwise=False)
