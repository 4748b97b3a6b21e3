"""Norm, ReLU and convolution as one operation: its numbers, and that nothing between is made."""

import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcnn import ops
from jaxcnn.ops import onednn_calls
from jaxcnn.ops.winograd import stride1

pytestmark = pytest.mark.usefixtures("winograd_for_few_images")

LAYOUT = ("NHWC", "HWIO", "NHWC")
CI = [pytest.mark.slow, pytest.mark.ci]
Pads = tuple[tuple[int, int], ...]


def operands(shape: tuple[int, ...], features: int = 64) -> tuple[np.ndarray, ...]:
    """x, scale, bias and kernel."""
    rng, channels = np.random.default_rng(0), shape[-1]
    x = 1 + 2 * rng.normal(size=shape)
    scale, bias = rng.normal(size=(2, channels))
    kernel = rng.normal(size=(3, 3, channels, features)) / np.sqrt(9 * channels)
    return x, scale, bias, kernel


def step_by_step(x: Any, scale: Any, bias: Any, kernel: Any, pads: Pads) -> jax.Array:
    """The same in the words of its definition, differentiated by JAX."""
    mean, var = jnp.mean(x, (0, 1, 2)), jnp.var(x, (0, 1, 2))
    mean, factor, bias = (
        v.reshape(1, 1, 1, -1) for v in (mean, scale / jnp.sqrt(var + 1e-5), bias)
    )
    images = jax.nn.relu((x - mean) * factor + bias)
    return jax.lax.conv_general_dilated(images, kernel, (1, 1), pads, dimension_numbers=LAYOUT)


def at_once(x: Any, scale: Any, bias: Any, kernel: Any, pads: Pads) -> jax.Array:
    """As one operation, if it can be."""
    moments = ops.moments(x)
    return ops.norm_relu_conv(x, scale, bias, *moments, kernel, (1, 1), pads, epsilon=1e-5)


def value_and_gradients(function: Any, arrays: Any, pads: Pads = ((1, 1), (1, 1))) -> list[Any]:
    """The result, and the gradients of a function of it."""

    def loss(*arrays: Any) -> Any:
        y = function(*arrays, pads)
        return jnp.sum(jnp.sin(ops.at_least_float32(y))), y

    gradients, y = jax.jit(jax.grad(loss, (0, 1, 2, 3), has_aux=True))(*arrays)
    return [y, *gradients]


def exact(arrays: Any, pads: Pads = ((1, 1), (1, 1))) -> list[Any]:
    """In float64, as defined."""
    with jax.enable_x64(True):
        return value_and_gradients(step_by_step, tuple(map(jnp.float64, arrays)), pads)


@functools.cache
def exact_of(shape: tuple[int, ...], features: int) -> list[Any]:
    """`exact` of `operands`, computed once for all tests that need it."""
    return exact(operands(shape, features))


def in_float32(arrays: Any) -> tuple[jax.Array, ...]:
    """The arrays in float32."""
    return tuple(jnp.float32(array) for array in arrays)


def assert_near(actual: Any, expected: Any, limit: float) -> None:
    """Compares by the norm of the difference."""
    for a, b in zip(actual, expected, strict=True):
        a, b = (np.asarray(array, np.float64) for array in (a, b))
        assert np.linalg.norm(a - b) <= limit * np.linalg.norm(b)


def is_one_operation(arrays: Any, pads: Pads = ((1, 1), (1, 1))) -> bool:
    """Whether the convolution takes the norm's input."""
    return "cnn_norm_relu_conv" in str(
        jax.make_jaxpr(lambda *arrays: at_once(*arrays, pads))(*arrays)
    )


@pytest.fixture(params=["onednn", "jax"])
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """With and without oneDNN's products."""
    jax.clear_caches()
    if request.param == "jax":
        monkeypatch.setattr(onednn_calls, "is_usable", lambda: False)
    elif not onednn_calls.is_present():
        pytest.skip("this jaxlib has no oneDNN that was tested")
    with ops.uncached():
        yield request.param
    jax.clear_caches()


@pytest.mark.parametrize(
    ("shape", "pads"), [((3, 9, 14, 80), ((1, 2), (0, 3))), ((1, 3, 4, 64), ((1, 1), (1, 1)))]
)
def test_a_few_shapes_agree_with_the_definition(shape: tuple[int, ...], pads: Pads) -> None:
    arrays = operands(shape, 72)
    assert_near(value_and_gradients(at_once, in_float32(arrays), pads), exact(arrays, pads), 2e-5)


@pytest.mark.slow
@pytest.mark.ci
@settings(max_examples=8, deadline=None, derandomize=True)
@given(data=st.data())
def test_any_shape_agrees_with_the_definition(data: st.DataObject) -> None:
    pad = st.integers(0, 3)
    pads = tuple((data.draw(pad), data.draw(pad)) for _ in range(2))
    size = [data.draw(st.integers(3, 13)) for _ in range(2)]
    shape = (data.draw(st.integers(1, 5)), *size, data.draw(st.sampled_from([64, 80])))
    arrays = operands(shape, data.draw(st.sampled_from([64, 72])))
    result = value_and_gradients(at_once, in_float32(arrays), pads)
    assert_near(result, exact(arrays, pads), 2e-5)


@pytest.mark.parametrize(
    ("library", "shape"),
    [
        ("onednn", (7, 7, 12, 64)),
        *(
            pytest.param(*case, marks=CI)
            for case in (
                *(("onednn", (7, 8, 8, 64)), ("jax", (7, 8, 8, 64))),
                ("jax", (7, 7, 12, 64)),
            )
        ),
    ],
    indirect=["library"],
)
def test_a_batch_that_chunks_do_not_divide(
    library: str, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    arrays = operands(shape, 80)
    whole = value_and_gradients(at_once, in_float32(arrays))
    monkeypatch.setattr(stride1, "chunk_size", lambda *_: 3)
    jax.clear_caches()
    in_parts = value_and_gradients(at_once, in_float32(arrays))
    for results in (whole, in_parts):
        assert_near(results, exact_of(shape, 80), 2e-5)
    assert is_one_operation(in_float32(arrays))


@pytest.mark.parametrize("library", [pytest.param("onednn", marks=CI), "jax"], indirect=True)
def test_bfloat16_is_computed_in_float32(library: str) -> None:
    arrays = operands((4, 8, 8, 64))
    small = [jnp.asarray(arrays[i], jnp.bfloat16) for i in (0, 3)]
    x, kernel, scale, bias = *small, *in_float32(arrays[1:3])
    assert is_one_operation((x, scale, bias, kernel))
    result = value_and_gradients(at_once, (x, scale, bias, kernel))
    assert [a.dtype for a in result] == [jnp.bfloat16] * 2 + [jnp.float32] * 2 + [jnp.bfloat16]
    widened = [np.asarray(a, np.float64) for a in (x, scale, bias, kernel)]
    assert_near(result, exact(widened), 2**-6)


def test_float64_is_computed_in_float64() -> None:
    arrays = operands((3, 8, 8, 64))
    with jax.enable_x64(True):
        wide = tuple(map(jnp.float64, arrays))
        assert is_one_operation(wide)
        assert_near(value_and_gradients(at_once, wide), exact(arrays), 1e-12)


def test_what_is_not_winograd_s_is_computed_from_the_array() -> None:
    few = operands((2, 8, 8, 24))
    assert not is_one_operation(in_float32(few))
    assert_near(value_and_gradients(at_once, in_float32(few)), exact(few), 2e-5)
    # Cropping would cut what the norm has made zeros of, not the zeros around it.
    many, cropped = operands((2, 8, 8, 64)), ((-1, 1), (1, 1))
    assert not is_one_operation(in_float32(many), cropped)
    result = value_and_gradients(at_once, in_float32(many), cropped)
    assert_near(result, exact(many, cropped), 2e-5)


@pytest.mark.parametrize("library", ["onednn", pytest.param("jax", marks=CI)], indirect=True)
def test_several_at_a_time(library: str) -> None:
    x, scale, bias, kernel = in_float32(operands((2, 8, 8, 64)))
    pads = ((1, 1), (1, 1))

    def gradient(scale: jax.Array, kernel: jax.Array) -> Any:
        return jax.grad(lambda *a: jnp.sum(at_once(x, a[0], bias, a[1], pads) ** 2), (0, 1))(
            scale, kernel
        )

    scales, kernels = jnp.stack([scale, 2 * scale]), jnp.stack([kernel, 3 * kernel])
    mapped = jax.jit(jax.vmap(gradient))(scales, kernels)
    alone = [jax.jit(gradient)(*pair) for pair in zip(scales, kernels, strict=True)]
    for i in range(2):
        assert_near([a[i] for a in mapped], alone[i], 1e-5)


def test_the_array_between_is_not_made(library: str) -> None:
    """Neither forward nor for the gradients, on the CPU; elsewhere it is."""
    arrays = in_float32(operands((32, 8, 8, 64)))

    def gradients(function: Any, platform: str) -> str:
        loss = jax.grad(lambda *a: jnp.sum(function(*a, ((1, 1), (1, 1))) ** 2), (0, 1, 2, 3))
        lowered = jax.jit(loss).trace(*arrays).lower(lowering_platforms=(platform,))
        return lowered.as_text()

    whole = r"stablehlo.maximum .*tensor<32x8x8x64xf32>"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stride1, "chunk_size", lambda *_: 4)
        assert not re.search(whole, gradients(at_once, "cpu"))
        assert re.search(whole, gradients(step_by_step, "cpu"))
        assert len(re.findall("stablehlo.convolution", gradients(at_once, "tpu"))) == 3


def test_relu_is_relu() -> None:
    x = jnp.array([-1.0, -0.0, 0.0, 2.0, jnp.inf, jnp.nan])
    np.testing.assert_array_equal(ops.relu(x), jax.nn.relu(x))
    ours, theirs = (
        jax.grad(lambda x, f=f: jnp.sum(f(x) * x))(x[:4]) for f in (ops.relu, jax.nn.relu)
    )
    np.testing.assert_array_equal(ours, theirs)
    twice = jax.jvp(jax.grad(lambda x: jnp.sum(ops.relu(x) ** 3)), (x[:4],), (jnp.ones(4),))[1]
    np.testing.assert_array_equal(twice, [0, 0, 0, 12])


def test_gelu_is_gelu() -> None:
    """Value, gradient and second derivative, in float64; float32 within rounding of that."""

    def first_three(function: Any, x: jax.Array) -> list[jax.Array]:
        slope = jax.grad(lambda x: jnp.sum(function(x)))
        return [function(x), slope(x), jax.grad(lambda x: jnp.sum(slope(x)))(x)]

    with jax.enable_x64(True):
        x = jnp.linspace(-9, 9, 1001, dtype=jnp.float64)
        expected = first_three(lambda x: jax.nn.gelu(x, approximate=False), x)
        for a, b in zip(jax.jit(first_three, static_argnums=0)(ops.gelu, x), expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-14)
    found = first_three(ops.gelu, x.astype(jnp.float32))
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == jnp.float32
        np.testing.assert_allclose(a, b, rtol=0, atol=2e-6)
    half = ops.gelu(x.astype(jnp.bfloat16))
    assert half.dtype == jnp.bfloat16
    np.testing.assert_allclose(half.astype(jnp.float32), expected[0], rtol=2e-2, atol=1e-2)
