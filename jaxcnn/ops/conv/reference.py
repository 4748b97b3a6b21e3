"""The convolution and its two gradients in XLA's own operations, and the shapes of all three."""

import jax
from jax import lax

from jaxcnn.ops.spec import Geometry

_LAYOUT = ("NHWC", "HWIO", "NHWC")
Shape = tuple[int, ...]


def convolution(x: jax.Array, kernel: jax.Array, geometry: Geometry) -> jax.Array:
    """The convolution of `[N, H, W, C]` with `[h, w, C, F]` (depthwise: `[h, w, 1, C]`)."""
    return lax.conv_general_dilated(
        x,
        kernel,
        geometry.strides,
        geometry.padding,
        dimension_numbers=_LAYOUT,
        feature_group_count=x.shape[3] if geometry.depthwise else 1,
        precision=geometry.precision,
    )


def input_gradient(dy: jax.Array, kernel: jax.Array, geometry: Geometry) -> jax.Array:
    """Its gradient with respect to the images."""
    x = jax.typeof(dy).update(shape=input_shape(dy.shape, kernel.shape, geometry))
    return jax.linear_transpose(lambda x: convolution(x, kernel, geometry), x)(dy)[0]


def kernel_gradient(x: jax.Array, dy: jax.Array, geometry: Geometry) -> jax.Array:
    """Its gradient with respect to the kernel."""
    kernel = jax.typeof(x).update(shape=kernel_shape(x.shape, dy.shape, geometry))
    return jax.linear_transpose(lambda k: convolution(x, k, geometry), kernel)(dy)[0]


def output_shape(x: Shape, kernel: Shape, geometry: Geometry) -> Shape:
    """The shape of `convolution`."""
    return (x[0], *geometry.output_size, kernel[3])


def input_shape(dy: Shape, kernel: Shape, geometry: Geometry) -> Shape:
    """The shape of `input_gradient`."""
    return (dy[0], *geometry.input_size, kernel[3] if geometry.depthwise else kernel[2])


def kernel_shape(x: Shape, dy: Shape, geometry: Geometry) -> Shape:
    """The shape of `kernel_gradient`."""
    return (*geometry.kernel_size, 1 if geometry.depthwise else x[3], dy[3])
