"""How a 1x1 convolution, with or without a stride, becomes one matrix product over all pixels."""

import jax
import jax.numpy as jnp
from jax import lax

from jaxcnn.ops.geometry import Geometry, Pair


def applies(geometry: Geometry) -> bool:
    """Whether the convolution is dense, 1x1 and without padding."""
    return (
        not geometry.depthwise
        and geometry.kernel_size == (1, 1)
        and geometry.padding == ((0, 0), (0, 0))
    )


def forward(x: jax.Array, kernel: jax.Array, strides: Pair) -> jax.Array:
    """The convolution of `[N, H, W, C]` with `[1, 1, C, F]`."""
    x = x[:, :: strides[0], :: strides[1]]
    return lax.dot_general(x, kernel[0, 0], (((3,), (0,)), ((), ())))


def input_gradient(dy: jax.Array, kernel: jax.Array, geometry: Geometry) -> jax.Array:
    """The gradient of the input, `[N, H, W, C]`: zero where a stride skips the pixel."""
    dtype = jnp.promote_types(dy.dtype, jnp.float32)
    dx = lax.dot_general(dy.astype(dtype), kernel[0, 0].astype(dtype), (((3,), (1,)), ((), ())))
    config = [(0, 0, 0)]
    for n, out, stride in zip(
        geometry.input_size, geometry.output_size, geometry.strides, strict=True
    ):
        config.append((0, n - (out - 1) * stride - 1, stride - 1))
    return lax.pad(dx.astype(dy.dtype), jnp.zeros((), dy.dtype), [*config, (0, 0, 0)])


def kernel_gradient(x: jax.Array, dy: jax.Array, strides: Pair) -> jax.Array:
    """The gradient of the kernel, `[1, 1, C, F]`."""
    x = x[:, :: strides[0], :: strides[1]]
    return lax.dot_general(x, dy, (((0, 1, 2), (0, 1, 2)), ((), ())))[None, None]
