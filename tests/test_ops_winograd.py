"""Winograd's algorithm in both tile sizes: its numbers, and when it is taken."""

from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_ops_convolution import assert_close, definition, random_case

from jaxcnn.ops import algorithms, winograd
from jaxcnn.ops.geometry import Geometry


def computed(x: np.ndarray, kernel: np.ndarray, dy: np.ndarray, pads: tuple) -> tuple:
    """Value, gradient of the images and gradient of the kernel."""
    size = (dy.shape[1], dy.shape[2])
    geometry = Geometry((x.shape[1], x.shape[2]), (3, 3), (1, 1), pads, False)

    def exchanged(a: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.matmul(a, b.swapaxes(1, 2))

    def transposed(a: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.matmul(a.swapaxes(1, 2), b)

    def all_three(x: jax.Array, kernel: jax.Array, dy: jax.Array) -> tuple:
        return (
            winograd.forward(x, kernel, pads, size, jnp.matmul),
            algorithms.winograd_backwards(dy, kernel, geometry, exchanged),
            winograd.kernel_gradient(x, dy, pads, transposed),
        )

    return jax.jit(all_three)(x, kernel, dy)


@settings(max_examples=10, deadline=None, derandomize=True)
@given(data=st.data())
@pytest.mark.parametrize("m", [2, 4])
def test_either_tile_size_agrees_with_the_definition(m: int, data: st.DataObject) -> None:
    pad = st.integers(0, 3)
    pads = tuple((data.draw(pad), data.draw(pad)) for _ in range(2))
    size = (data.draw(st.integers(3, 13), "height"), data.draw(st.integers(3, 13), "width"))
    channels, features = data.draw(st.sampled_from([(1, 5), (16, 3), (40, 64)]), "channels")
    case = random_case(data.draw(st.integers(1, 4), "batch"), size, channels, features, 3, 1, pads)
    with mock.patch.object(winograd, "_tile_size", lambda size: m):
        assert_close(computed(*case, pads), definition(*case, 1, pads), 5e-6)
        with jax.enable_x64(True):
            exact = computed(*(a.astype(np.float64) for a in case), pads)
            assert_close(exact, definition(*case, 1, pads), 1e-13)


def test_tiles_take_the_fewest_multiplications() -> None:
    sizes = {(2, 2): 2, (4, 4): 4, (6, 6): 2, (7, 7): 4, (8, 8): 4, (32, 32): 4}
    assert {size: winograd._tile_size(size) for size in sizes} == sizes


@pytest.mark.parametrize(
    ("size", "batch", "expected"),
    [(32, 128, True), (32, 1, True), (4, 128, True), (4, 8, False), (5, 128, False)],
)
def test_it_pays_where_it_saves_enough(size: int, batch: int, expected: bool) -> None:
    def geometry(kernel: int = 3, stride: int = 1, depthwise: bool = False) -> Geometry:
        pads = ((kernel // 2, kernel // 2),) * 2
        return Geometry((size, size), (kernel, kernel), (stride, stride), pads, depthwise)

    assert winograd.pays(geometry(), batch) == expected
    others = geometry(kernel=5), geometry(stride=2), geometry(depthwise=True)
    assert not any(winograd.pays(other, batch) for other in others)
