"""Primitives of arrays and a spec that each platform computes in its own way.

`define` makes the primitives of convolutions and their gradients, `define_composite` those of
functions of them.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from jaxcnn.ops import onednn_calls
from jaxcnn.ops.conv import onednn, reference
from jaxcnn.ops.lowering import cpu_or_stock


def define(
    name: str,
    shape: Callable[..., reference.Shape],
    by_xla: Callable[..., jax.Array],
    by_onednn: Callable[..., jax.Array],
    elsewhere: Callable[..., jax.Array],
    batched: tuple[bool, bool],
) -> Primitive:
    """Defines a primitive of two arrays and a spec.

    Args:
        name: Shown in a jaxpr.
        shape: Of the result, from the shapes of the operands and the spec.
        by_xla: For the CPU; takes also `shards`, the devices that may share the batch.
        by_onednn: For the CPU where oneDNN can be called.
        elsewhere: For every other platform.
        batched: Which operands lead with the batch. If the result does as well, a further batch
            axis (`vmap`) of these alone can join it.
    """
    primitive = Primitive(name)

    def abstract(a: Any, b: Any, *, spec: Any) -> Any:
        return a.update(shape=shape(a.shape, b.shape, spec), weak_type=False)

    @functools.cache
    def compiled(spec: Any) -> Callable[..., jax.Array]:
        # For calls outside of `jit`, which are compiled too, once for each description.
        return jax.jit(lambda a, b: primitive.bind(a, b, spec=spec))

    def batch(operands: Any, axes: Any, *, spec: Any) -> Any:
        mapped = tuple(axis is not None for axis in axes)
        # Only what leads with the batch is mapped: its images join the others in one larger batch.
        # Where both operands lead with it, the result is a sum, which would add up the members.
        if mapped == batched and not all(batched):
            joined = []
            for operand, axis in zip(operands, axes, strict=True):
                if axis is not None:
                    operand = batching.bdim_at_front(operand, axis, 0)
                    count = operand.shape[0]
                    operand = operand.reshape(-1, *operand.shape[2:])
                joined.append(operand)
            out = primitive.bind(*joined, spec=spec)
            return out.reshape(count, -1, *out.shape[1:]), 0
        # Members cannot share one call: on the CPU a loop gives each of them the fast algorithm,
        # elsewhere JAX batches the stock one.
        out = cpu_or_stock(
            lambda a, b: _one_by_one(functools.partial(primitive.bind, spec=spec), a, b, axes),
            jax.vmap(lambda a, b: elsewhere(a, b, spec), axes),
            *operands,
        )
        return out, 0

    primitive.def_impl(lambda a, b, *, spec: compiled(spec)(a, b))
    primitive.def_abstract_eval(abstract)
    mlir.register_lowering(primitive, _lowering(by_xla, by_onednn, elsewhere))
    batching.primitive_batchers[primitive] = batch
    return primitive


def _lowering(
    by_xla: Callable[..., Any],
    by_onednn: Callable[..., Any],
    elsewhere: Callable[..., Any],
) -> Callable[..., Any]:
    """Returns the lowering rule that chooses among three functions; see `define`."""

    def lower(ctx: Any, *operands: Any, spec: Any) -> Any:
        # Known here for the first time: while tracing there are no devices and no export yet.
        shards = shards_of(ctx)
        called = may_call_onednn(ctx)

        def on_cpu(*operands: jax.Array) -> Any:
            if called and onednn.handles(*operands[:2]):
                return by_onednn(*operands, spec)
            return by_xla(*operands, spec, shards)

        def choose(*operands: jax.Array) -> Any:
            return cpu_or_stock(on_cpu, lambda *ops: elsewhere(*ops, spec), *operands)

        return mlir.lower_fun(choose, multiple_results=len(ctx.avals_out) > 1)(ctx, *operands)

    return lower


def _one_by_one(
    function: Callable[..., jax.Array],
    a: jax.Array,
    b: jax.Array,
    axes: tuple[int | None, int | None],
) -> jax.Array:
    """`vmap(function, axes)(a, b)` as a loop, so that each member gets the fast algorithm."""
    a_axis, b_axis = axes
    if b_axis is None:
        return lax.map(lambda a: function(a, b), jnp.moveaxis(a, a_axis or 0, 0))
    if a_axis is None:
        return lax.map(lambda b: function(a, b), jnp.moveaxis(b, b_axis, 0))
    return lax.map(
        lambda ab: function(*ab), (jnp.moveaxis(a, a_axis, 0), jnp.moveaxis(b, b_axis, 0))
    )


def may_call_onednn(ctx: Any) -> bool:
    """Whether the program being lowered may call oneDNN: on one device, and not to be exported.

    XLA cannot divide a custom call among devices.
    """
    exported = ctx.module_context.lowering_parameters.for_export
    return onednn_calls.is_usable() and shards_of(ctx) == 1 and not exported


def shards_of(ctx: Any) -> int:
    """Devices over which the batch may be sharded by XLA in the program being lowered."""
    axes = ctx.module_context.axis_context
    # Under `jit`: XLA may divide the batch among all devices of the program.
    if hasattr(axes, "num_devices"):
        return axes.num_devices or 1
    if hasattr(axes, "mesh"):  # Inside `shard_map`: what is manual is one shard already.
        sizes = dict(axes.mesh.shape)
        return math.prod(n for name, n in sizes.items() if name not in axes.manual_axes)
    return 1


def define_composite(
    name: str,
    function: Callable[..., Any],
    abstract: Callable[..., Any],
    by_xla: Callable[..., Any] | None = None,
    by_onednn: Callable[..., Any] | None = None,
    *,
    several: bool = False,
) -> Primitive:
    """Defines a primitive that is a function of others, but may be computed in another way.

    Derivatives and `vmap` are those of the function.

    Args:
        name: Shown in a jaxpr.
        function: Of operands, the first two of which are images and a kernel, and a spec.
        abstract: From abstract operands and a spec to the abstract result, or a list of them.
        by_xla: For the CPU; takes also `shards`. If None, the function is computed everywhere.
        by_onednn: For the CPU where oneDNN can be called.
        several: Whether there is a list of results.
    """
    primitive = Primitive(name)
    primitive.multiple_results = several

    def of(spec: Any) -> Callable[..., Any]:
        return lambda *operands: function(*operands, spec)

    def abstract_results(*operands: Any, spec: Any) -> Any:
        return abstract(*operands, spec)

    def jvp(primals: Any, tangents: Any, *, spec: Any) -> Any:
        # `jax.jvp` takes no symbolic zeros.
        tangents = tuple(map(ad.instantiate_zeros, tangents))
        return jax.jvp(of(spec), tuple(primals), tangents)

    def batch(operands: Any, axes: Any, *, spec: Any) -> Any:
        out = jax.vmap(of(spec), axes)(*operands)
        return out, jax.tree.map(lambda _: 0, out)

    @functools.cache
    def compiled(spec: Any) -> Callable[..., Any]:
        return jax.jit(lambda *operands: primitive.bind(*operands, spec=spec))

    primitive.def_impl(lambda *operands, spec: compiled(spec)(*operands))
    primitive.def_abstract_eval(abstract_results)
    ad.primitive_jvps[primitive] = jvp
    batching.primitive_batchers[primitive] = batch
    if by_xla and by_onednn:
        mlir.register_lowering(primitive, _lowering(by_xla, by_onednn, function))
    else:
        mlir.register_lowering(
            primitive,
            lambda ctx, *operands, spec: mlir.lower_fun(of(spec), several)(ctx, *operands),
        )
    return primitive
