"""Pooling and batch norm against flax's."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxcnn import ops
from jaxcnn.models.batch_norm import BatchNorm

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
        y, transpose = jax.vjp(lambda x: getattr(module, name)(x, *WINDOWS[window]), x)  # noqa: B023
        dy = jnp.cos(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape)
        results.append((y, *transpose(dy)))
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)


def test_second_derivatives_through_max_pooling() -> None:
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 4, 4, 1)), jnp.float32)

    def energy(x: jax.Array) -> jax.Array:
        return jnp.sum(ops.max_pool(x, (2, 2), (2, 2)) ** 3) / 6

    y = ops.max_pool(x, (2, 2), (2, 2))
    second = jax.jvp(jax.grad(energy), (x,), (jnp.ones_like(x),))[1]
    spread = jnp.repeat(jnp.repeat(y, 2, 1), 2, 2)
    np.testing.assert_allclose(second, jnp.where(x == spread, spread, 0), rtol=1e-6)


@pytest.mark.parametrize("train", [True, False])
def test_batch_norm_is_that_of_flax(train: bool) -> None:
    rng = np.random.default_rng(0)
    fields: dict[str, Any] = {"use_running_average": not train, "momentum": 0.9, "epsilon": 1e-5}
    results = []
    with jax.enable_x64(True):
        x = jnp.asarray(1 + 2 * rng.normal(size=(4, 5, 6, 3)))
        params = {"scale": jnp.asarray(rng.normal(size=3)), "bias": jnp.asarray(rng.normal(size=3))}
        stats = {"mean": jnp.asarray(rng.normal(size=3)), "var": jnp.asarray(1 + rng.random(3))}
        for layer in (BatchNorm(dtype=jnp.float64, **fields), nn.BatchNorm(**fields)):

            def loss(params: Any, x: jax.Array, layer: nn.Module = layer) -> Any:
                variables = {"params": params, "batch_stats": stats}
                y, updated = layer.apply(variables, x, mutable=["batch_stats"])
                return jnp.sum(jnp.sin(y)), (y, updated)

            results.append(jax.grad(loss, (0, 1), has_aux=True)(params, x))
        shapes = [
            jax.tree.map(jnp.shape, layer.init(jax.random.key(0), x))
            for layer in (BatchNorm(dtype=jnp.float32, **fields), nn.BatchNorm(**fields))
        ]
    assert shapes[0] == shapes[1]
    # flax reduces in float32 at least, ours in float64: float32's rounding is what may differ.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), *results)
