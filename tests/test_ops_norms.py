"""Batch normalisation, with and without ReLU, against flax's."""

import os
import re
import subprocess
import sys
import textwrap
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxcnn import ops
from jaxcnn.models.batch_norm import BatchNorm

# Rows of 6 and 16 pixels are added up in parts, of 11 not; nor is what has no rows.
SHAPES = [(4, 5, 6, 3), (2, 16, 16, 32), (3, 5, 11, 2), (20, 3)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("is_rectified", [False, True])
@pytest.mark.parametrize("train", [True, False])
def test_batch_norm_is_that_of_flax(train: bool, is_rectified: bool, shape: Any) -> None:
    rng = np.random.default_rng(0)
    fields: dict[str, Any] = {"use_running_average": not train, "momentum": 0.9, "epsilon": 1e-5}
    results = []
    c = shape[-1]
    with jax.enable_x64(True):
        x = jnp.asarray(1 + 2 * rng.normal(size=shape))
        params = {"scale": jnp.asarray(rng.normal(size=c)), "bias": jnp.asarray(rng.normal(size=c))}
        stats = {"mean": jnp.asarray(rng.normal(size=c)), "var": jnp.asarray(1 + rng.random(c))}
        ours = BatchNorm(dtype=jnp.float64, is_rectified=is_rectified, **fields)
        for layer in (ours, nn.BatchNorm(**fields)):

            def loss(params: Any, x: jax.Array, layer: nn.Module = layer) -> Any:
                variables = {"params": params, "batch_stats": stats}
                y, updated = layer.apply(variables, x, mutable=["batch_stats"])
                y = nn.relu(y) if is_rectified and layer is not ours else y
                return jnp.sum(jnp.sin(y)), (y, updated)

            results.append(jax.grad(loss, (0, 1), has_aux=True)(params, x))
        shapes = [
            jax.tree.map(jnp.shape, layer.init(jax.random.key(0), x))
            for layer in (BatchNorm(dtype=jnp.float32, **fields), nn.BatchNorm(**fields))
        ]
    assert shapes[0] == shapes[1]
    # flax reduces in float32 at least, ours in float64: float32's rounding is what may differ.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), *results)


def _loss(x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
    return jnp.sum(jnp.sin(ops.normalized(x, scale, bias, *ops.moments(x), 1e-5, True)))


def _operands(dtype: Any = jnp.float32) -> tuple[jax.Array, ...]:
    rng = np.random.default_rng(1)
    x = jnp.asarray(1 + rng.normal(size=(8, 8, 8, 16)), dtype)
    return x, jnp.asarray(rng.normal(size=16), jnp.float32), jnp.asarray(rng.normal(size=16))


def test_both_gradients_are_added_up_by_one_loop_on_the_cpu() -> None:
    text = jax.jit(jax.grad(_loss, (0, 1, 2))).lower(*_operands()).compile().as_text()
    assert re.search(r"f32\[8,8,1,2,16\]", text)


def test_vmap_and_remat_change_nothing() -> None:
    x, scale, bias = _operands()
    gradient = jax.grad(_loss, (0, 1, 2))
    expected = gradient(x, scale, bias)
    recomputed = jax.grad(jax.checkpoint(_loss), (0, 1, 2))(x, scale, bias)
    mapped = jax.vmap(gradient, (0, None, None))(jnp.stack([x, x]), scale, bias)
    for a, b, c in zip(expected, recomputed, mapped, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(c, np.stack([a, a]), rtol=1e-5, atol=1e-5)


def test_bfloat16_is_computed_in_float32() -> None:
    x, scale, bias = _operands(jnp.bfloat16)
    mean, var = ops.moments(x)
    y = ops.normalized(x, scale, bias, mean, var, 1e-5, True)
    assert {a.dtype for a in (y, mean, var)} == {jnp.dtype(jnp.float32)}
    dx, *rest = jax.grad(_loss, (0, 1, 2))(x, scale, bias)
    wide, *expected = jax.grad(_loss, (0, 1, 2))(x.astype(jnp.float32), scale, bias)
    assert dx.dtype == jnp.bfloat16
    np.testing.assert_allclose(dx.astype(jnp.float32), wide, rtol=1e-2, atol=1e-3)
    for a, b in zip(rest, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_a_sharded_batch_is_not_gathered() -> None:
    program = """
    import jax, jax.numpy as jnp, numpy as np, re
    from jax.sharding import NamedSharding, PartitionSpec as P
    from jaxcnn import ops

    def loss(x, scale, bias):
        return jnp.sum(jnp.sin(ops.normalized(x, scale, bias, *ops.moments(x), 1e-5, True)))

    def local(x, scale, bias):
        return jax.lax.pmean(loss(x, scale, bias), "data")

    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(16, 8, 8, 3)), jnp.float32)
    scale, bias = jnp.asarray(rng.normal(size=(2, 3)), jnp.float32)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    whole, split = NamedSharding(mesh, P()), NamedSharding(mesh, P("data"))
    gradient = jax.grad(loss, (0, 1, 2))
    step = jax.jit(gradient, in_shardings=(split, whole, whole))
    text = step.lower(x, scale, bias).compile().as_text()
    for collective in ("all-gather", "all-to-all", "collective-permute"):
        assert not re.search(rf"{collective}(-start)?[(]", text), collective
    assert "f32[2,8,1,2,3]" in text
    for a, b in zip(step(x, scale, bias), gradient(x, scale, bias), strict=True):
        assert np.linalg.norm(a - b) < 1e-5 * np.linalg.norm(b)
    specs = (P("data"), P(), P())
    mapped = jax.shard_map(jax.grad(local, (0, 1, 2)), mesh=mesh, in_specs=specs, out_specs=specs)
    own = [gradient(part, scale, bias) for part in np.split(x, 8)]
    expected = [np.concatenate([g[0] for g in own]), *(sum(g[i] for g in own) for i in (1, 2))]
    for a, b in zip(jax.jit(mapped)(x, scale, bias), expected, strict=True):
        assert np.linalg.norm(8 * a - b) < 1e-5 * np.linalg.norm(b)
    print("passed")
    """
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(program)],
        env={**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=8"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.stdout.strip() == "passed", result.stderr[-3000:]
