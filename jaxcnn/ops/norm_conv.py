"""Batch norm, ReLU and convolution, in training, without keeping the array between them.

On the CPU, where the convolution is Winograd's, norm and ReLU are computed by the loop that
transforms the tiles, and what their gradients need of all pixels is added up by the loop that makes
the pixels' gradients: six passes over memory less. Elsewhere on the CPU, norm and ReLU are computed
again for the gradients (Chen et al. 2016, arXiv:1604.06174), which need the norm's input besides.

On other platforms the gradients are the ordinary ones of a norm, ReLU and a stock convolution. They
name the array between by the same expression as the forward pass, so XLA computes and keeps it once
or, fusing it into what reads it, twice, as it sees fit.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
from jax import lax

from jaxcnn.ops import norm as norms
from jaxcnn.ops.conv import onednn, primitives, reference, xla
from jaxcnn.ops.conv.api import conv_spec_of, same_varying_axes
from jaxcnn.ops.conv.define import define_composite
from jaxcnn.ops.conv.select import select
from jaxcnn.ops.lowering import cpu_or_stock
from jaxcnn.ops.norm import NormRelu, normalize
from jaxcnn.ops.spec import ConvSpec
from jaxcnn.ops.winograd import stride1

_LAYOUT = ("NHWC", "HWIO", "NHWC")


def norm_relu_conv(
    x: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    mean: jax.Array,
    var: jax.Array,
    kernel: jax.Array,
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    feature_group_count: int = 1,
    *,
    epsilon: float,
) -> jax.Array:
    """The convolution of `relu(norm(x))`, in training. Reverse mode only.

    Args:
        x: The norm's input, `[B, H, W, C]`.
        scale: gamma, `[C]`.
        bias: beta, `[C]`.
        mean: From `moments(x, groups)`, `[C]` or `[groups, C]`.
        var: From `moments(x, groups)`, `[C]` or `[groups, C]`.
        kernel: `[h, w, C / feature_group_count, F]`, of the dtype of `x`.
        window_strides: As in `lax.conv_general_dilated`.
        padding: As in `lax.conv_general_dilated`; pads zeros to what ReLU gives.
        feature_group_count: As in `lax.conv_general_dilated`.
        epsilon: Added to the variance.

    Returns:
        `[B, H', W', F]`, of the dtype of `x`.
    """
    arguments = (window_strides, padding, None, None, _LAYOUT, feature_group_count)
    spec = conv_spec_of(x, kernel, *arguments)
    if spec is None:
        images = normalize(x, scale, bias, mean, var, epsilon, True).astype(x.dtype)
        return lax.conv_general_dilated(images, kernel, *arguments)
    x, kernel = same_varying_axes(x, kernel)
    return _norm_relu_conv(x, scale, bias, mean, var, kernel, epsilon, spec)


@functools.partial(jax.custom_vjp, nondiff_argnums=(6, 7))
def _norm_relu_conv(
    x: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    mean: jax.Array,
    var: jax.Array,
    kernel: jax.Array,
    epsilon: float,
    spec: ConvSpec,
) -> jax.Array:
    y: jax.Array
    if _is_fused(x, mean, kernel, spec):
        a, b = norms.affine_of(scale, bias, mean, var, epsilon)
        y = _fused_conv.bind(x, kernel, a, b, mean, spec=spec)
    else:
        # Two operations here, but what passes between them is not kept for the gradient.
        images = normalize(x, scale, bias, mean, var, epsilon, True).astype(x.dtype)
        y = primitives.convolution.bind(images, kernel, spec=spec)
    return y


def _is_fused(x: jax.Array, mean: jax.Array, kernel: jax.Array, spec: ConvSpec) -> bool:
    """Whether norm and ReLU become part of Winograd's loops where the program is for the CPU.

    That needs Winograd in both directions, one norm for the whole batch, and no negative padding:
    `spec.cropped` would then pad before the norm, which does not leave zeros zero.
    """
    # This is asked while tracing, when neither oneDNN nor the number of devices is known: the rows
    # for XLA and the whole batch decide. Where they say Winograd, those for oneDNN do so, too.
    is_uncropped = min(pad for pads in spec.padding for pad in pads) >= 0
    plan = select(spec, x.shape[0], kernel.shape[2], kernel.shape[3], "xla")
    return mean.ndim == 1 and is_uncropped and plan.is_fused_with_norm


def _forward(*operands: Any) -> Any:
    return _norm_relu_conv(*operands), operands[:6]


def _backward(epsilon: float, spec: ConvSpec, saved: Any, dy: jax.Array) -> Any:
    x, scale, bias, mean, var, kernel = saved
    if _is_fused(x, mean, kernel, spec):
        affine = norms.affine_of(scale, bias, mean, var, epsilon)
        # `dx` is the gradient of what ReLU gives; `norm_grads` carries it on to the norm's input.
        dx, d_kernel, *sums = _fused_grads.bind(x, kernel, *affine, mean, dy, spec=spec)
        shared = (x, scale, bias, mean, var, epsilon, affine, (sums[0], sums[1]))
        return (*norms.norm_grads(dx, *shared), None, None, d_kernel)
    # The barrier keeps XLA from reusing the forward pass's array, which would have to be kept.
    saved, dy = cpu_or_stock(lambda *all_: lax.optimization_barrier(all_), _identity, saved, dy)
    # A second forward pass through norm and ReLU, from the norm's input.
    x, scale, bias, mean, var, kernel = saved

    def norm_relu(x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
        return normalize(x, scale, bias, mean, var, epsilon, True).astype(x.dtype)

    images, norm_relu_vjp = jax.vjp(norm_relu, x, scale, bias)
    d_images, d_kernel = primitives.conv_vjp.bind(images, kernel, dy, spec=spec)
    return (*norm_relu_vjp(d_images), None, None, d_kernel)


def _identity(*operands: Any) -> Any:
    return operands


_norm_relu_conv.defvjp(_forward, _backward)


def _conv_by_definition(
    x: jax.Array,
    kernel: jax.Array,
    a: jax.Array,
    b: jax.Array,
    mean: jax.Array,
    spec: ConvSpec,
) -> jax.Array:
    """The convolution of `max(a x + b, 0)`, step by step."""
    images = NormRelu((a, b), mean).of(x).astype(x.dtype)
    y: jax.Array = primitives.convolution.bind(images, kernel, spec=spec)
    return y


def _conv_by_xla(*operands: Any) -> jax.Array:
    x, kernel, a, b, mean, spec, shards = operands
    return stride1.conv_forward(x, kernel, spec, xla.MATMULS, shards, NormRelu((a, b), mean))


def _conv_by_onednn(*operands: Any) -> jax.Array:
    x, kernel, a, b, mean, spec = operands
    return stride1.conv_forward(x, kernel, spec, onednn.MATMULS, norm=NormRelu((a, b), mean))


def _grads_by_definition(
    x: jax.Array,
    kernel: jax.Array,
    a: jax.Array,
    b: jax.Array,
    mean: jax.Array,
    dy: jax.Array,
    spec: ConvSpec,
) -> list[jax.Array]:
    """The gradients of the images `max(a x + b, 0)` and of the kernel, and the `grad_sums`."""
    images = NormRelu((a, b), mean).of(x).astype(x.dtype)
    dx, d_kernel = primitives.conv_vjp.bind(images, kernel, dy, spec=spec)
    return [dx, d_kernel, *norms.plain_grad_sums(dx, x, mean, (a, b))]


def _grads_by_xla(*operands: Any) -> list[jax.Array]:
    *operands_, shards = operands
    return _grads_by_winograd(*operands_, xla.MATMULS, shards)


def _grads_by_onednn(*operands: Any) -> list[jax.Array]:
    return _grads_by_winograd(*operands, onednn.MATMULS, 1)


def _grads_by_winograd(*operands: Any) -> list[jax.Array]:
    x, kernel, a, b, mean, dy, spec, matmuls, shards = operands
    norm = NormRelu((a, b), mean)
    dx, d_kernel, sums = stride1.conv_vjp(x, kernel, dy, spec, matmuls, shards, norm)
    assert sums is not None
    return [dx, d_kernel, *sums]


_fused_conv = define_composite(
    "cnn_norm_relu_conv",
    _conv_by_definition,
    lambda x, kernel, a, b, mean, spec: x.update(
        shape=reference.output_shape(x.shape, kernel.shape, spec), weak_type=False
    ),
    _conv_by_xla,
    _conv_by_onednn,
)
_fused_grads = define_composite(
    "cnn_norm_relu_conv_gradients",
    _grads_by_definition,
    # The two sums are `[C]`, as `a` is.
    lambda x, kernel, a, b, mean, dy, spec: [
        array.update(weak_type=False) for array in (x, kernel, a, a)
    ],
    _grads_by_xla,
    _grads_by_onednn,
    several=True,
)
