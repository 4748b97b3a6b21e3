"""Which algorithm computes a convolution and its two gradients on the CPU, by shape."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from jaxcnn.ops.chunks import chunk_size, map_chunks, sum_chunks
from jaxcnn.ops.conv import depthwise, im2col, kernel_grad_as_conv, pointwise
from jaxcnn.ops.conv.column_packing import Widening
from jaxcnn.ops.spec import ConvSpec, cropped, height_width
from jaxcnn.ops.winograd import stride1, stride2

# Below these many channels on either side, Winograd's products are too thin to pay for the
# transforms. Forward, Winograd's against XLA's own convolution: 32x32, 64 channels 41 and 57 ms;
# 16x16, 128: 21 and 49; 8x8, 256: 19 and 48; 4x4, 512: 22 and 47; but 32x32, 32: 16 and 15.
# Gradient of the kernel, against `exchanged`: 55 and 78; 28 and 55; 24 and 52; 21 and 49; and with
# 32 channels 24 and 31. (Batch 128, 2 cores of an EPYC with AVX-512, jax 0.10.2, medians of 9,
# interleaved.)
WINOGRAD_CHANNELS = 64
WINOGRAD_GRADIENT_CHANNELS = 32

_WIDENED_CHANNELS = 100


def _compute_dtype(x: jax.Array) -> jnp.dtype:
    """bfloat16 is computed in float32: CPUs of this class have no bfloat16 arithmetic."""
    return jnp.promote_types(x.dtype, jnp.float32)


def is_widened(spec: ConvSpec, channels: int, features: int) -> bool:
    """Whether there are so few channels that blocks of pixels should be computed together.

    LeNet's first convolution, 3 -> 6 channels, took 12.3 of a training step's 24 ms without.
    """
    spatial = spec.strides == (1, 1) and spec.kernel_size[1] > 1
    return spatial and not spec.depthwise and channels * features <= _WIDENED_CHANNELS


def is_winograd(spec: ConvSpec, batch: int, channels: int, features: int) -> bool:
    """Whether the convolution is Winograd's."""
    unit, fewest = spec.strides == (1, 1), min(channels, features)
    return unit and fewest >= WINOGRAD_CHANNELS and stride1.is_profitable(spec, batch)


def is_winograd_backwards(spec: ConvSpec, batch: int, channels: int, features: int) -> bool:
    """Whether the gradient with respect to the images is Winograd's."""
    unit = spec.strides == (1, 1)
    return unit and is_winograd(spec.reversed(), batch, channels, features)


def is_winograd_gradient(spec: ConvSpec, batch: int, channels: int, features: int) -> bool:
    """Whether the gradient with respect to the kernel is Winograd's."""
    pays = stride1.is_profitable(spec, batch) or stride2.is_profitable(spec, batch)
    return min(channels, features) >= WINOGRAD_GRADIENT_CHANNELS and pays


def is_winograd_jointly(spec: ConvSpec, batch: int, channels: int, features: int) -> bool:
    """Whether both gradients are Winograd's, and so computed together."""
    shape = (spec, batch, channels, features)
    return is_winograd_backwards(*shape) and is_winograd_gradient(*shape)


def _exchanged_product(a: jax.Array, b: jax.Array) -> jax.Array:
    """Products a b^T: `[..., P, F]` and `[..., C, F]` to `[..., P, C]`."""
    return jnp.matmul(a, b.swapaxes(-1, -2))


def _transposed_product(a: jax.Array, b: jax.Array) -> jax.Array:
    """The sum over pixels of a b^T: `[..., P, C]` and `[..., P, F]` to `[..., C, F]`."""
    # Transposed before the product: Eigen is slow where the left operand is (94 ms against 104).
    return jnp.matmul(lax.optimization_barrier(a.swapaxes(-1, -2)), b)


def winograd_kernel_gradient(
    x: jax.Array,
    dy: jax.Array,
    spec: ConvSpec,
    products: stride1.Products,
    shards: int = 1,
) -> jax.Array:
    """`conv_kernel_grad` where it `is_winograd_gradient`, in float32 or better."""
    by_stride = stride2 if spec.strides == (2, 2) else stride1
    return by_stride.conv_kernel_grad(x, dy, spec, products, shards)


PRODUCTS = stride1.Products(jnp.matmul, _exchanged_product, _transposed_product)


def forward(x: jax.Array, kernel: jax.Array, spec: ConvSpec, shards: int = 1) -> jax.Array:
    """The convolution of `[N, H, W, C]` with `[h, w, C, F]` (depthwise: `[h, w, 1, C]`)."""
    dtype = _compute_dtype(x)
    weights = kernel.astype(dtype)
    strides, padding, size = spec.strides, spec.padding, spec.output_size
    channels, features = x.shape[3], kernel.shape[3]
    batch = max(1, x.shape[0] // shards)
    if spec.depthwise:
        images = chunk_size(batch, 2 * x[0].size * dtype.itemsize)
        return map_chunks(
            lambda c: depthwise.forward(c.astype(dtype), weights, strides, padding, size).astype(
                x.dtype
            ),
            (x,),
            images,
            shards,
        )
    if pointwise.applies(spec):
        return pointwise.forward(x.astype(dtype), weights, strides).astype(x.dtype)
    if is_winograd(spec, batch, channels, features):
        return stride1.forward(x, kernel, spec, PRODUCTS, shards)
    if is_widened(spec, channels, features):
        wide = Widening(spec)
        return wide.output(forward(wide.images(x), wide.kernel(kernel), wide.spec, shards))
    # XLA's forward convolution is a good one, as long as nothing is dilated, reversed or
    # transposed; what is slow is how it differentiates it.
    x_, padding = cropped(x.astype(dtype), padding)
    y = lax.conv_general_dilated(
        x_, weights, strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return y.astype(x.dtype)


def conv_input_grad(dy: jax.Array, kernel: jax.Array, spec: ConvSpec, shards: int = 1) -> jax.Array:
    """The gradient of `forward` with respect to x, `[N, H, W, C]`."""
    if is_winograd_backwards(spec, max(1, dy.shape[0] // shards), *kernel.shape[2:]):
        return stride1.conv_input_grad(dy, kernel, spec, PRODUCTS, shards)

    def backwards(dy: jax.Array, flipped: jax.Array, back: ConvSpec) -> jax.Array:
        exchanged = flipped if back.depthwise else flipped.swapaxes(2, 3)
        return forward(dy, exchanged, back, shards)

    return input_grad_by(backwards, dy, kernel, spec)


def input_grad_by(
    backwards: Callable[[jax.Array, jax.Array, ConvSpec], jax.Array],
    dy: jax.Array,
    kernel: jax.Array,
    spec: ConvSpec,
) -> jax.Array:
    """The gradient of a convolution with respect to the images, by stride-1 convolutions.

    With strides, the input pixels of each phase (row and column modulo the strides) see the
    gradient through their own part of the kernel: one stride-1 convolution for each phase.

    Args:
      backwards: computes the stride-1 convolution of `dy` with a part of the kernel, flipped along
        height and width, from its output channels to its input channels.
      dy: gradient of the convolution, `[N, H', W', F]`.
      kernel: as in `forward`.
      spec: of the convolution.
    """
    stride_h, stride_w = spec.strides
    if (stride_h, stride_w) == (1, 1):
        return backwards(dy, jnp.flip(kernel, (0, 1)), spec.reversed())
    if pointwise.applies(spec):
        return pointwise.conv_input_grad(dy, kernel, spec)
    channels = kernel.shape[3] if spec.depthwise else kernel.shape[2]
    height, width = spec.input_size
    rows, columns = -(-height // stride_h), -(-width // stride_w)
    grid = [
        [_phase(backwards, dy, kernel, spec, (a, b), (rows, columns)) for b in range(stride_w)]
        for a in range(stride_h)
    ]
    interleaved = jnp.stack([jnp.stack(row, 3) for row in grid], 2)
    whole = interleaved.reshape(dy.shape[0], rows * stride_h, columns * stride_w, channels)
    return whole[:, :height, :width]


def _phase(
    backwards: Callable[[jax.Array, jax.Array, ConvSpec], jax.Array],
    dy: jax.Array,
    kernel: jax.Array,
    spec: ConvSpec,
    offset: tuple[int, int],
    size: tuple[int, int],
) -> jax.Array:
    """The gradient of the input pixels `offset + strides * (row, column)`, `[N, *size, C]`.

    Pixel `stride * r + offset` meets kernel position `p` at output `(stride * r + offset + low - p)
    / stride`; with `p = first + stride * t` that is `r + shift - t`.
    """
    first, padding = [], []
    for stride, begin, n, taps_all, out, (low, _) in zip(
        spec.strides,
        offset,
        size,
        spec.kernel_size,
        spec.output_size,
        spec.padding,
        strict=True,
    ):
        start = (begin + low) % stride
        shift = (begin + low - start) // stride
        taps = len(range(start, taps_all, stride))
        before = taps - 1 - shift
        first.append(start)
        padding.append((before, n + taps - 1 - out - before))
    part = kernel[first[0] :: spec.strides[0], first[1] :: spec.strides[1]]
    if not part.size:  # No kernel position meets these pixels.
        channels = kernel.shape[3] if spec.depthwise else kernel.shape[2]
        return jnp.zeros((dy.shape[0], *size, channels), dy.dtype)
    back = ConvSpec(
        input_size=spec.output_size,
        kernel_size=(part.shape[0], part.shape[1]),
        strides=(1, 1),
        padding=(padding[0], padding[1]),
        depthwise=spec.depthwise,
    )
    return backwards(dy, jnp.flip(part, (0, 1)), back)


def conv_kernel_grad(x: jax.Array, dy: jax.Array, spec: ConvSpec, shards: int = 1) -> jax.Array:
    """The gradient of `forward` with respect to the kernel, `[h, w, C, F]` (or `[h, w, 1, C]`)."""
    dtype = _compute_dtype(x)
    strides, padding = spec.strides, spec.padding
    channels, features = x.shape[3], dy.shape[3]
    taps = spec.kernel_size[0] * spec.kernel_size[1]
    batch = max(1, x.shape[0] // shards)
    if spec.depthwise:
        images = chunk_size(batch, 2 * x[0].size * dtype.itemsize)
        gradient = sum_chunks(
            lambda c, d: depthwise.conv_kernel_grad(
                c.astype(dtype), d.astype(dtype), spec.kernel_size, strides, padding
            ),
            (x, dy),
            images,
            shards,
        )
        return gradient.reshape(*spec.kernel_size, 1, features).astype(x.dtype)
    if pointwise.applies(spec):
        return pointwise.conv_kernel_grad(x.astype(dtype), dy.astype(dtype), strides).astype(
            x.dtype
        )
    if is_winograd_gradient(spec, batch, channels, features):
        return winograd_kernel_gradient(x, dy, spec, PRODUCTS, shards).astype(x.dtype)
    if is_widened(spec, channels, features):
        wide = Widening(spec)
        gradient = conv_kernel_grad(wide.images(x), wide.output_gradient(dy), wide.spec, shards)
        return wide.conv_kernel_grad(gradient, channels, features)
    if strides == (1, 1):
        # The side with fewer channels is taken as the images, so that the product's rows are long.
        if features < channels:
            back = spec.reversed()
            dy, pads = cropped(dy.astype(dtype), back.padding)
            flipped = kernel_grad_as_conv.conv_kernel_grad(dy, x.astype(dtype), pads)
            return jnp.flip(flipped, (0, 1)).swapaxes(2, 3).astype(x.dtype)
        x_, pads = cropped(x.astype(dtype), padding)
        return kernel_grad_as_conv.conv_kernel_grad(x_, dy.astype(dtype), pads).astype(x.dtype)
    images = chunk_size(batch, height_width_product(dy) * taps * channels * dtype.itemsize)
    gradient = sum_chunks(
        lambda c, d: im2col.conv_kernel_grad(
            c.astype(dtype), d.astype(dtype), spec.kernel_size, strides, padding
        ),
        (x, dy),
        images,
        shards,
    )
    return gradient.reshape(*spec.kernel_size, channels, features).astype(x.dtype)


def gradients(
    x: jax.Array, kernel: jax.Array, dy: jax.Array, spec: ConvSpec, shards: int = 1
) -> list[jax.Array]:
    """Both gradients; neither is used before the other is computed (see `joint`)."""
    if is_winograd_jointly(spec, max(1, x.shape[0] // shards), *kernel.shape[2:]):
        return list(stride1.gradients(x, kernel, dy, spec, PRODUCTS, shards)[:2])
    dx = conv_input_grad(dy, kernel, spec, shards)
    return lax.optimization_barrier([dx, conv_kernel_grad(x, dy, spec, shards)])


def height_width_product(images: jax.Array) -> int:
    """Pixels of each image in `[N, H, W, C]`."""
    height, width = height_width(images)
    return height * width
