"""The dense block of DenseNet as one operation with its own gradient, for training on the CPU."""

import contextlib
import contextvars
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir

from jaxcnn.ops.conv.primitives import may_call_onednn, shards_of
from jaxcnn.ops.dense_block import passes
from jaxcnn.ops.dense_block.arithmetic import Moments, Saved, Weights, wide

Statistics = list[dict[str, Moments]]


_is_layer_by_layer = contextvars.ContextVar("is_layer_by_layer", default=False)


@contextlib.contextmanager
def layer_by_layer() -> Iterator[None]:
    """Inside, `is_dense_block_fast` is False.

    For `vmap` over what lies on different devices: one operation would walk from device to device,
    and XLA would send the images of each to all others.
    """
    token = _is_layer_by_layer.set(True)
    try:
        yield
    finally:
        _is_layer_by_layer.reset(token)


def is_dense_block_fast(x: jax.Array) -> bool:
    """Whether `dense_block` is the faster way: on the CPU, outside `shard_map`."""
    is_varying = bool(jax.typeof(x).manual_axis_type.varying)
    return jax.default_backend() == "cpu" and not is_varying and not _is_layer_by_layer.get()


def dense_block(x: jax.Array, weights: Weights, epsilon: float) -> tuple[jax.Array, Statistics]:
    """Runs all layers of a dense block in training (Huang et al. 2017, arXiv:1608.06993, sec. 3).

    Up to rounding the same as, layer by layer, batch norm, ReLU and convolution of all features so
    far, whose result is concatenated to them. It writes each feature once and reads it as seldom
    as can be (see `dense_layers`): a step of densenet40_k12 at batch 128 has a peak of 1.0 GB in
    place of 5.0, and takes 2.5 s in place of 6.0 (scripts/bench/steps.py; 2 cores of an EPYC, jax
    0.10.2; the older figures on a busy machine).

    Args:
      x: `[B, H, W, C]`.
      weights: for each layer "norm2" ("scale" and "bias") and "conv2" ("kernel", `[3, 3, F, k]`,
        stride 1, padding 1); with a bottleneck "norm1" and "conv1" (`[1, 1, C', F]`) before. All
        have or lack it, with the same k and F.
      epsilon: added to the variances.

    Returns:
      The features, `[B, H, W, C + layers * k]`, and for each layer the batch's mean and variance
      under the names of its norms. No gradient flows through the latter. Reverse mode only.
    """
    features, saved = _block(x, list(weights), epsilon)
    saved = lax.stop_gradient(saved)
    statistics = []
    channels = x.shape[3]
    for number, layer in enumerate(weights):
        known = saved.features.first(channels)
        if saved.inner is None:
            statistics.append({"norm2": known})
        else:
            inner = Moments(*(array[number] for array in saved.inner))
            statistics.append({"norm1": known, "norm2": inner})
        channels += layer["conv2"]["kernel"].shape[3]
    return features, statistics


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _block(x: jax.Array, weights: Weights, epsilon: float) -> tuple[jax.Array, Saved]:
    return _bind(_forward, (x, weights), epsilon)


def _block_forward(x: jax.Array, weights: Weights, epsilon: float) -> Any:
    features, saved = _bind(_forward, (x, weights), epsilon)
    return (features, saved), (features, saved, weights)


def _block_backward(epsilon: float, residuals: Any, gradients: Any) -> Any:
    return _bind(_backward, (*residuals, gradients[0]), epsilon)


_block.defvjp(_block_forward, _block_backward)


def _bind(primitive: Primitive, operands: Any, epsilon: float) -> Any:
    leaves, tree = jax.tree.flatten(operands)
    _, out_tree = _shapes(primitive, leaves, tree)
    return jax.tree.unflatten(out_tree, primitive.bind(*leaves, tree=tree, epsilon=epsilon))


def _shapes(primitive: Primitive, leaves: Any, tree: Any) -> Any:
    _, shapes = _FUNCTIONS[primitive.name]
    return jax.tree.flatten(shapes(*jax.tree.unflatten(tree, leaves)))


def _define(name: str) -> Primitive:
    """A primitive that is lowered to a function which is told how many devices share the batch."""
    primitive = Primitive(name)
    primitive.multiple_results = True

    def call(*leaves: Any, tree: Any, **options: Any) -> list[jax.Array]:
        function, _ = _FUNCTIONS[name]
        operands = jax.tree.unflatten(tree, leaves)
        return jax.tree.leaves(function(*operands, **options))

    def abstract(*leaves: Any, tree: Any, epsilon: float) -> Any:
        shapes, _ = _shapes(primitive, leaves, tree)
        return [leaves[0].update(shape=s.shape, dtype=s.dtype, weak_type=False) for s in shapes]

    def lower(ctx: Any, *leaves: Any, tree: Any, epsilon: float) -> Any:
        is_float32 = all(wide(aval.dtype) == jnp.float32 for aval in ctx.avals_in)
        function = functools.partial(
            call,
            tree=tree,
            epsilon=epsilon,
            shards=shards_of(ctx),
            by_onednn=is_float32 and may_call_onednn(ctx),
        )
        return mlir.lower_fun(function, multiple_results=True)(ctx, *leaves)

    def batch(operands: Any, axes: Any, *, tree: Any, epsilon: float) -> Any:
        mapped = [axis is not None for axis in axes]
        moved = [
            batching.bdim_at_front(operand, axis, 0)
            for operand, axis in zip(operands, axes, strict=True)
            if axis is not None
        ]

        def one(members: list[jax.Array]) -> list[jax.Array]:
            member = iter(members)
            pairs = zip(operands, mapped, strict=True)
            leaves = [next(member) if is_mapped else operand for operand, is_mapped in pairs]
            return primitive.bind(*leaves, tree=tree, epsilon=epsilon)

        out = lax.map(one, moved)
        return out, [0] * len(out)

    @functools.cache
    def compiled(**static: Any) -> Callable[..., Any]:
        return jax.jit(functools.partial(primitive.bind, **static))

    primitive.def_impl(lambda *leaves, **static: compiled(**static)(*leaves))
    primitive.def_abstract_eval(abstract)
    mlir.register_lowering(primitive, lower)
    batching.primitive_batchers[primitive] = batch
    return primitive


# For each what computes it, and the shapes and dtypes of the results. (To trace the one for the
# other takes 1.4 of the 22 s that it takes to compile densenet_bc100_k12.)
_FUNCTIONS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "cnn_dense_block": (passes.forward, passes.forward_shapes),
    "cnn_dense_block_gradient": (passes.backward, passes.backward_shapes),
}
_forward, _backward = map(_define, _FUNCTIONS)
