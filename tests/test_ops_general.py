"""Grouped, dilated, transposed, 1-D and 3-D convolutions against those of JAX."""

import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxcnn import ops
from jaxcnn.ops.conv import general
from jaxcnn.runtime import launch


def arguments(rank: int, groups: int = 1, pad: Any = "SAME", **numbers: Any) -> dict[str, Any]:
    """Keyword arguments of `lax.conv_general_dilated`, channels last."""
    spatial = "DHW"[-rank:]
    names = {
        "strides": "window_strides",
        "input_dilation": "lhs_dilation",
        "kernel_dilation": "rhs_dilation",
    }
    made = {
        names[name]: (number,) * rank if isinstance(number, int) else number
        for name, number in ({"strides": 1} | numbers).items()
    }
    layout = (f"N{spatial}C", f"{spatial}IO", f"N{spatial}C")
    return made | {
        "padding": pad,
        "dimension_numbers": layout,
        "feature_group_count": groups,
    }


# Name: (size of an image, side of the kernel, channels, features, arguments).
CASES: dict[str, tuple[int, int, int, int, dict[str, Any]]] = {
    "groups": (8, 3, 32, 32, arguments(2, 4)),
    "groups in several blocks": (6, 3, 96, 192, arguments(2, 12)),
    "groups, strided": (8, 3, 32, 64, arguments(2, 8, strides=2)),
    "wide groups": (6, 3, 160, 80, arguments(2, 2)),
    "groups without a common divisor of a block": (8, 5, 60, 6, arguments(2, 3)),
    "several filters for a channel": (8, 3, 6, 18, arguments(2, 6)),
    "dilated": (11, 3, 32, 40, arguments(2, kernel_dilation=2)),
    "dilated, no padding": (12, 3, 32, 32, arguments(2, pad="VALID", kernel_dilation=3)),
    "dilated, along one axis": (9, 3, 32, 32, arguments(2, kernel_dilation=(1, 2))),
    "dilated, cropped": (13, 2, 32, 32, arguments(2, pad=((5, 3), (-1, 2)), kernel_dilation=3)),
    "dilated, depthwise": (11, 3, 8, 8, arguments(2, 8, kernel_dilation=2)),
    "dilated, groups": (11, 3, 8, 16, arguments(2, 4, kernel_dilation=2)),
    "transposed": (5, 3, 4, 6, arguments(2, pad=((2, 3), (1, 2)), input_dilation=2)),
    "transposed, by 4x4": (5, 4, 4, 6, arguments(2, pad=((2, 2), (2, 2)), input_dilation=2)),
    "transposed, one window for all": (
        5,
        2,
        4,
        6,
        arguments(2, pad=((1, 1), (1, 1)), input_dilation=2),
    ),
    "transposed, kernel smaller than stride": (
        5,
        1,
        4,
        6,
        arguments(2, pad=((0, 2), (0, 1)), input_dilation=3),
    ),
    "transposed, cropped": (6, 3, 4, 6, arguments(2, pad=((-1, 2), (1, -2)), input_dilation=2)),
    "transposed, along one axis": (
        5,
        3,
        4,
        6,
        arguments(2, pad=((2, 2), (1, 1)), input_dilation=(2, 1)),
    ),
    "transposed, groups": (5, 3, 8, 12, arguments(2, 4, pad=((2, 2), (1, 3)), input_dilation=2)),
    "transposed, groups, one window for all": (
        5,
        2,
        8,
        12,
        arguments(2, 4, pad=((1, 1), (1, 1)), input_dilation=2),
    ),
    "1-D, depthwise": (9, 5, 8, 8, arguments(1, 8)),
    "1-D, depthwise, dilated": (19, 5, 8, 8, arguments(1, 8, kernel_dilation=2)),
    "1-D, groups, strided": (9, 3, 8, 12, arguments(1, 2, strides=2)),
    "1-D, transposed": (9, 4, 8, 6, arguments(1, pad=((2, 3),), input_dilation=3)),
    "3-D": (6, 3, 4, 6, arguments(3)),
    "3-D, strided": (6, 3, 4, 6, arguments(3, strides=2)),
    "3-D, strides of its own": (6, 2, 4, 6, arguments(3, pad="VALID", strides=(2, 1, 2))),
}

# These are passed on: nothing faster is known, or nothing is faster.
STOCK = {
    "1-D": (9, 3, 4, 6, arguments(1)),
    "dilated, few channels": (16, 3, 16, 16, arguments(2, kernel_dilation=2)),
    "dilated, hardly more than padding": (9, 3, 32, 32, arguments(2, kernel_dilation=3)),
    "dilated and strided": (9, 3, 32, 32, arguments(2, strides=2, kernel_dilation=2)),
    "3-D, groups": (5, 3, 4, 4, arguments(3, 2)),
    "3-D, dilated": (9, 3, 4, 4, arguments(3, kernel_dilation=2)),
}


def operands(
    case: Any, dtype: Any = np.float32, batch: int = 2
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images, kernel and gradient of the result; height and width of the images differ."""
    size, side, channels, features, others = case
    rank, rng = len(others["window_strides"]), np.random.default_rng(0)
    x = rng.normal(size=(batch, *(size + axis for axis in range(rank)), channels))
    shape = (*[side] * rank, channels // others["feature_group_count"], features)
    kernel = rng.normal(size=shape)
    y = jax.eval_shape(lambda x, k: lax.conv_general_dilated(x, k, **others), x, kernel)
    return x.astype(dtype), kernel.astype(dtype), rng.normal(size=y.shape).astype(dtype)


def all_three(convolve: Any, others: dict[str, Any]) -> Any:
    def computed(x: Any, kernel: Any, dy: Any) -> Any:
        y, transpose = jax.vjp(lambda x, kernel: convolve(x, kernel, **others), x, kernel)
        return y, *transpose(dy)

    return computed


def uses(primitive: Any, function: Any, *args: Any) -> bool:
    return f" {primitive.name}[" in str(jax.make_jaxpr(function)(*args))


@pytest.mark.parametrize("name", CASES)
def test_equals_jax(name: str) -> None:
    case = CASES[name]
    arrays, others = operands(case), case[-1]
    ours = all_three(ops.conv_general_dilated, others)
    assert uses(general.convolution, ours, *arrays) and uses(general.conv_vjp, ours, *arrays)
    actual = jax.jit(ours)(*arrays)
    with jax.enable_x64(True):
        wide = [array.astype(np.float64) for array in arrays]
        expected = jax.jit(all_three(lax.conv_general_dilated, others))(*wide)
    for what, a, b in zip(
        ("y", "dx", "dk"), map(np.asarray, actual), map(np.asarray, expected), strict=True
    ):
        assert a.dtype == np.float32 and a.shape == b.shape, what
        assert np.linalg.norm(a - b) <= 2e-6 * np.linalg.norm(b), what


@pytest.mark.parametrize("name", STOCK)
def test_others_are_passed_on(name: str) -> None:
    case = STOCK[name]
    x, kernel, _ = operands(case)
    assert not uses(
        general.convolution, lambda x, k: ops.conv_general_dilated(x, k, **case[-1]), x, kernel
    )


@pytest.mark.parametrize("name", ["groups", "dilated, groups", "transposed", "3-D"])
def test_derivatives_of_second_order_and_forward(name: str) -> None:
    case = CASES[name]
    x, kernel, dy = operands(case)

    def curved(convolve: Any) -> Any:
        def loss(x: Any, kernel: Any) -> Any:
            return jnp.sum(jnp.sin(convolve(x, kernel, **case[-1])) * dy)

        def slope(x: Any, kernel: Any) -> Any:
            return jax.jvp(loss, (x, kernel), (kernel.sum() * x, kernel))[1]

        return jax.jit(jax.grad(slope, (0, 1)))(x, kernel)

    for a, b in zip(
        curved(ops.conv_general_dilated), curved(lax.conv_general_dilated), strict=True
    ):
        assert np.linalg.norm(a - b) <= 2e-5 * np.linalg.norm(b)


@pytest.mark.parametrize("axes", [(0, None), (None, 0), (0, 0)])
def test_vmap(axes: tuple[int | None, int | None]) -> None:
    case = CASES["groups"]
    x, kernel, _ = operands(case)
    x = np.stack([x, 2 * x]) if axes[0] == 0 else x
    kernel = np.stack([kernel, kernel[::-1]]) if axes[1] == 0 else kernel
    ours, stock = (
        jax.vmap(lambda x, k, f=f: f(x, k, **case[-1]), axes)(x, kernel)
        for f in (ops.conv_general_dilated, lax.conv_general_dilated)
    )
    assert np.linalg.norm(ours - stock) <= 2e-6 * np.linalg.norm(stock)


def test_bfloat16_keeps_its_dtype() -> None:
    case = CASES["groups"]
    x, kernel, _ = operands(case, jnp.bfloat16)
    y = ops.conv_general_dilated(x, kernel, **case[-1])
    assert y.dtype == jnp.bfloat16


@pytest.mark.parametrize("name", ["groups", "dilated", "transposed", "3-D"])
def test_elsewhere_it_is_the_stock_operation(name: str) -> None:
    case = CASES[name]
    ours, stock = (
        jax.export.export(jax.jit(all_three(f, case[-1])), platforms=["cuda"])(*operands(case))
        for f in (ops.conv_general_dilated, lax.conv_general_dilated)
    )

    def convolutions(exported: Any) -> list[str]:
        # Without the names of values and the places in the source.
        found = re.findall(r"stablehlo\.convolution\(.*?\)(.*?)(?: loc|\n)", exported.mlir_module())
        return sorted(found)

    assert len(convolutions(stock)) == 3 and convolutions(ours) == convolutions(stock)


@pytest.mark.slow
@pytest.mark.ci
def test_a_sharded_batch_is_not_gathered() -> None:
    """In a child process, which alone can have several devices."""
    program = """
    import jax, numpy as np, re, sys
    from jax.sharding import NamedSharding, PartitionSpec as P
    sys.path.insert(0, sys.argv[1])
    from test_ops_general import CASES, all_three, operands
    from jaxcnn import ops
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    whole, split = NamedSharding(mesh, P()), NamedSharding(mesh, P("data"))
    for name, case in CASES.items():
        x, kernel, dy = operands(case, batch=8)
        step = all_three(ops.conv_general_dilated, case[-1])
        ways = dict(in_shardings=(split, whole, split), out_shardings=(split, split, whole))
        divided = jax.jit(step, **ways)
        text = divided.lower(x, kernel, dy).compile().as_text()
        for collective in ("all-gather", "all-to-all", "collective-permute"):
            assert not re.search(rf"{collective}(-start)?[(]", text), (name, collective)
        batch = P("data")
        mapped = jax.shard_map(
            step, mesh=mesh, in_specs=(batch, P(), batch), out_specs=(batch, batch, P())
        )
        alone = jax.jit(step)(x, kernel, dy)
        for way in (divided, jax.jit(mapped)):
            for a, b in zip(way(x, kernel, dy), alone, strict=True):
                assert np.linalg.norm(a - b) <= 1e-5 * np.linalg.norm(b), name
    print("passed")
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), str(Path(__file__).parent)],
        env=launch.environment(0, 4, False),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.stdout.strip() == "passed", result.stderr[-3000:]


class Hourglass(nn.Module):
    """Down by a strided convolution, up by a transposed one; parts are rematerialized."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = nn.relu(nn.remat(nn.Conv)(8, (3, 3), 2)(x))
        x = nn.ConvTranspose(8, (3, 3), (2, 2))(x)
        x = nn.BatchNorm(use_running_average=not train)(x)
        return nn.Dropout(0.5, deterministic=not train)(x)


def test_accelerate_a_model_whose_convolutions_cannot_be_chosen() -> None:
    model = Hourglass()
    x = np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype(np.float32)
    variables = model.init(jax.random.key(0), x, train=False)

    def training(apply: Any) -> Any:
        def loss(params: Any) -> Any:
            y, changed = apply(
                variables | {"params": params},
                x,
                True,
                rngs={"dropout": jax.random.key(1)},
                mutable=["batch_stats"],
            )
            return jnp.mean(jnp.square(y)), changed

        return jax.jit(jax.value_and_grad(loss, has_aux=True))

    fast, stock = training(ops.accelerate(model.apply)), training(model.apply)
    params = variables["params"]
    assert uses(general.convolution, fast, params) and "remat" in str(jax.make_jaxpr(fast)(params))
    assert "conv_general_dilated[" not in str(jax.make_jaxpr(fast)(params))
    for a, b in zip(*(jax.tree.leaves(f(params)) for f in (fast, stock)), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-6)
    np.testing.assert_allclose(
        ops.accelerate(model.apply)(variables, x, train=False),
        model.apply(variables, x, train=False),
        rtol=2e-5,
        atol=2e-6,
    )


def test_accelerate_goes_into_jit_and_keeps_the_settings_of_what_is_inside() -> None:
    x, kernel, _ = operands(CASES["groups"])

    @jax.jit
    def function(x: jax.Array) -> jax.Array:
        y = lax.conv_general_dilated(x, kernel, **CASES["groups"][-1])
        with jax.default_matmul_precision("highest"):
            return y @ jnp.ones((32, 2))

    fast = ops.accelerate(function)
    text = str(jax.make_jaxpr(fast)(x))
    assert uses(general.convolution, fast, x) and "conv_general_dilated[" not in text
    assert "HIGHEST" in text
    np.testing.assert_allclose(fast(x), function(x), rtol=2e-5, atol=2e-5)
