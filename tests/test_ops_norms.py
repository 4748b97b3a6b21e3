"""Batch normalisation, with and without ReLU, against flax's."""

import itertools
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxcnn import ops
from jaxcnn.errors import UserError
from jaxcnn.models.layers import BatchNorm
from jaxcnn.runtime import launch

# Rows of 6 and 16 pixels are added up in parts, of 11 not; nor is what has no rows.
SHAPES = [(4, 5, 6, 3), (2, 16, 16, 32), (3, 5, 11, 2), (20, 3)]


def _variables(channels: int) -> dict[str, Any]:
    """Random scale, bias and running statistics, float64."""
    rng = np.random.default_rng(0)
    params = {name: jnp.asarray(rng.normal(size=channels)) for name in ("scale", "bias")}
    stats = {
        "mean": jnp.asarray(rng.normal(size=channels)),
        "var": jnp.asarray(1 + rng.random(channels)),
    }
    return {"params": params, "batch_stats": stats}


def _results(apply: Any, variables: dict[str, Any], x: jax.Array) -> Any:
    """The gradients of a function of the result, the result and the running statistics."""

    def loss(params: Any, x: jax.Array) -> Any:
        y, updated = apply({**variables, "params": params}, x)
        return jnp.sum(jnp.sin(y)), (y, updated)

    return jax.jit(jax.grad(loss, (0, 1), has_aux=True))(variables["params"], x)


def _cases() -> Iterator[Any]:
    """Yields (operations, train, with_relu, shape); those that are flax's own code are for CI."""
    for case in itertools.product(("fast", "stock"), (True, False), (False, True), SHAPES):
        is_ours = case[:2] == ("fast", True) or case[3] == SHAPES[0]
        yield case if is_ours else pytest.param(*case, marks=[pytest.mark.slow, pytest.mark.ci])


@pytest.mark.parametrize(("operations", "train", "with_relu", "shape"), list(_cases()))
def test_batch_norm_is_that_of_flax(
    operations: str, train: bool, with_relu: bool, shape: Any
) -> None:
    options: dict[str, Any] = {"momentum": 0.9, "epsilon": 1e-5}
    with jax.enable_x64(True):
        x = jnp.asarray(1 + 2 * np.random.default_rng(1).normal(size=shape))
        ours = BatchNorm(dtype=jnp.float64, ops=operations, **options)
        theirs = nn.BatchNorm(use_running_average=not train, **options)

        def apply_ours(variables: Any, x: jax.Array) -> Any:
            return ours.apply(
                variables, x, train=train, with_relu=with_relu, mutable=["batch_stats"]
            )

        def apply_theirs(variables: Any, x: jax.Array) -> Any:
            y, updated = theirs.apply(variables, x, mutable=["batch_stats"])
            return (nn.relu(y) if with_relu else y), updated

        variables = _variables(shape[-1])
        pair = [_results(apply, variables, x) for apply in (apply_ours, apply_theirs)]
        shapes = [
            jax.tree.map(jnp.shape, ours.init(jax.random.key(0), x, train=train)),
            jax.tree.map(jnp.shape, theirs.init(jax.random.key(0), x)),
        ]
    assert shapes[0] == shapes[1]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9), *pair)


@pytest.mark.parametrize("operations", ["fast", "stock"])
@pytest.mark.parametrize("with_relu", [False, True])
def test_each_group_is_normalized_alone_and_running_statistics_are_averaged(
    with_relu: bool, operations: str
) -> None:
    with jax.enable_x64(True):
        x = jnp.asarray(1 + 2 * np.random.default_rng(1).normal(size=(12, 5, 6, 3)))
        one, four = (BatchNorm(dtype=jnp.float64, ops=operations, groups=g) for g in (1, 4))

        def apply(layer: nn.Module, variables: Any, x: jax.Array) -> Any:
            options: dict[str, Any] = {"train": True, "with_relu": with_relu}
            return layer.apply(variables, x, mutable=["batch_stats"], **options)

        def definition(variables: Any, x: jax.Array) -> Any:
            parts, updates = zip(*(apply(one, variables, p) for p in jnp.split(x, 4)), strict=True)
            mean = jax.tree.map(lambda *each: jnp.mean(jnp.stack(each), 0), *updates)
            return jnp.concatenate(parts), mean

        variables = _variables(3)
        ours = _results(lambda v, x: apply(four, v, x), variables, x)
        expected = _results(definition, variables, x)
        whole = _results(lambda v, x: apply(one, v, x), variables, x)
        assert not np.allclose(ours[1][0], whole[1][0], rtol=1e-3)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12), ours, expected
        )
        # In evaluation groups make no difference.
        evaluated = [layer.apply(variables, x, train=False) for layer in (one, four)]
        np.testing.assert_array_equal(*evaluated)


def test_groups_that_do_not_divide_a_batch_are_refused_in_words() -> None:
    with pytest.raises(UserError, match="norm_groups=4 does not divide a batch of 6 images"):
        layer = BatchNorm(dtype=jnp.float32, groups=4)
        layer.init(jax.random.key(0), jnp.ones((6, 2, 2, 3)), train=True)


def _loss(x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
    return jnp.sum(jnp.sin(ops.normalize(x, scale, bias, *ops.moments(x), 1e-5, True)))


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
    expected = jax.jit(gradient)(x, scale, bias)
    recomputed = jax.jit(jax.grad(jax.checkpoint(_loss), (0, 1, 2)))(x, scale, bias)
    mapped = jax.jit(jax.vmap(gradient, (0, None, None)))(jnp.stack([x, x]), scale, bias)
    for a, b, c in zip(expected, recomputed, mapped, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(c, np.stack([a, a]), rtol=1e-5, atol=1e-5)


def test_bfloat16_is_computed_in_float32() -> None:
    x, scale, bias = _operands(jnp.bfloat16)
    mean, var = ops.moments(x)
    y = ops.normalize(x, scale, bias, mean, var, 1e-5, True)
    assert {a.dtype for a in (y, mean, var)} == {jnp.dtype(jnp.float32)}
    dx, *rest = jax.grad(_loss, (0, 1, 2))(x, scale, bias)
    wide, *expected = jax.grad(_loss, (0, 1, 2))(x.astype(jnp.float32), scale, bias)
    assert dx.dtype == jnp.bfloat16
    np.testing.assert_allclose(dx.astype(jnp.float32), wide, rtol=1e-2, atol=1e-3)
    for a, b in zip(rest, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.ci
def test_a_sharded_batch_is_not_gathered() -> None:
    program = """
    import jax, jax.numpy as jnp, numpy as np, re
    from jax.sharding import NamedSharding, PartitionSpec as P
    from jaxcnn import ops

    def loss(x, scale, bias):
        return jnp.sum(jnp.sin(ops.normalize(x, scale, bias, *ops.moments(x), 1e-5, True)))

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
        env=launch.environment(0, 8, False),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.stdout.strip() == "passed", result.stderr[-3000:]
