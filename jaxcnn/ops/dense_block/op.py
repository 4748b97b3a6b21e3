"""The dense block of DenseNet as one operation with its own gradient, for training.

Its forward and backward pass are primitives: a program is traced once, and how they are computed is
chosen when it is lowered: by loops over few images on the CPU (`passes`), layer by layer in stock
operations elsewhere (`layerwise`). What the one pass saves for the other is the same for both.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir

from jaxcnn.ops.conv.api import same_varying_axes
from jaxcnn.ops.conv.define import may_call_onednn, shards_of
from jaxcnn.ops.conv.primitives import convolution
from jaxcnn.ops.dense_block import layerwise, passes
from jaxcnn.ops.dense_block.arithmetic import Moments, Saved, Weights, wide
from jaxcnn.ops.lowering import cpu_or_stock
from jaxcnn.ops.spec import ConvSpec

Statistics = list[dict[str, Moments]]


def dense_block(x: jax.Array, weights: Weights, epsilon: float) -> tuple[jax.Array, Statistics]:
    """Runs all layers of a dense block in training (Huang et al. 2017, arXiv:1608.06993, sec. 3).

    Up to rounding the same as, layer by layer, batch norm, ReLU and convolution of all features so
    far, whose result is concatenated to them. Each feature is kept once, and on the CPU read as
    seldom as can be (see `arithmetic`).

    Args:
        x: `[B, H, W, C]`.
        weights: For each layer "norm2" ("scale" and "bias") and "conv2" ("kernel", `[3, 3, F, k]`,
            stride 1, padding 1); with a bottleneck "norm1" and "conv1" (`[1, 1, C', F]`) before.
            All have or lack it, with the same k and F.
        epsilon: Added to the variances.

    Returns:
        The features, `[B, H, W, C + layers * k]`, and for each layer the batch's mean and variance
        under the names of its norms. No gradient flows through the latter. Reverse mode only.
    """
    if jax.typeof(x).manual_axis_type.varying:
        # Inside `shard_map` JAX's own rules keep account of which axes an array varies over.
        features, saved = layerwise.forward(x, list(weights), epsilon, _convolve_shard)
    else:
        features, saved = _block(x, list(weights), epsilon)
    return features, _statistics(x.shape[3], weights, lax.stop_gradient(saved))


def _statistics(channels: int, weights: Weights, saved: Saved) -> Statistics:
    """The moments that each layer's norms have seen, by name."""
    statistics = []
    for number, layer in enumerate(weights):
        known = saved.features.first(channels)
        if saved.inner is None:
            statistics.append({"norm2": known})
        else:
            inner = Moments(*(array[number] for array in saved.inner))
            statistics.append({"norm1": known, "norm2": inner})
        channels += layer["conv2"]["kernel"].shape[3]
    return statistics


def _convolve_shard(x: jax.Array, kernel: jax.Array, spec: ConvSpec) -> jax.Array:
    y: jax.Array = convolution.bind(*same_varying_axes(x, kernel), spec=spec)
    return y


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _block(x: jax.Array, weights: Weights, epsilon: float) -> tuple[jax.Array, Saved]:
    features, saved = _forward((x, weights), epsilon)
    return features, saved


def _block_forward(x: jax.Array, weights: Weights, epsilon: float) -> Any:
    features, saved = _forward((x, weights), epsilon)
    return (features, saved), (features, saved, weights)


def _block_backward(epsilon: float, residuals: Any, gradients: Any) -> Any:
    # The gradients of what was saved are left out: `dense_block` lets none flow there.
    return _backward((*residuals, gradients[0]), epsilon)


_block.defvjp(_block_forward, _block_backward)


def _define(
    name: str,
    on_cpu: Callable[..., Any],
    elsewhere: Callable[..., Any],
    shapes: Callable[..., Any],
) -> Callable[[Any, float], Any]:
    """A function of a tree of arrays and `epsilon` that is one primitive.

    Args:
        name: Shown in a jaxpr.
        on_cpu: Computes it where the program is lowered for the CPU; also takes `shards`, the
            number of devices that share the batch, and `by_onednn`.
        elsewhere: Computes it on every other platform.
        shapes: From the arrays to the shapes and dtypes of the results, without tracing `on_cpu`,
            which would be done for nothing wherever the primitive is bound.
    """
    primitive = Primitive(name)
    primitive.multiple_results = True

    def call(function: Callable[..., Any], *leaves: Any, tree: Any, **options: Any) -> Any:
        return jax.tree.leaves(function(*jax.tree.unflatten(tree, leaves), **options))

    def abstract(*leaves: Any, tree: Any, epsilon: float) -> Any:
        results = jax.tree.leaves(shapes(*jax.tree.unflatten(tree, leaves)))
        return [leaves[0].update(shape=r.shape, dtype=r.dtype, weak_type=False) for r in results]

    def lower_for_cpu(ctx: Any, *leaves: Any, tree: Any, epsilon: float) -> Any:
        # oneDNN computes in float32; what is float64, in tests of exactness, must not lose digits.
        is_float32 = all(wide(aval.dtype) == jnp.float32 for aval in ctx.avals_in)
        function = functools.partial(
            call,
            on_cpu,
            tree=tree,
            epsilon=epsilon,
            shards=shards_of(ctx),
            by_onednn=is_float32 and may_call_onednn(ctx),
        )
        return mlir.lower_fun(function, multiple_results=True)(ctx, *leaves)

    def lower(ctx: Any, *leaves: Any, tree: Any, epsilon: float) -> Any:
        function = functools.partial(call, elsewhere, tree=tree, epsilon=epsilon)
        return mlir.lower_fun(function, multiple_results=True)(ctx, *leaves)

    def batch(operands: Any, axes: Any, *, tree: Any, epsilon: float) -> Any:
        bind = functools.partial(primitive.bind, tree=tree, epsilon=epsilon)
        stock = functools.partial(call, elsewhere, tree=tree, epsilon=epsilon)
        out = cpu_or_stock(
            lambda *operands: _one_by_one(bind, operands, axes), jax.vmap(stock, axes), *operands
        )
        return out, [0] * len(out)

    @functools.cache
    def compiled(**static: Any) -> Callable[..., Any]:
        return jax.jit(functools.partial(primitive.bind, **static))

    primitive.def_impl(lambda *leaves, **static: compiled(**static)(*leaves))
    primitive.def_abstract_eval(abstract)
    # The first rule is for every platform that has none of its own.
    mlir.register_lowering(primitive, lower)
    mlir.register_lowering(primitive, lower_for_cpu, platform="cpu")
    batching.primitive_batchers[primitive] = batch

    def bind(operands: Any, epsilon: float) -> Any:
        leaves, tree = jax.tree.flatten(operands)
        results = primitive.bind(*leaves, tree=tree, epsilon=epsilon)
        return jax.tree.unflatten(jax.tree.structure(shapes(*operands)), results)

    return bind


def _one_by_one(function: Callable[..., Any], operands: Any, axes: Any) -> list[jax.Array]:
    """`vmap(function, axes)(*operands)` as a loop over the members."""
    moved = [
        batching.bdim_at_front(operand, axis, 0)
        for operand, axis in zip(operands, axes, strict=True)
        if axis is not None
    ]

    def one(members: list[jax.Array]) -> list[jax.Array]:
        member = iter(members)
        pairs = zip(operands, axes, strict=True)
        return function(*(operand if axis is None else next(member) for operand, axis in pairs))

    return list(lax.map(one, moved))


_forward = _define("cnn_dense_block", passes.forward, layerwise.forward, passes.forward_shapes)
_backward = _define(
    "cnn_dense_block_gradient", passes.backward, layerwise.backward, passes.backward_shapes
)
