"""The convolution and its two gradients as JAX defines them, and the shapes of all three."""

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


def conv_input_grad(dy: jax.Array, kernel: jax.Array, spec: ConvSpec) -> jax.Array:
    """The gradient of `conv_forward` with respect to the images, `[N, H, W, C]`."""
    # Transposed by JAX, so this is the gradient of the stock operation, not one written here.
    x = jax.typeof(dy).update(shape=input_shape(dy.shape, kernel.shape, spec))
    return jax.linear_transpose(lambda x: conv_forward(x, kernel, spec), x)(dy)[0]


def conv_kernel_grad(x: jax.Array, dy: jax.Array, spec: ConvSpec) -> jax.Array:
    """The gradient of `conv_forward` with respect to the kernel, `[h, w, C, F]`."""
    kernel = jax.typeof(x).update(shape=kernel_shape(x.shape, dy.shape, spec))
    return jax.linear_transpose(lambda k: conv_forward(x, k, spec), kernel)(dy)[0]


def output_shape(x: Shape, kernel: Shape, spec: ConvSpec) -> Shape:
    """The shape of `conv_forward`."""
    return (x[0], *spec.output_size, kernel[3])


def input_shape(dy: Shape, kernel: Shape, spec: ConvSpec) -> Shape:
    """The shape of `conv_input_grad`."""
    return (dy[0], *spec.input_size, kernel[3] if spec.depthwise else kernel[2])


def kernel_shape(x: Shape, dy: Shape, spec: ConvSpec) -> Shape:
    """The shape of `conv_kernel_grad`."""
    return (*spec.kernel_size, 1 if spec.depthwise else x[3], dy[3])
