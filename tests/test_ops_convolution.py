"""The convolution against its definition in float64, and under JAX's transformations."""

import functools
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from jaxcnn import ops
from jaxcnn.ops.conv import conditions, xla
from jaxcnn.ops.winograd import stride1, stride2

pytestmark = pytest.mark.usefixtures("winograd_for_few_images")
LAYOUT = ("NHWC", "HWIO", "NHWC")
Arrays = tuple[np.ndarray, ...]


def definition(x: np.ndarray, kernel: np.ndarray, dy: np.ndarray, stride: int, pads: Any) -> Arrays:
    """Value and both gradients in float64, one kernel position after the other.

    Depthwise if the kernel has one input channel and the images have more.
    """
    x, kernel, dy = (a.astype(np.float64) for a in (x, kernel, dy))
    depthwise = kernel.shape[2] == 1 and x.shape[3] > 1
    padded = np.pad(x, ((0, 0), *pads, (0, 0)))
    y, dx, dk = np.zeros(dy.shape), np.zeros(padded.shape), np.zeros(kernel.shape)
    height, width = ((n - 1) * stride + 1 for n in dy.shape[1:3])
    for i in range(kernel.shape[0]):
        for j in range(kernel.shape[1]):
            seen = np.s_[:, i : i + height : stride, j : j + width : stride]
            if depthwise:
                y += padded[seen] * kernel[i, j]
                dx[seen] += dy * kernel[i, j]
                dk[i, j, 0] = (padded[seen] * dy).sum((0, 1, 2))
            else:
                y += padded[seen] @ kernel[i, j]
                dx[seen] += dy @ kernel[i, j].T
                dk[i, j] = np.einsum("nhwc,nhwf->cf", padded[seen], dy)
    (top, _), (left, _) = pads
    return y, dx[:, top : top + x.shape[1], left : left + x.shape[2]], dk


def computed(x: Any, kernel: Any, dy: Any, stride: int, pads: Any) -> Arrays:
    """The same three arrays by `ops.conv_general_dilated`, compiled for the CPU."""
    groups = x.shape[3] if kernel.shape[2] == 1 else 1

    def convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return ops.conv_general_dilated(
            x, kernel, (stride, stride), pads, None, None, LAYOUT, groups
        )

    def all_three(x: jax.Array, kernel: jax.Array, dy: jax.Array) -> Any:
        y, transpose = jax.vjp(convolve, x, kernel)
        return y, *transpose(dy)

    return tuple(np.asarray(a) for a in jax.jit(all_three)(x, kernel, dy))


def random_case(
    batch: int, size: tuple[int, int], channels: int, features: int, kernel: int, stride: int,
    pads: Any, depthwise: bool = False, seed: int = 0,
) -> Arrays:  # fmt: skip
    """Images, kernel and output gradient, float32 and normally distributed."""
    rng = np.random.default_rng(seed)
    out = [(n + sum(p) - kernel) // stride + 1 for n, p in zip(size, pads, strict=True)]
    shapes = (
        (batch, *size, channels),
        (kernel, kernel, 1 if depthwise else channels, features),
        (batch, *out, features),
    )
    x, k, dy = (rng.normal(size=shape).astype(np.float32) for shape in shapes)
    return x, k, dy


def assert_close(actual: Arrays, expected: Arrays, limit: float) -> None:
    """Compares value, input gradient and kernel gradient by the norm of the difference."""
    for name, a, b in zip(("y", "dx", "dk"), actual, expected, strict=True):
        difference = np.linalg.norm(np.float64(a) - b)
        assert difference <= limit * np.linalg.norm(b), (name, difference / np.linalg.norm(b))


@settings(max_examples=8, deadline=None, derandomize=True)
@given(data=st.data())
def test_a_few_shapes_agree_with_the_definition(data: st.DataObject) -> None:
    assert_agrees(data.draw)


@pytest.mark.slow
@pytest.mark.ci
@settings(max_examples=25, deadline=None, derandomize=True)
@given(data=st.data())
def test_any_shape_agrees_with_the_definition(data: st.DataObject) -> None:
    assert_agrees(data.draw)


def assert_agrees(draw: Any) -> None:
    """Compares value and gradients of a convolution of any shape that `draw` gives."""
    kernel = draw(st.sampled_from([1, 2, 3, 5]), "kernel")
    stride = draw(st.sampled_from([1, 2, 3]), "stride")
    pad = st.integers(0, kernel)
    pads = ((draw(pad), draw(pad)), (draw(pad), draw(pad)))
    size = (draw(st.integers(kernel, 11), "height"), draw(st.integers(kernel, 11), "width"))
    depthwise = draw(st.booleans(), "depthwise")
    channels = draw(st.sampled_from([2, 3, 16, 33]), "channels")
    features = channels if depthwise else draw(st.sampled_from([1, 6, 12, 40]), "features")
    batch = draw(st.integers(1, 5), "batch")
    winograd = draw(st.sampled_from([1, 128]), "channels from which on Winograd is used")
    case = random_case(batch, size, channels, features, kernel, stride, pads, depthwise)
    with (
        mock.patch.object(conditions, "WINOGRAD_CHANNELS", winograd),
        mock.patch.object(conditions, "WINOGRAD_GRAD_CHANNELS", winograd),
        mock.patch.object(conditions, "WINOGRAD_KERNEL_GRAD_CHANNELS", winograd),
    ):
        jax.clear_caches()
        result = computed(*case, stride, pads)
    assert_close(result, definition(*case, stride, pads), 2e-5)


# One of each algorithm: (channels, features, kernel, stride, depthwise).
KINDS = {
    "winograd": (64, 72, 3, 1, False),
    "dense": (24, 40, 3, 1, False),
    "pointwise": (24, 16, 1, 1, False),
    "pointwise_strided": (24, 16, 1, 2, False),
    "depthwise": (16, 16, 3, 1, True),
    "depthwise_strided": (16, 16, 3, 2, True),
    "strided": (24, 32, 3, 2, False),
    "winograd_strided": (64, 40, 3, 2, False),
    "few_features": (48, 12, 3, 1, False),
    "few_channels": (3, 64, 3, 1, False),
    "column_packing": (3, 6, 5, 1, False),
    "lenet_second": (6, 16, 5, 1, False),
}


def kind_case(kind: str, batch: int = 7, size: tuple[int, int] = (7, 8)) -> tuple[Arrays, int, Any]:
    """Arrays, stride and padding of one kind of convolution."""
    channels, features, kernel, stride, depthwise = KINDS[kind]
    pads = ((kernel // 2, kernel // 2),) * 2
    case = random_case(batch, size, channels, features, kernel, stride, pads, depthwise)
    return case, stride, pads


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_that_chunks_do_not_divide(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (xla, stride1, stride2):
        monkeypatch.setattr(module, "chunk_size", lambda *_: 3)
    case, stride, pads = kind_case(kind)
    assert_close(computed(*case, stride, pads), definition(*case, stride, pads), 2e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_rounds_only_the_result(kind: str) -> None:
    case, stride, pads = kind_case(kind)
    rounded = tuple(jnp.asarray(a, jnp.bfloat16) for a in case)
    exact = definition(*(np.asarray(a, np.float32) for a in rounded), stride, pads)
    actual = computed(*rounded, stride, pads)
    assert all(a.dtype == jnp.bfloat16 for a in actual)
    assert_close(actual, exact, 2**-8)  # half a unit in the last place of 8 bits


def test_float64_is_computed_in_float64() -> None:
    case, stride, pads = kind_case("winograd")
    with jax.enable_x64(True):
        wide = tuple(a.astype(np.float64) for a in case)
        assert_close(computed(*wide, stride, pads), definition(*wide, stride, pads), 1e-13)


def pair(kind: str = "dense", batch: int = 2) -> tuple[Any, Any, jax.Array, jax.Array]:
    """Our convolution and the stock one as functions of (x, kernel), and their arguments."""
    (x, kernel, _), stride, pads = kind_case(kind, batch, (8, 7))
    groups = x.shape[3] if kernel.shape[2] == 1 else 1
    ours, stock = (
        functools.partial(
            convolve,
            window_strides=(stride, stride),
            padding=pads,
            dimension_numbers=LAYOUT,
            feature_group_count=groups,
        )
        for convolve in (ops.conv_general_dilated, lax.conv_general_dilated)
    )
    return ours, stock, jnp.asarray(x), jnp.asarray(kernel)


def loss(convolve: Any, x: jax.Array, kernel: jax.Array) -> jax.Array:
    """A scalar whose derivatives of every order are not zero."""
    return jnp.sum(jnp.sin(0.1 * convolve(x, kernel)))


TRANSFORMATIONS = {
    "grad": lambda f, x, k: jax.grad(f, (0, 1))(x, k),
    "jvp": lambda f, x, k: jax.jvp(f, (x, k), (x, k)),
    "forward_over_reverse": lambda f, x, k: jax.jvp(jax.grad(f, (0, 1)), (x, k), (x, k))[1],
    "reverse_over_reverse": lambda f, x, k: jax.grad(
        lambda x, k: sum(jnp.sum(g**2) for g in jax.grad(f, (0, 1))(x, k)), (0, 1)
    )(x, k),
    "transposed_reverse": lambda f, x, k: jax.linear_transpose(
        jax.vjp(f, x, k)[1], jnp.ones((), x.dtype)
    )((x, k)),
    "vmap_tangents": lambda f, x, k: jax.vmap(lambda t: jax.jvp(f, (x, k), (t * x, t * k))[1])(
        jnp.arange(3.0)
    ),
    "checkpoint": lambda f, x, k: jax.grad(jax.checkpoint(f), (0, 1))(x, k),
    "vmap_images": lambda f, x, k: jax.vmap(jax.grad(f, (0, 1)), (0, None))(
        jnp.stack([x, 2 * x]), k
    ),
    "vmap_kernels": lambda f, x, k: jax.vmap(jax.grad(f, (0, 1)), (None, 0))(
        x, jnp.stack([k, 2 * k])
    ),
    "vmap_both": lambda f, x, k: jax.vmap(jax.grad(f, (0, 1)), (0, -1))(
        jnp.stack([x, 2 * x]), jnp.stack([k, 2 * k], -1)
    ),
    "scan": lambda f, x, k: lax.scan(lambda k, _: (k - jax.grad(f, 1)(x, k), None), k, None, 2)[0],
}


@pytest.mark.parametrize("name", TRANSFORMATIONS)
def test_transformations_agree_with_the_stock_convolution(name: str) -> None:
    ours, stock, x, kernel = pair()
    with jax.enable_x64(True):  # In float64, so that a difference is a mistake, not rounding.
        x, kernel = (jnp.asarray(np.asarray(a), jnp.float64) for a in (x, kernel))
        transform = TRANSFORMATIONS[name]
        results = [
            jax.tree.leaves(
                jax.jit(functools.partial(transform, functools.partial(loss, f)))(x, kernel)
            )
            for f in (ours, stock)
        ]
        for a, b in zip(*results, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11)


def test_without_jit_the_result_is_the_same() -> None:
    ours, stock, x, kernel = pair("few_features")
    np.testing.assert_allclose(ours(x, kernel), stock(x, kernel), rtol=1e-4, atol=1e-4)


PASSED_ON: dict[str, dict[str, Any]] = {
    "dilated images": {"lhs_dilation": (2, 2), "padding": ((1, 1), (2, 0))},
    "dilated kernel": {"rhs_dilation": (2, 1)},
    "NCHW": {"dimension_numbers": ("NCHW", "HWIO", "NCHW"), "x": (2, 4, 7, 6)},
    "default layout": {"dimension_numbers": None, "x": (2, 4, 7, 6), "kernel": (8, 4, 3, 3)},
    "groups": {"feature_group_count": 2, "kernel": (3, 3, 2, 8)},
    "filters for each channel": {"feature_group_count": 4, "kernel": (3, 3, 1, 8)},
    "batch groups": {"batch_group_count": 2},
    "one axis": {"dimension_numbers": ("NHC", "HIO", "NHC"), "x": (2, 7, 4), "kernel": (3, 4, 8)},
    "wider result": {"preferred_element_type": jnp.float32, "dtype": jnp.bfloat16},
    "integers": {"dtype": jnp.int32},
    "empty batch": {"x": (0, 7, 6, 4)},
    "precision": {"precision": lax.Precision.HIGHEST},
    "two precisions": {"precision": ("highest", "default")},
    "SAME_LOWER": {"padding": "SAME_LOWER"},
}


@pytest.mark.parametrize("case", PASSED_ON)
def test_every_legal_argument_is_accepted(case: str) -> None:
    arguments = dict(PASSED_ON[case])
    rng = np.random.default_rng(0)
    dtype = arguments.pop("dtype", jnp.float32)
    x = jnp.asarray(3 * rng.normal(size=arguments.pop("x", (2, 7, 6, 4))), dtype)
    kernel = jnp.asarray(3 * rng.normal(size=arguments.pop("kernel", (3, 3, 4, 8))), dtype)
    arguments = {"dimension_numbers": LAYOUT, "padding": "SAME", **arguments}
    arguments["window_strides"] = (1,) * (x.ndim - 2)
    expected = lax.conv_general_dilated(x, kernel, **arguments)
    actual = ops.conv_general_dilated(x, kernel, **arguments)
    assert (actual.shape, actual.dtype) == (expected.shape, expected.dtype)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("kernel", [(3, 3, 5, 8), (3, 3, 4)])
def test_an_illegal_convolution_is_refused_as_by_lax(kernel: tuple[int, ...]) -> None:
    arguments = (jnp.zeros((2, 7, 6, 4)), jnp.zeros(kernel), (1, 1), "SAME", None, None, LAYOUT)
    with pytest.raises((TypeError, ValueError)) as expected:
        lax.conv_general_dilated(*arguments)
    with pytest.raises(expected.type) as actual:
        ops.conv_general_dilated(*arguments)
    assert str(actual.value) == str(expected.value)
