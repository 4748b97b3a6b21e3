"""The derivatives of a convolution and its two gradients, declared as primitives.

The three are bilinear, and each is the transpose of the others, so declaring them as primitives
makes every derivative of any order, forward and backward, one of the three. A `custom_vjp` could
not be differentiated forward (`jvp`, `hessian`), which `lax.conv_general_dilated` can.

Where both operands of a convolution have a tangent, the convolution's own is one primitive, and the
transpose of that is both gradients at once. Winograd's algorithm transforms the output's gradient
once for both. The other algorithms gain in order: neither gradient is used before the other is
computed. XLA's CPU compiler orders a program depth first. The gradient of a network's first kernel
lies deepest, so all gradients of images would come first and those of kernels last; the input and
the gradient of every layer, which the latter need, would be kept until then.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax.extend.core import Primitive
from jax.interpreters import ad

from jaxcnn.ops.conv.define import define_composite
from jaxcnn.ops.conv.reference import Shape


def declare_bilinear(convolution: Primitive, input_grad: Primitive, kernel_grad: Primitive) -> None:
    """Makes each derivative of three primitives one of the three.

    Args:
        convolution: Of `(x, kernel)`.
        input_grad: Of `(dy, kernel)`.
        kernel_grad: Of `(x, dy)`.
    """
    # <ct, conv(x, kernel)> is linear in each of the three; the derivative by one of them, given the
    # other two, is one of the three primitives. So the rules lead from each to the other two.
    ad.defbilinear(
        convolution,
        lambda ct, x, kernel, spec: input_grad.bind(ct, kernel, spec=spec),
        lambda ct, x, kernel, spec: kernel_grad.bind(x, ct, spec=spec),
    )
    ad.defbilinear(
        input_grad,
        lambda ct, dy, kernel, spec: convolution.bind(ct, kernel, spec=spec),
        lambda ct, dy, kernel, spec: kernel_grad.bind(ct, dy, spec=spec),
    )
    ad.defbilinear(
        kernel_grad,
        lambda ct, x, dy, spec: input_grad.bind(dy, ct, spec=spec),
        lambda ct, x, dy, spec: convolution.bind(x, ct, spec=spec),
    )


def define_joint(
    name: str,
    convolution: Primitive,
    input_grad: Primitive,
    kernel_grad: Primitive,
    output_shape: Callable[..., Shape],
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
