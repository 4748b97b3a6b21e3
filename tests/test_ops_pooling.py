"""Pooling against flax's."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxcnn import ops

WINDOWS: dict[str, tuple[Any, ...]] = {
    "tiles": ((2, 2), (2, 2), "VALID"),
    "tiles that do not fit": ((3, 3), (3, 3), "VALID"),
    "overlapping": ((3, 3), (2, 2), "SAME"),
    "every pixel": ((2, 2), None, "VALID"),
    "padded": ((3, 2), (2, 2), ((1, 1), (1, 0))),
}


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("name", ["max_pool", "avg_pool"])
def test_value_and_gradient_are_those_of_flax_even_with_ties(name: str, window: str) -> None:
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.integers(0, 3, (3, 8, 10, 5)), jnp.float32)  # Many ties.
    results = []
    for module in (ops, nn):

        def both(x: jax.Array, module: Any = module) -> Any:
            y, transpose = jax.vjp(lambda x: getattr(module, name)(x, *WINDOWS[window]), x)
            dy = jnp.cos(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape)
            return y, *transpose(dy)

        results.append(jax.jit(both)(x))
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)


def test_second_derivatives_through_max_pooling() -> None:
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 4, 4, 1)), jnp.float32)

    def energy(x: jax.Array) -> jax.Array:
        return jnp.sum(ops.max_pool(x, (2, 2), (2, 2)) ** 3) / 6

    y = ops.max_pool(x, (2, 2), (2, 2))
    second = jax.jit(lambda x: jax.jvp(jax.grad(energy), (x,), (jnp.ones_like(x),))[1])(x)
    spread = jnp.repeat(jnp.repeat(y, 2, 1), 2, 2)
    np.testing.assert_allclose(second, jnp.where(x == spread, spread, 0), rtol=1e-6)
