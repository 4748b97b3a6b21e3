"""The order of gradients, and what is recomputed for them: the same numbers in less memory."""

import functools
import re
from types import SimpleNamespace
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import init
from jax.interpreters import ad

from jaxcnn import models, ops
from jaxcnn.models import layers
from jaxcnn.ops.conv import derivatives, primitives


def _sum_of_squares(x: jax.Array, kernel: jax.Array) -> jax.Array:
    dimensions = ("NHWC", "HWIO", "NHWC")
    y = ops.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=dimensions)
    return jnp.sum(y**2)


X, KERNEL = jnp.ones((2, 6, 6, 4)), jnp.ones((3, 3, 4, 8))


def _barriers(function: Any, platform: str = "cpu") -> int:
    lowered = jax.jit(function).trace(X, KERNEL).lower(lowering_platforms=(platform,))
    return len(re.findall("optimization_barrier", lowered.as_text()))


def test_two_gradients_wait_for_each_other_on_the_cpu_alone() -> None:
    both, one = jax.grad(_sum_of_squares, (0, 1)), jax.grad(_sum_of_squares, 1)
    assert _barriers(both) == _barriers(one) + 1
    assert _barriers(both, platform="tpu") == 0
    assert _barriers(_sum_of_squares) == 0
    # Nothing waits for a gradient that nobody asked for, nor is one computed.
    assert "cnn_gradients" in str(jax.make_jaxpr(both)(X, KERNEL))
    assert "cnn_input_gradient" not in str(jax.make_jaxpr(one)(X, KERNEL))


def _loss(model: Any, dtype: Any = jnp.float32, batch: int = 32) -> tuple[Any, Any]:
    """The loss of a training step as a function of the parameters, and these."""
    images = jax.random.normal(jax.random.key(1), (batch, 32, 32, 3), dtype)
    model = model.clone(dtype=dtype)
    variables = jax.tree.map(lambda x: x.astype(dtype), init(model, images))

    def loss(params: Any) -> jax.Array:
        variables_ = {**variables, "params": params}
        logits, _ = model.apply(variables_, images, train=True, mutable=["batch_stats"])
        return jnp.mean(jnp.sin(logits))

    return loss, variables["params"]


def _network(name: str) -> Any:
    """A network by its name; "short": its first blocks, of both strides."""
    model = models.create(name.removeprefix("short "))
    return model.clone(blocks=model.blocks[:3]) if name.startswith("short ") else model


@functools.cache
def _case(name: str) -> tuple[Any, Any, Any]:
    """The loss of a network, its parameters and the program of the gradient, as it is."""
    loss, params = _loss(_network(name))
    return loss, params, _program(loss, params)


def _program(loss: Any, params: Any) -> Any:
    return jax.jit(jax.grad(loss)).lower(params).compile(ops.CPU_COMPILER_OPTIONS)


def _intermediates(program: Any) -> int:
    """Bytes of intermediate arrays."""
    size: int = program.memory_analysis().temp_size_in_bytes
    return size


@pytest.mark.slow
@pytest.mark.ci
def test_gradients_in_turn_need_less_memory() -> None:
    loss, params, in_turn = _case("short mobilenet")

    def separately(x: Any, kernel: Any, dy: Any, *, spec: Any) -> list[Any]:
        d_kernel = primitives.conv_kernel_grad.bind(x, dy, spec=spec)
        return [primitives.conv_input_grad.bind(dy, kernel, spec=spec), d_kernel]

    with (
        mock.patch.object(primitives, "conv_vjp", SimpleNamespace(bind=separately)),
        mock.patch.dict(ad.primitive_jvps),
    ):
        # The rules that the three have without their joint gradients.
        derivatives.declare_bilinear(
            primitives.convolution, primitives.conv_input_grad, primitives.conv_kernel_grad
        )
        assert _intermediates(in_turn) < 0.75 * _intermediates(_program(loss, params))


def _layer_by_layer(x: jax.Array, norm: Any, conv: Any, *, train: bool) -> jax.Array:
    """`layers.norm_relu_conv` that keeps what is between."""
    y: jax.Array = conv(norm(x, train=train, with_relu=True))
    return y


@pytest.mark.parametrize(
    ("name", "limit"),
    [
        ("short mobilenet", 0.75),
        pytest.param("mobilenet", 0.75, marks=pytest.mark.slow),
        pytest.param("resnet20", 0.9, marks=pytest.mark.slow),
    ],
)
def test_norms_before_convolutions_are_not_kept(name: str, limit: float) -> None:
    loss, params, ours = _case(name)
    with mock.patch.object(layers, "norm_relu_conv", _layer_by_layer):
        keeping = _program(loss, params)
    assert _intermediates(ours) < limit * _intermediates(keeping)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [pytest.param("short mobilenet", marks=pytest.mark.ci), "mobilenet"]
)
def test_norms_before_convolutions_change_no_gradient(name: str) -> None:
    """In float64: through many norms, rounding reaches the gradients that nearly cancel."""
    with jax.enable_x64(True):
        loss, params = _loss(_network(name), jnp.float64, batch=4)
        ours = _program(loss, params)(params)
        with mock.patch.object(layers, "norm_relu_conv", _layer_by_layer):
            keeping = _program(loss, params)(params)
    for a, b in zip(*map(jax.tree.leaves, (ours, keeping)), strict=True):
        assert np.linalg.norm(a - b) <= 1e-9 * np.linalg.norm(b) + 1e-14


def test_accelerators_keep_what_they_like() -> None:
    """No barrier there tells the forward pass's arrays from those that the gradients need."""
    loss, params, _ = _case("short mobilenet")
    traced = jax.jit(jax.grad(loss)).trace(params)
    for platform, expected in (("cpu", True), ("tpu", False), ("cuda", False)):
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        assert ("optimization_barrier" in text) == expected
