"""Any function of arrays with the convolutions of `conv_general_dilated` in place of JAX's."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.extend import core

from jaxcnn.ops.conv.api import conv_general_dilated


def accelerate(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns the function with every convolution computed by `ops.conv_general_dilated`.

    For models whose layers take no convolution as an argument, such as
    `flax.linen.ConvTranspose`: `apply = ops.accelerate(model.apply)`. Goes into `jit` and
    `checkpoint`; convolutions inside of loops, `cond`, and functions with derivatives of their own
    stay as they are. Inside a `jit` it costs nothing at run time; outside of one, every call is
    traced again.

    Args:
        function: Of any arguments; what it returns consists of arrays.
    """

    @functools.wraps(function)
    def accelerated(*args: Any, **kwargs: Any) -> Any:
        # All arguments are closed over, as they need not be arrays.
        closed, shapes = jax.make_jaxpr(lambda: function(*args, **kwargs), return_shape=True)()
        results = _evaluated(closed.jaxpr, closed.consts, ())
        return jax.tree.unflatten(jax.tree.structure(shapes), results)

    return accelerated


def _evaluated(jaxpr: Any, consts: Sequence[Any], args: Sequence[Any]) -> list[Any]:
    values = dict(zip(jaxpr.constvars, consts, strict=True))
    values |= zip(jaxpr.invars, args, strict=True)

    def value(atom: Any) -> Any:
        return atom.val if isinstance(atom, core.Literal) else values[atom]

    for equation in jaxpr.eqns:
        operands = [value(atom) for atom in equation.invars]
        # Such settings as `jax.default_matmul_precision` that the equation was traced under.
        with equation.ctx.manager:
            values |= zip(equation.outvars, _applied(equation, operands), strict=True)
    return [value(atom) for atom in jaxpr.outvars]


def _applied(equation: Any, operands: list[Any]) -> Sequence[Any]:
    primitive, params = equation.primitive, equation.params
    if primitive.name == "conv_general_dilated":
        return [conv_general_dilated(*operands, **params)]
    if primitive.name in ("jit", "pjit"):
        return _evaluated(params["jaxpr"].jaxpr, params["jaxpr"].consts, operands)
    if primitive.name in ("checkpoint", "remat2"):
        again = jax.checkpoint(
            lambda *args: _evaluated(params["jaxpr"], (), args),
            prevent_cse=params["prevent_cse"],
            policy=params["policy"],
        )
        return again(*operands)
    results = primitive.bind(*operands, **primitive.get_bind_params(params))
    return results if primitive.multiple_results else [results]
