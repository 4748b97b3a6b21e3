"""The convolution and its two gradients on the CPU where oneDNN can be called.

The same four functions as in `xla.py`, for float32 and bfloat16, computed in float32; what the
table passes on is computed there. oneDNN's calls only go forward, so both gradients are written as
forward convolutions and matrix products. Those of the kernel are in `onednn_kernel_grad.py`.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from jaxcnn.ops import onednn_calls
from jaxcnn.ops.conv import onednn_kernel_grad, phases, pointwise, xla
from jaxcnn.ops.conv.conditions import VECTOR
from jaxcnn.ops.conv.select import Plan, select, select_phase
from jaxcnn.ops.onednn_calls import Window
from jaxcnn.ops.spec import ConvSpec, cropped
from jaxcnn.ops.winograd import stride1, stride2

Algorithm = Callable[[jax.Array, jax.Array, ConvSpec], jax.Array]

MATMULS = stride1.Matmuls(onednn_calls.matmul, onednn_calls.matmul_nt, onednn_calls.matmul_tn)


def handles(x: jax.Array, other: jax.Array) -> bool:
    """Whether the two operands are of a dtype that these functions take."""
    return x.dtype == other.dtype and x.dtype in (jnp.float32, jnp.bfloat16)


def conv_forward(x: jax.Array, kernel: jax.Array, spec: ConvSpec) -> jax.Array:
    """The convolution.

    Args:
        x: Images, `[N, H, W, C]`.
        kernel: `[h, w, C, F]`, or `[h, w, 1, C]` if depthwise.
        spec: The convolution.

    Returns:
        `[N, H', W', F]`, of the dtype of `x`.
    """
    name = _plan(x.shape[0], x.shape[3], kernel.shape[3], spec).forward
    # Rows `WITHOUT_ONEDNN` of the table lead to XLA's algorithms, here and in both gradients.
    if name in xla.FORWARD:
        return xla.conv_forward(x, kernel, spec)
    return FORWARD[name](x, kernel, spec)


def conv_input_grad(dy: jax.Array, kernel: jax.Array, spec: ConvSpec) -> jax.Array:
    """The gradient of `conv_forward` with respect to the images.

    Args:
        dy: Gradient of the convolution, `[N, H', W', F]`.
        kernel: As in `conv_forward`.
        spec: As in `conv_forward`.

    Returns:
        `[N, H, W, C]`, of the dtype of `dy`.
    """
    name = _plan(dy.shape[0], kernel.shape[2], kernel.shape[3], spec).input_grad
    if name in xla.INPUT_GRAD:
        return xla.conv_input_grad(dy, kernel, spec)
    return INPUT_GRAD[name](dy, kernel, spec)


def conv_kernel_grad(x: jax.Array, dy: jax.Array, spec: ConvSpec) -> jax.Array:
    """The gradient of `conv_forward` with respect to the kernel.

    Args:
        x: Images, `[N, H, W, C]`.
        dy: Gradient of the convolution, `[N, H', W', F]`.
        spec: As in `conv_forward`.

    Returns:
        `[h, w, C, F]`, or `[h, w, 1, C]` if depthwise, of the dtype of `x`.
    """
    name = _plan(x.shape[0], x.shape[3], dy.shape[3], spec).kernel_grad
    if name in xla.KERNEL_GRAD:
        return xla.conv_kernel_grad(x, dy, spec)
    return KERNEL_GRAD[name](x, dy, spec).astype(x.dtype)


def conv_vjp(x: jax.Array, kernel: jax.Array, dy: jax.Array, spec: ConvSpec) -> list[jax.Array]:
    """Both gradients; neither is used before the other is computed (see `derivatives.py`).

    Args:
        x: Images, `[N, H, W, C]`.
        kernel: As in `conv_forward`.
        dy: Gradient of the convolution, `[N, H', W', F]`.
        spec: As in `conv_forward`.

    Returns:
        The gradients with respect to `x` and `kernel`.
    """
    if _plan(x.shape[0], kernel.shape[2], kernel.shape[3], spec).is_joint:
        return list(stride1.conv_vjp(x, kernel, dy, spec, MATMULS)[:2])
    dx = conv_input_grad(dy, kernel, spec)
    return lax.optimization_barrier([dx, conv_kernel_grad(x, dy, spec)])


def _plan(batch: int, channels: int, features: int, spec: ConvSpec) -> Plan:
    return select(spec, batch, channels, features, "onednn")


def _direct(
    x: jax.Array, kernel: jax.Array, spec: ConvSpec, is_transposed: bool = False
) -> jax.Array:
    """Calls oneDNN's convolution; `is_transposed` as in `onednn_calls.convolution`."""
    weights = kernel.astype(jnp.float32)
    images, padding = cropped(x.astype(jnp.float32), spec.padding)
    window = Window(spec.strides, padding, spec.output_size)
    # Images go in cropped: padding here is never negative (see `spec.cropped`).
    groups = x.shape[3] if spec.depthwise else 1
    y = onednn_calls.convolution(
        images, weights, window, groups=groups, is_transposed=is_transposed
    )
    return y.astype(x.dtype)


def _pointwise(x: jax.Array, kernel: jax.Array, spec: ConvSpec) -> jax.Array:
    images, weights = x.astype(jnp.float32), kernel.astype(jnp.float32)
    y = pointwise.conv_forward(images, weights, spec.strides, onednn_calls.matmul)
    return y.astype(x.dtype)


def _winograd(x: jax.Array, kernel: jax.Array, spec: ConvSpec) -> jax.Array:
    return stride1.conv_forward(x, kernel, spec, MATMULS)


def _output_columns(x: jax.Array, kernel: jax.Array, spec: ConvSpec) -> jax.Array:
    """The convolution with few features, of several columns at a time as one of more features.

    The kernel holds a shifted copy for each of these columns, and its stride is their number.
    """
    features = kernel.shape[3]
    # As many columns as fill a vector with their features. Copy v begins v columns later:
    # [h, w + block - 1, C, block F] in the end.
    block = VECTOR // features
    copies = [jnp.pad(kernel, ((0, 0), (v, block - 1 - v), (0, 0), (0, 0))) for v in range(block)]
    height, width = spec.output_size
    columns = -(-width // block)
    images, (rows, (low, high)) = cropped(x.astype(jnp.float32), spec.padding)
    # The last block is computed whole; its surplus columns are cut off.
    padding = (rows, (low, high + columns * block - width))
    window = Window((1, block), padding, (height, columns))
    weights = jnp.concatenate(copies, 3).astype(jnp.float32)
    y = onednn_calls.convolution(images, weights, window)
    return y.reshape(*y.shape[:2], -1, features)[:, :, :width].astype(x.dtype)


def _pointwise_input_grad(dy: jax.Array, kernel: jax.Array, spec: ConvSpec) -> jax.Array:
    return pointwise.conv_input_grad(dy, kernel, spec, onednn_calls.matmul)


def _winograd_input_grad(dy: jax.Array, kernel: jax.Array, spec: ConvSpec) -> jax.Array:
    return stride1.conv_input_grad(dy, kernel, spec, MATMULS)


def _output_columns_input_grad(dy: jax.Array, kernel: jax.Array, spec: ConvSpec) -> jax.Array:
    flipped = jnp.flip(kernel, (0, 1)).swapaxes(2, 3)
    return _output_columns(dy, flipped, spec.reversed())


def _reversed(dy: jax.Array, kernel: jax.Array, spec: ConvSpec) -> jax.Array:
    # The last two axes are exchanged by name, in oneDNN's description of the kernel, not in memory.
    flipped = jnp.flip(kernel, (0, 1))
    return _direct(dy, flipped, spec.reversed(), is_transposed=not spec.depthwise)


def _phases(dy: jax.Array, kernel: jax.Array, spec: ConvSpec) -> jax.Array:
    def convolve(dy: jax.Array, part: jax.Array, back: ConvSpec) -> jax.Array:
        # From F channels of the gradient to C: `part` is still [h, w, C, F].
        name = select_phase(back, dy.shape[0], dy.shape[3], part.shape[2], "onednn")
        if name == "onednn.winograd":
            return _winograd(dy, part.swapaxes(2, 3), back)
        return _direct(dy, part, back, is_transposed=not spec.depthwise)

    return phases.conv_input_grad(convolve, dy, kernel, spec)


def _winograd_kernel_grad(x: jax.Array, dy: jax.Array, spec: ConvSpec) -> jax.Array:
    return stride1.conv_kernel_grad(x, dy, spec, MATMULS)


def _winograd_stride2_kernel_grad(x: jax.Array, dy: jax.Array, spec: ConvSpec) -> jax.Array:
    return stride2.conv_kernel_grad(x, dy, spec, MATMULS)


# Under the names of `select.TABLE`.
FORWARD: dict[str, Algorithm] = {
    "onednn.pointwise": _pointwise,
    "onednn.output_columns": _output_columns,
    "onednn.winograd": _winograd,
    "onednn.direct": _direct,
}
INPUT_GRAD: dict[str, Algorithm] = {
    "onednn.pointwise": _pointwise_input_grad,
    "onednn.output_columns": _output_columns_input_grad,
    "onednn.winograd": _winograd_input_grad,
    "onednn.reversed": _reversed,
    "onednn.phases": _phases,
}
KERNEL_GRAD: dict[str, Algorithm] = {
    "onednn.pointwise": onednn_kernel_grad.pointwise_matmul,
    "onednn.depthwise_as_conv": onednn_kernel_grad.depthwise_as_conv,
    "onednn.winograd": _winograd_kernel_grad,
    "onednn.winograd_stride2": _winograd_stride2_kernel_grad,
    "onednn.as_conv": onednn_kernel_grad.as_conv,
    "onednn.shifts": onednn_kernel_grad.shifts,
    "onednn.im2col": onednn_kernel_grad.patches,
}
