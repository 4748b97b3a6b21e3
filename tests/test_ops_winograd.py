"""Winograd's algorithms: their numbers, and when they are taken."""

import re
from unittest import mock

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_ops_convolution import definition, random_case

from jaxcnn.ops.chunks import Chunk
from jaxcnn.ops.conv import select, xla
from jaxcnn.ops.spec import ConvSpec
from jaxcnn.ops.winograd import coefficients, costs, stride1, stride2, transforms

SCHEMES = [(1, 2), (1, 4), (2, 4)]  # stride, and outputs of a tile along one axis
Size = tuple[int, int]
Pads = tuple[tuple[int, int], ...]


def computed(x: np.ndarray, kernel: np.ndarray, dy: np.ndarray, stride: int, pads: tuple) -> tuple:
    """Value, gradient of the images and gradient of the kernel; with stride 2 the last alone."""
    spec = ConvSpec((x.shape[1], x.shape[2]), (3, 3), (stride, stride), pads, False)

    def results(x: jax.Array, kernel: jax.Array, dy: jax.Array) -> tuple:
        by_stride = stride1 if stride == 1 else stride2
        gradient = by_stride.conv_kernel_grad(x, dy, spec, xla.MATMULS)
        if stride == 2:
            return (gradient,)
        return (
            stride1.conv_forward(x, kernel, spec, xla.MATMULS),
            stride1.conv_input_grad(dy, kernel, spec, xla.MATMULS),
            gradient,
        )

    return jax.jit(results)(x, kernel, dy)


def assert_last_close(actual: tuple, expected: tuple, limit: float) -> None:
    """Compares what there is of value and gradients by the norm of the difference."""
    for a, b in zip(actual, expected[-len(actual) :], strict=True):
        assert np.linalg.norm(a - b) <= limit * np.linalg.norm(b)


def assert_agrees(stride: int, m: int, case: tuple, pads: Pads, room: int) -> None:
    """Compares the scheme for m x m outputs with the definition, in float32 and in float64.

    Args:
        stride: Of the convolution.
        m: Outputs of a tile along one axis.
        case: Images, kernel and output gradient.
        pads: Zeros before and after, along height and width.
        room: Bytes of a chunk. With none all kernels count as large.
    """
    expected = definition(*case, stride, pads)
    with (
        mock.patch.object(coefficients, "POINTS", {m: coefficients.POINTS[m]}),
        mock.patch.object(stride1, "_CHUNK_BYTES", room),
    ):
        assert_last_close(computed(*case, stride, pads), expected, 5e-6)
        with jax.enable_x64(True):
            exact = computed(*(a.astype(np.float64) for a in case), stride, pads)
            assert_last_close(exact, expected, 1e-13)


@pytest.mark.parametrize(("stride", "m"), SCHEMES)
@pytest.mark.parametrize(
    ("size", "pads", "channels", "features", "batch", "room"),
    [
        ((9, 14), ((1, 2), (0, 3)), 16, 3, 3, stride1._CHUNK_BYTES),
        ((3, 4), ((1, 1),) * 2, 5, 8, 1, 0),
    ],
)
def test_every_scheme_agrees_with_the_definition(
    stride: int, m: int, size: Size, pads: Pads, channels: int, features: int, batch: int, room: int
) -> None:
    case = random_case(batch, size, channels, features, 3, stride, pads)
    assert_agrees(stride, m, case, pads, room)


@pytest.mark.slow
@pytest.mark.ci
@settings(max_examples=6, deadline=None, derandomize=True)
@given(data=st.data())
@pytest.mark.parametrize(("stride", "m"), SCHEMES)
def test_every_scheme_agrees_for_any_shape(stride: int, m: int, data: st.DataObject) -> None:
    pad = st.integers(0, 3)
    pads = tuple((data.draw(pad), data.draw(pad)) for _ in range(2))
    size = (data.draw(st.integers(3, 17), "height"), data.draw(st.integers(3, 17), "width"))
    channels, features = data.draw(st.sampled_from([(1, 5), (16, 3), (40, 64)]), "channels")
    batch = data.draw(st.integers(1, 4), "batch")
    case = random_case(batch, size, channels, features, 3, stride, pads)
    room = data.draw(st.sampled_from([0, stride1._CHUNK_BYTES]), "room")
    assert_agrees(stride, m, case, pads, room)


@pytest.mark.parametrize("size", [13, 14, 15, 16, 31])
def test_no_slice_is_read_twice(size: int) -> None:
    """XLA makes one of two equal slices, and of one with two uses a call for every number."""
    scheme = costs.best_scheme((size, size))
    dtype = np.dtype(np.float32)

    def transformed(x: jax.Array, start: jax.Array) -> jax.Array:
        chunk = Chunk(x, start, 2)
        return transforms.transform_input(chunk, (1, 1), (size, size), scheme, dtype)

    shapes = jax.ShapeDtypeStruct((4, size, size, 16), dtype), jax.ShapeDtypeStruct((), np.int32)
    text = jax.jit(transformed).lower(*shapes).compile().as_text()
    slices = [
        (name, body.count(f"%{name},") + body.count(f"%{name})"))
        for body in text.split("\n\n")
        for name in re.findall(r"%([\w.-]*slice[\w.-]*) = ", body)
        if f"%{name} = " in body
    ]
    assert len(slices) >= 2 * scheme.points
    assert all(uses <= 1 for _, uses in slices), slices


def test_tiles_take_the_fewest_multiplications() -> None:
    sizes = {(2, 2): 2, (4, 4): 4, (6, 6): 2, (7, 7): 4, (8, 8): 4, (32, 32): 4}
    assert {size: costs.best_scheme(size).outputs for size in sizes} == sizes


@pytest.mark.parametrize(
    ("stride", "size", "batch", "expected"),
    [
        *((1, 32, 128, True), (1, 32, 1, True), (1, 4, 128, True), (1, 4, 8, False)),
        *((1, 5, 128, False), (2, 32, 128, True), (2, 8, 128, True), (2, 8, 32, False)),
        *((2, 10, 128, False), (2, 31, 128, True), (3, 32, 128, False)),
    ],
)
def test_it_is_taken_where_it_saves_enough(
    stride: int, size: int, batch: int, expected: bool
) -> None:
    def is_taken(kernel: int = 3, depthwise: bool = False) -> bool:
        pads = ((kernel // 2, kernel // 2),) * 2
        spec = ConvSpec((size, size), (kernel, kernel), (stride, stride), pads, depthwise)
        return "winograd" in select.select(spec, batch, 64, 64, "xla").kernel_grad

    assert is_taken() == expected
    assert not is_taken(kernel=5)
    assert not is_taken(depthwise=True)


def test_the_example_in_the_module_s_docstring_is_the_scheme() -> None:
    """y0 and y1 of F(2, 3), by the four products that the docstring shows."""
    scheme = coefficients.f_m_3(2)
    d, g = np.array([2.0, -3.0, 5.0, 7.0]), np.array([11.0, 13.0, -17.0])
    products = np.array(
        [
            (d[0] - d[2]) * g[0],
            (d[1] + d[2]) * g.sum() / 2,
            (d[2] - d[1]) * (g[0] - g[1] + g[2]) / 2,
            (d[3] - d[1]) * g[2],
        ]
    )
    np.testing.assert_allclose((scheme.g @ g) * (scheme.bt @ d), products)
    np.testing.assert_allclose(scheme.at @ products, np.convolve(d, g[::-1], "valid"))
