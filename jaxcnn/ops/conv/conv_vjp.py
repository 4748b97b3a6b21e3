"""Both gradients of a convolution as one primitive.

Where both operands of a convolution have a tangent, the convolution's own is `conv_jvp`, and the
transpose of that is `conv_vjp`, both gradients at once. Winograd's algorithm transforms the
output's gradient once for both. The other algorithms gain in order: neither gradient is used before
the other is computed.

XLA's CPU compiler orders a program depth first. The gradient of a network's first kernel lies
deepest, so all gradients of images would come first and those of kernels last; the input and the
gradient of every layer, which the latter need, would be kept until then.
"""

from typing import Any

import jax
from jax.interpreters import ad

from jaxcnn.ops.conv import onednn, reference, xla
from jaxcnn.ops.conv.primitives import (
    conv_input_grad,
    conv_kernel_grad,
    convolution,
    define_composite,
)
from jaxcnn.ops.spec import ConvSpec


def _jvp_by_convolutions(
    x: jax.Array, kernel: jax.Array, dx: jax.Array, d_kernel: jax.Array, spec: ConvSpec
) -> jax.Array:
    """The tangent of the convolution of `x` with `kernel`, from those of both operands."""
    from_images: jax.Array = convolution.bind(dx, kernel, spec=spec)
    return from_images + convolution.bind(x, d_kernel, spec=spec)


def _vjp_by_convolutions(
    x: jax.Array, kernel: jax.Array, dy: jax.Array, spec: ConvSpec
) -> list[jax.Array]:
    """The gradients of the convolution of `x` with `kernel`, from the result's."""
    dx = conv_input_grad.bind(dy, kernel, spec=spec)
    return [dx, conv_kernel_grad.bind(x, dy, spec=spec)]


conv_jvp = define_composite(
    "cnn_tangent",
    _jvp_by_convolutions,
    lambda x, kernel, dx, d_kernel, spec: x.update(
        shape=reference.output_shape(x.shape, kernel.shape, spec), weak_type=False
    ),
)
conv_vjp = define_composite(
    "cnn_gradients",
    _vjp_by_convolutions,
    lambda x, kernel, dy, spec: [x.update(weak_type=False), kernel.update(weak_type=False)],
    xla.conv_vjp,
    onednn.conv_vjp,
    several=True,
)


def _transpose_jvp(ct: Any, x: Any, kernel: Any, dx: Any, d_kernel: Any, *, spec: ConvSpec) -> Any:
    return [None, None, *conv_vjp.bind(x, kernel, ct, spec=spec)]


def _transpose_vjp(cts: Any, x: Any, kernel: Any, dy: Any, *, spec: ConvSpec) -> Any:
    # Linear in dy: transposed, it takes tangents of both operands to the tangent of the result.
    tangents = map(ad.instantiate_zeros, cts)
    return [None, None, conv_jvp.bind(x, kernel, *tangents, spec=spec)]


def _jvp(primals: Any, tangents: Any, *, spec: ConvSpec) -> Any:
    # One operand is constant, as a network's images are: only one gradient will be asked for.
    if any(isinstance(tangent, ad.Zero) for tangent in tangents):
        return _jvp_of_one(primals, tangents, spec=spec)
    y = convolution.bind(*primals, spec=spec)
    return y, conv_jvp.bind(*primals, *tangents, spec=spec)


ad.primitive_transposes[conv_jvp] = _transpose_jvp
ad.primitive_transposes[conv_vjp] = _transpose_vjp
# The rule that `primitives` has given it goes on to serve a single tangent.
_jvp_of_one = ad.primitive_jvps[convolution]
ad.primitive_jvps[convolution] = _jvp
