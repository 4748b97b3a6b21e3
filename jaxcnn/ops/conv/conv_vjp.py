"""Both gradients of a convolution as one primitive.

Where both operands of a convolution have a tangent, the convolution's own is one primitive, and the
transpose of that is `conv_vjp`, both gradients at once. Winograd's algorithm transforms the
output's gradient once for both. The other algorithms gain in order: neither gradient is used before
the other is computed.

XLA's CPU compiler orders a program depth first. The gradient of a network's first kernel lies
deepest, so all gradients of images would come first and those of kernels last; the input and the
gradient of every layer, which the latter need, would be kept until then.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax.extend.core import Primitive
from jax.interpreters import ad

from jaxcnn.ops.conv import onednn, primitives, reference, xla
from jaxcnn.ops.conv.primitives import define_composite


def define_joint(
    name: str,
    convolution: Primitive,
    input_grad: Primitive,
    kernel_grad: Primitive,
    output_shape: Callable[..., reference.Shape],
    by_xla: Callable[..., list[jax.Array]],
    by_onednn: Callable[..., list[jax.Array]],
) -> Primitive:
    """Gives a convolution both gradients as one primitive.

    Args:
        name: Begin of the names shown in a jaxpr.
        convolution: Of `(x, kernel)`; its rule of differentiation goes on to serve one tangent.
        input_grad: Of `(dy, kernel)`.
        kernel_grad: Of `(x, dy)`.
        output_shape: From the shapes of images and kernel, and the spec.
        by_xla: Both gradients, from `(x, kernel, dy, spec, shards)`, for the CPU.
        by_onednn: Both gradients, from `(x, kernel, dy, spec)`, for the CPU with oneDNN.

    Returns:
        The gradients' primitive, of `(x, kernel, dy)`.
    """

    def tangent(
        x: jax.Array, kernel: jax.Array, dx: jax.Array, d_kernel: jax.Array, spec: Any
    ) -> jax.Array:
        from_images: jax.Array = convolution.bind(dx, kernel, spec=spec)
        return from_images + convolution.bind(x, d_kernel, spec=spec)

    def gradients(x: jax.Array, kernel: jax.Array, dy: jax.Array, spec: Any) -> list[jax.Array]:
        dx = input_grad.bind(dy, kernel, spec=spec)
        return [dx, kernel_grad.bind(x, dy, spec=spec)]

    joint_jvp = define_composite(
        f"{name}_tangent",
        tangent,
        lambda x, kernel, dx, d_kernel, spec: x.update(
            shape=output_shape(x.shape, kernel.shape, spec), weak_type=False
        ),
    )
    joint_vjp = define_composite(
        f"{name}_gradients",
        gradients,
        lambda x, kernel, dy, spec: [x.update(weak_type=False), kernel.update(weak_type=False)],
        by_xla,
        by_onednn,
        several=True,
    )

    def transpose_jvp(ct: Any, x: Any, kernel: Any, dx: Any, d_kernel: Any, *, spec: Any) -> Any:
        return [None, None, *joint_vjp.bind(x, kernel, ct, spec=spec)]

    def transpose_vjp(cts: Any, x: Any, kernel: Any, dy: Any, *, spec: Any) -> Any:
        # Linear in dy: transposed, it takes tangents of both operands to that of the result.
        tangents = map(ad.instantiate_zeros, cts)
        return [None, None, joint_jvp.bind(x, kernel, *tangents, spec=spec)]

    jvp_of_one = ad.primitive_jvps[convolution]

    def jvp(primals: Any, tangents: Any, *, spec: Any) -> Any:
        # One operand is constant, as a network's images are: only one gradient will be asked for.
        if any(isinstance(tangent, ad.Zero) for tangent in tangents):
            return jvp_of_one(primals, tangents, spec=spec)
        y = convolution.bind(*primals, spec=spec)
        return y, joint_jvp.bind(*primals, *tangents, spec=spec)

    ad.primitive_transposes[joint_jvp] = transpose_jvp
    ad.primitive_transposes[joint_vjp] = transpose_vjp
    ad.primitive_jvps[convolution] = jvp
    return joint_vjp


conv_vjp = define_joint(
    "cnn",
    primitives.convolution,
    primitives.conv_input_grad,
    primitives.conv_kernel_grad,
    reference.output_shape,
    xla.conv_vjp,
    onednn.conv_vjp,
)
