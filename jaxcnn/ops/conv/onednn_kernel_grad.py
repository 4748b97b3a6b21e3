"""The gradient of a convolution's kernel by oneDNN, other than by Winograd's algorithm.

Every function takes images `[N, H, W, C]`, the gradient of the convolution `[N, H', W', F]` and the
convolution, and returns the float32 gradient of its kernel, `[h, w, C, F]`, or `[h, w, 1, C]` if
depthwise.
"""

import jax
import jax.numpy as jnp
from jax import lax

from jaxcnn.ops import onednn_calls
from jaxcnn.ops.chunks import CHUNK_BYTES, chunk_size, sum_chunks
from jaxcnn.ops.conv import im2col, kernel_grad_as_conv, pointwise
from jaxcnn.ops.onednn_calls import Window
from jaxcnn.ops.spec import ConvSpec, Pads, cropped, height_width

# Fewer channels than this are concatenated: a loop that pads and adds them is slower.
_CONCATENATED_CHANNELS = 32


def pointwise_matmul(x: jax.Array, dy: jax.Array, spec: ConvSpec) -> jax.Array:
    """One matrix product, of a 1x1 convolution."""
    images, dy, _ = _float32(x, dy, spec)
    return pointwise.conv_kernel_grad(images, dy, spec.strides, onednn_calls.matmul_tn)


def as_conv(x: jax.Array, dy: jax.Array, spec: ConvSpec) -> jax.Array:
    """One convolution with batch and channels exchanged; see `kernel_grad_as_conv`."""
    images, dy, padding = _float32(x, dy, spec)
    return kernel_grad_as_conv.conv_kernel_grad(images, dy, padding, _convolve)


def _float32(x: jax.Array, dy: jax.Array, spec: ConvSpec) -> tuple[jax.Array, jax.Array, Pads]:
    """Both arrays in float32, and the padding that is left, none of it negative."""
    images, padding = cropped(x.astype(jnp.float32), spec.padding)
    return images, dy.astype(jnp.float32), padding


def _convolve(images: jax.Array, kernel: jax.Array, padding: Pads) -> jax.Array:
    size = tuple(
        n + sum(pads) - k + 1
        for n, pads, k in zip(images.shape[1:3], padding, kernel.shape[:2], strict=True)
    )
    return onednn_calls.convolution(images, kernel, Window((1, 1), padding, (size[0], size[1])))


def patches(x: jax.Array, dy: jax.Array, spec: ConvSpec) -> jax.Array:
    """One product of all patches of the images and `dy`, a few images at a time (im2col)."""
    x, dy, padding = _float32(x, dy, spec)
    kernel_size, channels, features = spec.kernel_size, x.shape[3], dy.shape[3]
    size = height_width(dy)

    def of_chunk(x: jax.Array, dy: jax.Array) -> jax.Array:
        # [n, H', W', h w C], written to memory as a whole: oneDNN's call cannot compute it.
        rows = im2col.patches(x, kernel_size, spec.strides, padding, size)
        rows = lax.optimization_barrier(rows).reshape(-1, rows.shape[3])
        return onednn_calls.matmul_tn(rows, dy.reshape(-1, features))

    width = kernel_size[0] * kernel_size[1] * channels
    images = chunk_size(x.shape[0], 4 * size[0] * size[1] * width)
    return sum_chunks(of_chunk, (x, dy), images).reshape(*kernel_size, channels, features)


def shifts(x: jax.Array, dy: jax.Array, spec: ConvSpec) -> jax.Array:
    """One product of the images, shifted along the width, and `dy`, shifted along the height.

    For a 3x3 kernel that lays out three copies of each instead of nine of the images.
    """
    x, dy, padding = _float32(x, dy, spec)
    height, width = spec.kernel_size
    channels, features = x.shape[3], dy.shape[3]
    columns, above = dy.shape[2], height - 1

    def of_chunk(x: jax.Array, dy: jax.Array) -> jax.Array:
        # At position (i, j) the gradient is the sum over rows r of the padded images and columns s
        # of dy of x[r, s + j] dy[r - i, s]^T: j shifts x alone, i dy alone.
        config = [(0, 0, 0), *((low, high, 0) for low, high in padding), (0, 0, 0)]
        padded = lax.pad(x, jnp.zeros((), x.dtype), config)
        rows = padded.shape[1]
        # Rows of zeros above and below, as r - i leaves dy on both sides.
        framed = jnp.pad(dy, ((0, 0), (above, above), (0, 0), (0, 0)))
        across = _side_by_side([padded[:, :, j : j + columns] for j in range(width)])
        down = _side_by_side([framed[:, above - i : above - i + rows] for i in range(height)])
        across, down = lax.optimization_barrier((across, down))
        return onednn_calls.matmul_tn(
            across.reshape(-1, width * channels), down.reshape(-1, height * features)
        )

    row_bytes = 4 * columns * (width * channels + height * features)
    images = chunk_size(x.shape[0], (dy.shape[1] + above) * row_bytes)
    # [w C, h F]: every shift of one meets every shift of the other.
    gradient = sum_chunks(of_chunk, (x, dy), images).reshape(width, channels, height, features)
    return gradient.transpose(2, 0, 1, 3)


def _side_by_side(parts: list[jax.Array]) -> jax.Array:
    """The parts, `[..., C]`, one after the other along the channels."""
    if parts[0].shape[3] < _CONCATENATED_CHANNELS:
        return jnp.concatenate(parts, -1)
    return im2col.side_by_side(parts)


def depthwise_as_conv(x: jax.Array, dy: jax.Array, spec: ConvSpec) -> jax.Array:
    """The gradient of a depthwise kernel as one depthwise convolution.

    The images, padded, stand below one another as one tall image; their gradients, with rows of
    zeros between, are a kernel as tall, dilated by the strides. What is left to slide over are the
    positions of the kernel.
    """
    x, dy, padding = _float32(x, dy, spec)
    height, width, channels = dy.shape[1:]
    (stride, across), kernel_size = spec.strides, spec.kernel_size
    # So many rows of dy for an image that, dilated, they are as tall as what the image's windows
    # read: then row r of dy for image b begins at the pixel that it belongs to, in every image.
    rows = -(-((height - 1) * stride + kernel_size[0]) // stride)  # Of dy, for one image.
    columns = (width - 1) * across + kernel_size[1]
    (top, _), (left, _) = padding
    # Negative where the stride leaves a rest: then the image is cropped.
    below, right = rows * stride - x.shape[1] - top, columns - x.shape[2] - left

    def of_chunk(x: jax.Array, dy: jax.Array) -> jax.Array:
        zero = jnp.zeros((), x.dtype)
        tall = lax.pad(x, zero, [(0, 0, 0), (top, below, 0), (left, right, 0), (0, 0, 0)])
        kernel = lax.pad(dy, zero, [(0, 0, 0), (0, rows - height, 0), (0, 0, 0), (0, 0, 0)])
        tall, kernel = lax.optimization_barrier((tall, kernel))
        # Rows of zeros behind the last image meet rows of zeros: nothing is cut off, or copied.
        behind = max(0, kernel_size[0] - stride)
        gradient = onednn_calls.convolution(
            tall.reshape(1, -1, columns, channels),
            kernel.reshape(-1, width, 1, channels),
            Window((1, 1), ((0, behind), (0, 0)), (stride + behind, kernel_size[1]), spec.strides),
            groups=channels,
        )
        # A stride larger than the kernel leaves positions that the kernel does not have.
        return gradient[0, : kernel_size[0], :, None]

    images = chunk_size(x.shape[0], 4 * rows * stride * columns * channels, CHUNK_BYTES // 2)
    return sum_chunks(of_chunk, (x, dy), images)
