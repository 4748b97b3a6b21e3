"""The 2-D convolution and its gradients as primitives, for JAX's transformations."""

from jaxcnn.ops.conv import onednn, reference, xla
from jaxcnn.ops.conv.define import define
from jaxcnn.ops.conv.derivatives import declare_bilinear, define_joint

convolution = define(
    "cnn_convolution",
    reference.output_shape,
    xla.conv_forward,
    onednn.conv_forward,
    reference.conv_forward,
    (True, False),
)
conv_input_grad = define(
    "cnn_input_gradient",
    reference.input_shape,
    xla.conv_input_grad,
    onednn.conv_input_grad,
    reference.conv_input_grad,
    (True, False),
)
conv_kernel_grad = define(
    "cnn_kernel_gradient",
    reference.kernel_shape,
    xla.conv_kernel_grad,
    onednn.conv_kernel_grad,
    reference.conv_kernel_grad,
    (True, True),
)
declare_bilinear(convolution, conv_input_grad, conv_kernel_grad)

conv_vjp = define_joint(
    "cnn",
    convolution,
    conv_input_grad,
    conv_kernel_grad,
    reference.output_shape,
    xla.conv_vjp,
    onednn.conv_vjp,
)
