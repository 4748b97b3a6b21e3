"""The convolution and its two gradients as JAX defines them, and the shapes of all three."""

from collections.abc import Callable
from typing import Any

import jax
from jax import lax

from jaxcnn.ops.spec import ConvSpec

_LAYOUT = ("NHWC", "HWIO", "NHWC")
Shape = tuple[int, ...]


def conv_forward(x: jax.Array, kernel: jax.Array, spec: ConvSpec) -> jax.Array:
    """The convolution of `[N, H, W, C]` with `[h, w, C, F]` (depthwise: `[h, w, 1, C]`)."""
    return lax.conv_general_dilated(
        x,
        kernel,
        spec.strides,
        spec.padding,
        dimension_numbers=_LAYOUT,
        feature_group_count=x.shape[3] if spec.depthwise else 1,
        precision=spec.precision,
    )


def output_shape(x: Shape, kernel: Shape, spec: ConvSpec) -> Shape:
    """The shape of `conv_forward`."""
    return (x[0], *spec.output_size, kernel[3])


def input_shape(dy: Shape, kernel: Shape, spec: ConvSpec) -> Shape:
    """The shape of `conv_input_grad`."""
    return (dy[0], *spec.input_size, kernel[3] if spec.depthwise else kernel[2])


def kernel_shape(x: Shape, dy: Shape, spec: ConvSpec) -> Shape:
    """The shape of `conv_kernel_grad`."""
    return (*spec.kernel_size, 1 if spec.depthwise else x[3], dy[3])


def gradients_of(
    forward: Callable[..., jax.Array],
    input_shape: Callable[..., Shape],
    kernel_shape: Callable[..., Shape],
) -> tuple[Callable[..., jax.Array], Callable[..., jax.Array]]:
    """The two gradients of a convolution, each by JAX's transposition of the convolution itself.

    Args:
        forward: The convolution, of `(x, kernel, spec)`.
        input_shape: Of the images, from the shapes of `dy` and `kernel`, and the spec.
        kernel_shape: Of the kernel, from the shapes of `x` and `dy`, and the spec.

    Returns:
        The gradient with respect to the images, of `(dy, kernel, spec)`, and the one with respect
        to the kernel, of `(x, dy, spec)`.
    """

    def input_grad(dy: jax.Array, kernel: jax.Array, spec: Any) -> jax.Array:
        x = jax.typeof(dy).update(shape=input_shape(dy.shape, kernel.shape, spec))
        return jax.linear_transpose(lambda x: forward(x, kernel, spec), x)(dy)[0]

    def kernel_grad(x: jax.Array, dy: jax.Array, spec: Any) -> jax.Array:
        kernel = jax.typeof(x).update(shape=kernel_shape(x.shape, dy.shape, spec))
        return jax.linear_transpose(lambda kernel: forward(x, kernel, spec), kernel)(dy)[0]

    return input_grad, kernel_grad


conv_input_grad, conv_kernel_grad = gradients_of(conv_forward, input_shape, kernel_shape)
