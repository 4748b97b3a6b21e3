"""A 1x1 convolution, with or without a stride, as one matrix product over all pixels."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from jaxcnn.ops.spec import ConvSpec, Pair

Matmul = Callable[[jax.Array, jax.Array], jax.Array]


def _matmul_tn(a: jax.Array, b: jax.Array) -> jax.Array:
    return lax.dot_general(a, b, (((0,), (0,)), ((), ())))


def conv_forward(
    x: jax.Array, kernel: jax.Array, strides: Pair, matmul: Matmul = jnp.matmul
) -> jax.Array:
    """The convolution of `[N, H, W, C]` with `[1, 1, C, F]`."""
    x = x[:, :: strides[0], :: strides[1]]
    y = matmul(x.reshape(-1, x.shape[3]), kernel[0, 0])
    return y.reshape(*x.shape[:3], -1)


def conv_input_grad(
    dy: jax.Array, kernel: jax.Array, spec: ConvSpec, matmul: Matmul = jnp.matmul
) -> jax.Array:
    """The gradient of the images, `[N, H, W, C]`: zero where a stride skips the pixel."""
    dtype = jnp.promote_types(dy.dtype, jnp.float32)
    rows = dy.reshape(-1, dy.shape[3]).astype(dtype)
    dx = matmul(rows, kernel[0, 0].astype(dtype).T).reshape(*dy.shape[:3], -1)
    # Zeros between and behind, for the pixels that no window has read.
    config = [(0, 0, 0)]
    for n, out, stride in zip(spec.input_size, spec.output_size, spec.strides, strict=True):
        config.append((0, n - (out - 1) * stride - 1, stride - 1))
    return lax.pad(dx.astype(dy.dtype), jnp.zeros((), dy.dtype), [*config, (0, 0, 0)])


def conv_kernel_grad(
    x: jax.Array, dy: jax.Array, strides: Pair, matmul_tn: Matmul = _matmul_tn
) -> jax.Array:
    """The gradient of the kernel, `[1, 1, C, F]`; `matmul_tn` transposes its first operand."""
    x = x[:, :: strides[0], :: strides[1]]
    return matmul_tn(x.reshape(-1, x.shape[3]), dy.reshape(-1, dy.shape[3]))[None, None]
