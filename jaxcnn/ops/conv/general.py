"""The convolutions of `decompose.py` and their gradients as primitives.

On the CPU the gradients are the transposes of the same steps. Every other platform gets the stock
operation and its gradients.
"""

import jax
from jax import lax

from jaxcnn.ops.conv import decompose, reference
from jaxcnn.ops.conv.define import define
from jaxcnn.ops.conv.derivatives import declare_bilinear, define_joint
from jaxcnn.ops.conv.reference import Shape
from jaxcnn.ops.spec import GeneralSpec


def _stock(x: jax.Array, kernel: jax.Array, spec: GeneralSpec) -> jax.Array:
    spatial = "DHW"[-len(spec.input_size) :]
    return lax.conv_general_dilated(
        x,
        kernel,
        spec.strides,
        spec.padding,
        lhs_dilation=spec.input_dilation,
        rhs_dilation=spec.kernel_dilation,
        dimension_numbers=(f"N{spatial}C", f"{spatial}IO", f"N{spatial}C"),
        feature_group_count=spec.groups,
        precision=spec.precision,
    )


def _output_shape(x: Shape, kernel: Shape, spec: GeneralSpec) -> Shape:
    return (x[0], *spec.output_size, kernel[-1])


def _input_shape(dy: Shape, kernel: Shape, spec: GeneralSpec) -> Shape:
    return (dy[0], *spec.input_size, kernel[-2] * spec.groups)


def _kernel_shape(x: Shape, dy: Shape, spec: GeneralSpec) -> Shape:
    return (*spec.kernel_size, x[-1] // spec.groups, dy[-1])


_stock_input_grad, _stock_kernel_grad = reference.gradients_of(_stock, _input_shape, _kernel_shape)
_input_grad, _kernel_grad = reference.gradients_of(
    decompose.conv_forward, _input_shape, _kernel_shape
)

convolution = define(
    "cnn_general_convolution",
    _output_shape,
    lambda x, kernel, spec, shards: decompose.conv_forward(x, kernel, spec),
    decompose.conv_forward,
    _stock,
    (True, False),
)
conv_input_grad = define(
    "cnn_general_input_gradient",
    _input_shape,
    lambda dy, kernel, spec, shards: _input_grad(dy, kernel, spec),
    _input_grad,
    _stock_input_grad,
    (True, False),
)
conv_kernel_grad = define(
    "cnn_general_kernel_gradient",
    _kernel_shape,
    lambda x, dy, spec, shards: _kernel_grad(x, dy, spec),
    _kernel_grad,
    _stock_kernel_grad,
    (True, True),
)
declare_bilinear(convolution, conv_input_grad, conv_kernel_grad)


def _vjp(
    x: jax.Array, kernel: jax.Array, dy: jax.Array, spec: GeneralSpec, shards: int = 1
) -> list[jax.Array]:
    """Both gradients; `shards` is left to the 2-D convolutions, which learn it by themselves."""
    transpose = jax.vjp(lambda x, kernel: decompose.conv_forward(x, kernel, spec), x, kernel)[1]
    return list(transpose(dy))


conv_vjp = define_joint(
    "cnn_general", convolution, conv_input_grad, conv_kernel_grad, _output_shape, _vjp, _vjp
)
