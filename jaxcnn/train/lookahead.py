"""Lookahead: slow weights that follow those of another optimizer every few steps."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

Finish = Callable[[Any, Any, jax.Array], tuple[Any, Any]]
"""From the parameters after a step, the optimizer's state and the step's number to both anew."""


def unchanged(params: Any, opt_state: Any, step: jax.Array) -> tuple[Any, Any]:
    """Finishes a step by changing nothing."""
    return params, opt_state


class LookaheadState(NamedTuple):
    """The state of the optimizer inside, and the slow weights."""

    inner: Any
    slow: Any


def lookahead(
    tx: optax.GradientTransformation, every: int, alpha: float
) -> tuple[optax.GradientTransformation, Finish]:
    """Returns the optimizer with slow weights, and what to do at the end of a step.

    After each `every` steps the slow weights go the fraction `alpha` of the way to the parameters,
    which are then set to them (Zhang et al. 2019, arXiv:1907.08610, algorithm 1). The state of the
    optimizer inside goes on. (`optax.lookahead` has both kinds of weights as parameters and counts
    steps of its own; here the number of the step is the only clock.)

    Args:
        tx: The optimizer inside.
        every: Steps, k, from 1 on.
        alpha: Above 0, at most 1.
    """

    def init(params: Any) -> LookaheadState:
        return LookaheadState(tx.init(params), jax.tree.map(jnp.copy, params))

    def update(grads: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        direction, inner = tx.update(grads, state.inner, params)
        return direction, LookaheadState(inner, state.slow)

    def finish(params: Any, state: Any, step: jax.Array) -> tuple[Any, Any]:
        is_due = (step + 1) % every == 0
        slow = jax.tree.map(
            lambda old, new: jnp.where(is_due, old + alpha * (new - old), old), state.slow, params
        )
        params = jax.tree.map(lambda new, old: jnp.where(is_due, old, new), params, slow)
        return params, LookaheadState(state.inner, slow)

    return optax.GradientTransformation(init, update), finish
