"""The convolution and its two gradients on the CPU in XLA's own operations.

Four functions (`conv_forward`, `conv_input_grad`, `conv_kernel_grad`, `conv_vjp`) ask the table in
`select.py` and call the algorithm that it names; the algorithms are below them. All take the images
in chunks where intermediates would otherwise leave the cache, and compute in float32 or better:
CPUs of this class have no bfloat16 arithmetic.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from jaxcnn.ops.chunks import chunk_size, map_chunks, sum_chunks
from jaxcnn.ops.conv import depthwise, im2col, kernel_grad_as_conv, phases, pointwise
from jaxcnn.ops.conv.column_packing import ColumnPacking
from jaxcnn.ops.conv.select import Plan, select, select_phase
from jaxcnn.ops.spec import ConvSpec, cropped
from jaxcnn.ops.winograd import stride1, stride2

Algorithm = Callable[[jax.Array, jax.Array, ConvSpec, int], jax.Array]


def conv_forward(x: jax.Array, kernel: jax.Array, spec: ConvSpec, shards: int = 1) -> jax.Array:
    """The convolution.

    Args:
        x: Images, `[N, H, W, C]`.
        kernel: `[h, w, C, F]`, or `[h, w, 1, C]` if depthwise.
        spec: The convolution.
        shards: Devices over which the batch may be sharded.

    Returns:
        `[N, H', W', F]`, of the dtype of `x`.
    """
    plan = _plan(x.shape[0], x.shape[3], kernel.shape[3], spec, shards)
    return FORWARD[plan.forward](x, kernel, spec, shards)


def conv_input_grad(dy: jax.Array, kernel: jax.Array, spec: ConvSpec, shards: int = 1) -> jax.Array:
    """The gradient of `conv_forward` with respect to the images.

    Args:
        dy: Gradient of the convolution, `[N, H', W', F]`.
        kernel: As in `conv_forward`.
        spec: As in `conv_forward`.
        shards: As in `conv_forward`.

    Returns:
        `[N, H, W, C]`, of the dtype of `dy`.
    """
    plan = _plan(dy.shape[0], kernel.shape[2], kernel.shape[3], spec, shards)
    return INPUT_GRAD[plan.input_grad](dy, kernel, spec, shards)


def conv_kernel_grad(x: jax.Array, dy: jax.Array, spec: ConvSpec, shards: int = 1) -> jax.Array:
    """The gradient of `conv_forward` with respect to the kernel.

    Args:
        x: Images, `[N, H, W, C]`.
        dy: Gradient of the convolution, `[N, H', W', F]`.
        spec: As in `conv_forward`.
        shards: As in `conv_forward`.

    Returns:
        `[h, w, C, F]`, or `[h, w, 1, C]` if depthwise, of the dtype of `x`.
    """
    plan = _plan(x.shape[0], x.shape[3], dy.shape[3], spec, shards)
    return KERNEL_GRAD[plan.kernel_grad](x, dy, spec, shards).astype(x.dtype)


def conv_vjp(
    x: jax.Array, kernel: jax.Array, dy: jax.Array, spec: ConvSpec, shards: int = 1
) -> list[jax.Array]:
    """Both gradients; neither is used before the other is computed (see `derivatives.py`).

    Args:
        x: Images, `[N, H, W, C]`.
        kernel: As in `conv_forward`.
        dy: Gradient of the convolution, `[N, H', W', F]`.
        spec: As in `conv_forward`.
        shards: As in `conv_forward`.

    Returns:
        The gradients with respect to `x` and `kernel`.
    """
    plan = _plan(x.shape[0], kernel.shape[2], kernel.shape[3], spec, shards)
    if plan.is_joint:
        return list(stride1.conv_vjp(x, kernel, dy, spec, MATMULS, shards)[:2])
    dx = conv_input_grad(dy, kernel, spec, shards)
    return lax.optimization_barrier([dx, conv_kernel_grad(x, dy, spec, shards)])


def _plan(batch: int, channels: int, features: int, spec: ConvSpec, shards: int) -> Plan:
    # Per device: a small share of a batch may not pay for transforming the kernel.
    return select(spec, max(1, batch // shards), channels, features, "xla")


def _compute_dtype(x: jax.Array) -> jnp.dtype:
    return jnp.promote_types(x.dtype, jnp.float32)


def _matmul_nt(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.matmul(a, b.swapaxes(-1, -2))


def _matmul_tn(a: jax.Array, b: jax.Array) -> jax.Array:
    # Transposed before the product: Eigen is slow with a transposed left operand.
    return jnp.matmul(lax.optimization_barrier(a.swapaxes(-1, -2)), b)


MATMULS = stride1.Matmuls(jnp.matmul, _matmul_nt, _matmul_tn)


def _direct(x: jax.Array, kernel: jax.Array, spec: ConvSpec, shards: int) -> jax.Array:
    dtype = _compute_dtype(x)
    weights = kernel.astype(dtype)
    images, padding = cropped(x.astype(dtype), spec.padding)
    layout = ("NHWC", "HWIO", "NHWC")
    y = lax.conv_general_dilated(images, weights, spec.strides, padding, dimension_numbers=layout)
    return y.astype(x.dtype)


def _depthwise(x: jax.Array, kernel: jax.Array, spec: ConvSpec, shards: int) -> jax.Array:
    dtype = _compute_dtype(x)
    weights = kernel.astype(dtype)

    def of_chunk(x: jax.Array) -> jax.Array:
        y = depthwise.conv_forward(
            x.astype(dtype), weights, spec.strides, spec.padding, spec.output_size
        )
        return y.astype(x.dtype)

    return map_chunks(of_chunk, (x,), _images_in_depthwise_chunk(x, shards), shards)


def _images_in_depthwise_chunk(x: jax.Array, shards: int) -> int:
    # Images and results.
    return chunk_size(max(1, x.shape[0] // shards), 2 * x[0].size * _compute_dtype(x).itemsize)


def _pointwise(x: jax.Array, kernel: jax.Array, spec: ConvSpec, shards: int) -> jax.Array:
    dtype = _compute_dtype(x)
    weights = kernel.astype(dtype)
    y = pointwise.conv_forward(x.astype(dtype), weights, spec.strides)
    return y.astype(x.dtype)


def _winograd(x: jax.Array, kernel: jax.Array, spec: ConvSpec, shards: int) -> jax.Array:
    return stride1.conv_forward(x, kernel, spec, MATMULS, shards)


def _column_packing(x: jax.Array, kernel: jax.Array, spec: ConvSpec, shards: int) -> jax.Array:
    packing = ColumnPacking(spec)
    images, packed_kernel = packing.pack_images(x), packing.pack_kernel(kernel)
    # The table is asked again: packed, the convolution has other channels and features.
    return packing.unpack_output(conv_forward(images, packed_kernel, packing.spec, shards))


def _winograd_input_grad(
    dy: jax.Array, kernel: jax.Array, spec: ConvSpec, shards: int
) -> jax.Array:
    return stride1.conv_input_grad(dy, kernel, spec, MATMULS, shards)


def _reversed(dy: jax.Array, kernel: jax.Array, spec: ConvSpec, shards: int) -> jax.Array:
    flipped = _from_outputs_to_inputs(jnp.flip(kernel, (0, 1)), spec)
    return conv_forward(dy, flipped, spec.reversed(), shards)


def _from_outputs_to_inputs(kernel: jax.Array, spec: ConvSpec) -> jax.Array:
    return kernel if spec.depthwise else kernel.swapaxes(2, 3)


def _pointwise_input_grad(
    dy: jax.Array, kernel: jax.Array, spec: ConvSpec, shards: int
) -> jax.Array:
    return pointwise.conv_input_grad(dy, kernel, spec)


def _phases(dy: jax.Array, kernel: jax.Array, spec: ConvSpec, shards: int) -> jax.Array:
    batch = max(1, dy.shape[0] // shards)

    def convolve(dy: jax.Array, part: jax.Array, back: ConvSpec) -> jax.Array:
        # A convolution from the F features of the gradient to the C channels of the images.
        part = _from_outputs_to_inputs(part, back)
        name = select_phase(back, batch, dy.shape[3], part.shape[3], "xla")
        return FORWARD[name](dy, part, back, shards)

    return phases.conv_input_grad(convolve, dy, kernel, spec)


def _depthwise_kernel_grad(x: jax.Array, dy: jax.Array, spec: ConvSpec, shards: int) -> jax.Array:
    dtype = _compute_dtype(x)
    gradient = sum_chunks(
        lambda x, dy: depthwise.conv_kernel_grad(
            x.astype(dtype), dy.astype(dtype), spec.kernel_size, spec.strides, spec.padding
        ),
        (x, dy),
        _images_in_depthwise_chunk(x, shards),
        shards,
    )
    return gradient.reshape(*spec.kernel_size, 1, dy.shape[3])


def _pointwise_kernel_grad(x: jax.Array, dy: jax.Array, spec: ConvSpec, shards: int) -> jax.Array:
    dtype = _compute_dtype(x)
    return pointwise.conv_kernel_grad(x.astype(dtype), dy.astype(dtype), spec.strides)


def _winograd_kernel_grad(x: jax.Array, dy: jax.Array, spec: ConvSpec, shards: int) -> jax.Array:
    return stride1.conv_kernel_grad(x, dy, spec, MATMULS, shards)


def _winograd_stride2_kernel_grad(
    x: jax.Array, dy: jax.Array, spec: ConvSpec, shards: int
) -> jax.Array:
    return stride2.conv_kernel_grad(x, dy, spec, MATMULS, shards)


def _column_packing_kernel_grad(
    x: jax.Array, dy: jax.Array, spec: ConvSpec, shards: int
) -> jax.Array:
    packing = ColumnPacking(spec)
    images, packed_dy = packing.pack_images(x), packing.pack_output_grad(dy)
    gradient = conv_kernel_grad(images, packed_dy, packing.spec, shards)
    return packing.unpack_kernel_grad(gradient, x.shape[3], dy.shape[3])


def _as_conv(x: jax.Array, dy: jax.Array, spec: ConvSpec, shards: int) -> jax.Array:
    dtype = _compute_dtype(x)
    images, padding = cropped(x.astype(dtype), spec.padding)
    return kernel_grad_as_conv.conv_kernel_grad(images, dy.astype(dtype), padding)


def _as_conv_reversed(x: jax.Array, dy: jax.Array, spec: ConvSpec, shards: int) -> jax.Array:
    # The same sums, x and dy exchanged: the gradient of the kernel of `spec.reversed()`, which is
    # flipped and [h, w, F, C].
    flipped = _as_conv(dy, x, spec.reversed(), shards)
    return jnp.flip(flipped, (0, 1)).swapaxes(2, 3)


def _im2col(x: jax.Array, dy: jax.Array, spec: ConvSpec, shards: int) -> jax.Array:
    dtype, (height, width) = _compute_dtype(x), spec.output_size
    patch = spec.kernel_size[0] * spec.kernel_size[1] * x.shape[3]
    image_bytes = height * width * patch * dtype.itemsize
    gradient = sum_chunks(
        lambda x, dy: im2col.conv_kernel_grad(
            x.astype(dtype), dy.astype(dtype), spec.kernel_size, spec.strides, spec.padding
        ),
        (x, dy),
        chunk_size(max(1, x.shape[0] // shards), image_bytes),
        shards,
    )
    return gradient.reshape(*spec.kernel_size, x.shape[3], dy.shape[3])


# Under the names of `select.TABLE`.
FORWARD: dict[str, Algorithm] = {
    "xla.depthwise": _depthwise,
    "xla.pointwise": _pointwise,
    "xla.winograd": _winograd,
    "xla.column_packing": _column_packing,
    "xla.direct": _direct,
}
INPUT_GRAD: dict[str, Algorithm] = {
    "xla.winograd": _winograd_input_grad,
    "xla.reversed": _reversed,
    "xla.pointwise": _pointwise_input_grad,
    "xla.phases": _phases,
}
KERNEL_GRAD: dict[str, Algorithm] = {
    "xla.depthwise": _depthwise_kernel_grad,
    "xla.pointwise": _pointwise_kernel_grad,
    "xla.winograd": _winograd_kernel_grad,
    "xla.winograd_stride2": _winograd_stride2_kernel_grad,
    "xla.column_packing": _column_packing_kernel_grad,
    "xla.as_conv": _as_conv,
    "xla.as_conv_reversed": _as_conv_reversed,
    "xla.im2col": _im2col,
}
