"""How the convolution and its two gradients are computed where oneDNN can be called, by shape.

The same three functions as in `algorithms`, in float32 or bfloat16, computed in float32. Times here
are of batch 128 on 2 cores of an EPYC with AVX-512, jax 0.10.2, medians of 9 to 15, interleaved.

Where Winograd's algorithm applies, oneDNN computes its products. At the shapes of ResNet-18 that
takes half as long as oneDNN's convolution: 32x32, 64 channels 31 and 44 ms forward, 38 and 66 for
the gradient of the kernel; 16x16, 128: 19 and 40, 24 and 57; 8x8, 256: 18 and 37, 20 and 61; 4x4,
512: 19 and 32, 20 and 73.
"""

import jax
import jax.numpy as jnp
from jax import lax

from jaxcnn.ops import onednn_calls
from jaxcnn.ops.chunks import CHUNK_BYTES, chunk_size, sum_chunks
from jaxcnn.ops.conv import im2col, kernel_grad_as_conv, pointwise, xla
from jaxcnn.ops.spec import ConvSpec, Pads, cropped, height_width
from jaxcnn.ops.winograd import stride1

# From so many channels on, shifts are quicker than patches where Winograd does not apply. 32x32, 64
# features: 3 channels 8.8 and 6.3 ms, 64 channels 48 and 62.
_SHIFTED_CHANNELS = 8

# Features that fill one of the widest vectors.
_VECTOR = 16

PRODUCTS = stride1.Products(
    onednn_calls.product, onednn_calls.exchanged_product, onednn_calls.transposed_product
)


def handles(x: jax.Array, kernel_like: jax.Array) -> bool:
    """Whether the operands are of a dtype that these functions take."""
    return x.dtype == kernel_like.dtype and x.dtype in (jnp.float32, jnp.bfloat16)


def forward(x: jax.Array, kernel: jax.Array, spec: ConvSpec) -> jax.Array:
    """The convolution of `[N, H, W, C]` with `[h, w, C, F]` (depthwise: `[h, w, 1, C]`)."""
    if _is_left(x.shape[3], kernel.shape[3], spec):
        return xla.forward(x, kernel, spec)
    if pointwise.applies(spec):
        x_, weights = x.astype(jnp.float32), kernel.astype(jnp.float32)
        return pointwise.forward(x_, weights, spec.strides, onednn_calls.product).astype(x.dtype)
    if _has_few_features(spec, *kernel.shape[2:]):
        return _columns_together(x, kernel, spec)
    return _convolve(x, kernel, spec, is_exchanged=False)


def conv_input_grad(dy: jax.Array, kernel: jax.Array, spec: ConvSpec) -> jax.Array:
    """The gradient of `forward` with respect to x, `[N, H, W, C]`."""
    if _is_left(dy.shape[3], kernel.shape[2], spec):
        return xla.conv_input_grad(dy, kernel, spec)
    if pointwise.applies(spec):
        return pointwise.conv_input_grad(dy, kernel, spec, onednn_calls.product)
    if _has_few_features(spec, dy.shape[3], kernel.shape[2]):
        flipped = jnp.flip(kernel, (0, 1)).swapaxes(2, 3)
        return _columns_together(dy, flipped, spec.reversed())
    if xla.is_winograd_backwards(spec, dy.shape[0], *kernel.shape[2:]):
        return stride1.conv_input_grad(dy, kernel, spec, PRODUCTS)

    def backwards(dy: jax.Array, flipped: jax.Array, back: ConvSpec) -> jax.Array:
        return _convolve(dy, flipped, back, is_exchanged=not spec.depthwise)

    return xla.input_grad_by(backwards, dy, kernel, spec)


def _has_few_features(spec: ConvSpec, channels: int, features: int) -> bool:
    """Whether vectors would be filled badly, unless blocks of pixels are computed together."""
    return features < _VECTOR and xla.is_widened(spec, channels, features)


def _columns_together(x: jax.Array, kernel: jax.Array, spec: ConvSpec) -> jax.Array:
    """The convolution with few features, of several columns at a time as one of more features.

    The kernel holds a shifted copy for each of these columns, and its stride is their number.
    LeNet's first convolution: 1.3 ms, as it is 1.7; the gradient of its second's images: 1.0 and
    1.3. LeNet's step takes 0.90 times as long as with four columns of both sides as one pixel for
    the former and one product, added up, for the latter.
    """
    features = kernel.shape[3]
    block = _VECTOR // features
    copies = [jnp.pad(kernel, ((0, 0), (v, block - 1 - v), (0, 0), (0, 0))) for v in range(block)]
    height, width = spec.output_size
    columns = -(-width // block)
    images, (rows, (low, high)) = cropped(x.astype(jnp.float32), spec.padding)
    y = onednn_calls.convolution(
        images,
        jnp.concatenate(copies, 3).astype(jnp.float32),
        (1, block),
        (rows, (low, high + columns * block - width)),
        (height, columns),
    )
    return y.reshape(*y.shape[:2], -1, features)[:, :, :width].astype(x.dtype)


def _is_left(channels: int, features: int, spec: ConvSpec) -> bool:
    """Whether `algorithms` does it: single channels, of which oneDNN makes nonsense."""
    return not spec.depthwise and min(channels, features) == 1


def _convolve(x: jax.Array, kernel: jax.Array, spec: ConvSpec, is_exchanged: bool) -> jax.Array:
    weights, size = kernel.astype(jnp.float32), spec.output_size
    if xla.is_winograd(spec, x.shape[0], *kernel.shape[2:]):
        ordered = kernel.swapaxes(2, 3) if is_exchanged else kernel
        return stride1.forward(x, ordered, spec, PRODUCTS)
    images, padding = cropped(x.astype(jnp.float32), spec.padding)
    y = onednn_calls.convolution(
        images,
        weights,
        spec.strides,
        padding,
        size,
        groups=x.shape[3] if spec.depthwise else 1,
        is_exchanged=is_exchanged,
    )
    return y.astype(x.dtype)


def conv_kernel_grad(x: jax.Array, dy: jax.Array, spec: ConvSpec) -> jax.Array:
    """The gradient of `forward` with respect to the kernel, `[h, w, C, F]` (or `[h, w, 1, C]`)."""
    channels, features = x.shape[3], dy.shape[3]
    if _is_left(channels, features, spec) or _has_few_features(spec, channels, features):
        return xla.conv_kernel_grad(x, dy, spec)
    images, padding = cropped(x.astype(jnp.float32), spec.padding)
    arrays = (images, dy.astype(jnp.float32))
    if pointwise.applies(spec):
        multiply = onednn_calls.transposed_product
        return pointwise.conv_kernel_grad(*arrays, spec.strides, multiply).astype(x.dtype)
    if spec.depthwise:
        gradient = _depthwise(*arrays, spec, padding)
    elif xla.is_winograd_gradient(spec, x.shape[0], channels, features):
        gradient = xla.winograd_kernel_gradient(x, dy, spec, PRODUCTS)
    elif features == _VECTOR and xla.is_widened(spec, channels, features):
        # LeNet's second: 0.7 ms, as `algorithms` does it 1.2. With more features patches are
        # quicker: 32x32, 3 channels, 24 features 5.1 ms, so 7.9.
        gradient = kernel_grad_as_conv.conv_kernel_grad(*arrays, padding, _convolve_by_onednn)
    elif spec.strides == (1, 1) and channels >= _SHIFTED_CHANNELS:
        gradient = _by_shifts(*arrays, spec, padding)
    else:
        gradient = _by_patches(*arrays, spec, padding)
    return gradient.astype(x.dtype)


def gradients(x: jax.Array, kernel: jax.Array, dy: jax.Array, spec: ConvSpec) -> list[jax.Array]:
    """Both gradients; neither is used before the other is computed (see `joint`)."""
    if xla.is_winograd_jointly(spec, x.shape[0], *kernel.shape[2:]):
        return list(stride1.gradients(x, kernel, dy, spec, PRODUCTS)[:2])
    dx = conv_input_grad(dy, kernel, spec)
    return lax.optimization_barrier([dx, conv_kernel_grad(x, dy, spec)])


def _convolve_by_onednn(images: jax.Array, kernel: jax.Array, padding: Pads) -> jax.Array:
    size = tuple(
        n + sum(pads) - k + 1
        for n, pads, k in zip(images.shape[1:3], padding, kernel.shape[:2], strict=True)
    )
    return onednn_calls.convolution(images, kernel, (1, 1), padding, (size[0], size[1]))


def _by_patches(x: jax.Array, dy: jax.Array, spec: ConvSpec, padding: Pads) -> jax.Array:
    """One product of all patches of the images and `dy`, a few images at a time."""
    kernel_size, channels, features = spec.kernel_size, x.shape[3], dy.shape[3]
    size = height_width(dy)

    def part(x: jax.Array, dy: jax.Array) -> jax.Array:
        rows = im2col.patches(x, kernel_size, spec.strides, padding, size)
        rows = lax.optimization_barrier(rows).reshape(-1, rows.shape[3])
        return onednn_calls.transposed_product(rows, dy.reshape(-1, features))

    width = kernel_size[0] * kernel_size[1] * channels
    images = chunk_size(x.shape[0], 4 * size[0] * size[1] * width)
    return sum_chunks(part, (x, dy), images).reshape(*kernel_size, channels, features)


def _by_shifts(x: jax.Array, dy: jax.Array, spec: ConvSpec, padding: Pads) -> jax.Array:
    """One product of the images, shifted along the width, and `dy`, shifted along the height.

    That lays out three copies of each in place of nine of the images: 32x32, 64 channels 48 ms,
    patches 62.
    """
    height, width = spec.kernel_size
    channels, features = x.shape[3], dy.shape[3]
    columns, above = dy.shape[2], height - 1

    def part(x: jax.Array, dy: jax.Array) -> jax.Array:
        config = [(0, 0, 0), *((low, high, 0) for low, high in padding), (0, 0, 0)]
        padded = lax.pad(x, jnp.zeros((), x.dtype), config)
        rows = padded.shape[1]
        framed = jnp.pad(dy, ((0, 0), (above, above), (0, 0), (0, 0)))
        across = _side_by_side([padded[:, :, j : j + columns] for j in range(width)])
        down = _side_by_side([framed[:, above - i : above - i + rows] for i in range(height)])
        across, down = lax.optimization_barrier((across, down))
        return onednn_calls.transposed_product(
            across.reshape(-1, width * channels), down.reshape(-1, height * features)
        )

    row_bytes = 4 * columns * (width * channels + height * features)
    images = chunk_size(x.shape[0], (dy.shape[1] + above) * row_bytes)
    gradient = sum_chunks(part, (x, dy), images).reshape(width, channels, height, features)
    return gradient.transpose(2, 0, 1, 3)


def _side_by_side(parts: list[jax.Array]) -> jax.Array:
    """The parts, `[..., C]`, one after the other along the channels.

    Few channels are written one part after the other: 32x32, 16 channels 2.7 ms for the whole
    gradient, against 5.2; but 64 channels 63 against 49.
    """
    return jnp.concatenate(parts, -1) if parts[0].shape[3] < 32 else im2col.side_by_side(parts)


def _depthwise(x: jax.Array, dy: jax.Array, spec: ConvSpec, padding: Pads) -> jax.Array:
    """The gradient of a depthwise kernel, `[h, w, 1, C]`, as one depthwise convolution.

    The images, padded, stand below one another as one tall image; their gradients, with rows of
    zeros between, are a kernel as tall, dilated by the strides. What is left to slide over are the
    positions of the kernel. 16x16, 32 channels: 1.3 ms, nine sums of products 8.9.
    """
    height, width, channels = dy.shape[1:]
    (stride, across), kernel_size = spec.strides, spec.kernel_size
    rows = -(-((height - 1) * stride + kernel_size[0]) // stride)  # Of dy, for one image.
    columns = (width - 1) * across + kernel_size[1]
    (top, _), (left, _) = padding
    below, right = rows * stride - x.shape[1] - top, columns - x.shape[2] - left

    def part(x: jax.Array, dy: jax.Array) -> jax.Array:
        zero = jnp.zeros((), x.dtype)
        tall = lax.pad(x, zero, [(0, 0, 0), (top, below, 0), (left, right, 0), (0, 0, 0)])
        kernel = lax.pad(dy, zero, [(0, 0, 0), (0, rows - height, 0), (0, 0, 0), (0, 0, 0)])
        tall, kernel = lax.optimization_barrier((tall, kernel))
        # Rows of zeros behind the last image meet rows of zeros: nothing is cut off, or copied.
        behind = max(0, kernel_size[0] - stride)
        gradient = onednn_calls.convolution(
            tall.reshape(1, -1, columns, channels),
            kernel.reshape(-1, width, 1, channels),
            (1, 1),
            ((0, behind), (0, 0)),
            (stride + behind, kernel_size[1]),
            groups=channels,
            dilation=spec.strides,
        )
        return gradient[0, : kernel_size[0], :, None]

    images = chunk_size(x.shape[0], 4 * rows * stride * columns * channels, CHUNK_BYTES // 2)
    return sum_chunks(part, (x, dy), images)
