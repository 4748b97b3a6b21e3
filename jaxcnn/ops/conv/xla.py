"""Which algorithm computes a convolution and its two gradients on the CPU, by shape."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from jaxcnn.ops.chunks import chunk_size, map_chunks, sum_chunks
from jaxcnn.ops.conv import depthwise, pointwise
from jaxcnn.ops.conv import im2col as patches
from jaxcnn.ops.conv import kernel_grad_as_conv as exchanged
from jaxcnn.ops.conv.column_packing import Widening
from jaxcnn.ops.spec import Geometry, cropped, height_width
from jaxcnn.ops.winograd import stride1 as winograd
from jaxcnn.ops.winograd import stride2 as strided

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


def is_widened(geometry: Geometry, channels: int, features: int) -> bool:
    """Whether there are so few channels that blocks of pixels should be computed together.

    LeNet's first convolution, 3 -> 6 channels, took 12.3 of a training step's 24 ms without.
    """
    spatial = geometry.strides == (1, 1) and geometry.kernel_size[1] > 1
    return spatial and not geometry.depthwise and channels * features <= _WIDENED_CHANNELS


def is_winograd(geometry: Geometry, batch: int, channels: int, features: int) -> bool:
    """Whether the convolution is Winograd's."""
    unit, fewest = geometry.strides == (1, 1), min(channels, features)
    return unit and fewest >= WINOGRAD_CHANNELS and winograd.pays(geometry, batch)


def is_winograd_backwards(geometry: Geometry, batch: int, channels: int, features: int) -> bool:
    """Whether the gradient with respect to the images is Winograd's."""
    unit = geometry.strides == (1, 1)
    return unit and is_winograd(geometry.reversed(), batch, channels, features)


def is_winograd_gradient(geometry: Geometry, batch: int, channels: int, features: int) -> bool:
    """Whether the gradient with respect to the kernel is Winograd's."""
    pays = winograd.pays(geometry, batch) or strided.pays(geometry, batch)
    return min(channels, features) >= WINOGRAD_GRADIENT_CHANNELS and pays


def is_winograd_jointly(geometry: Geometry, batch: int, channels: int, features: int) -> bool:
    """Whether both gradients are Winograd's, and so computed together."""
    shape = (geometry, batch, channels, features)
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
    geometry: Geometry,
    products: winograd.Products,
    shards: int = 1,
) -> jax.Array:
    """`kernel_gradient` where it `is_winograd_gradient`, in float32 or better."""
    by_stride = strided if geometry.strides == (2, 2) else winograd
    return by_stride.kernel_gradient(x, dy, geometry, products, shards)


PRODUCTS = winograd.Products(jnp.matmul, _exchanged_product, _transposed_product)


def forward(x: jax.Array, kernel: jax.Array, geometry: Geometry, shards: int = 1) -> jax.Array:
    """The convolution of `[N, H, W, C]` with `[h, w, C, F]` (depthwise: `[h, w, 1, C]`)."""
    dtype = _compute_dtype(x)
    weights = kernel.astype(dtype)
    strides, padding, size = geometry.strides, geometry.padding, geometry.output_size
    channels, features = x.shape[3], kernel.shape[3]
    batch = max(1, x.shape[0] // shards)
    if geometry.depthwise:
        images = chunk_size(batch, 2 * x[0].size * dtype.itemsize)
        return map_chunks(
            lambda c: depthwise.forward(c.astype(dtype), weights, strides, padding, size).astype(
                x.dtype
            ),
            (x,),
            images,
            shards,
        )
    if pointwise.applies(geometry):
        return pointwise.forward(x.astype(dtype), weights, strides).astype(x.dtype)
    if is_winograd(geometry, batch, channels, features):
        return winograd.forward(x, kernel, geometry, PRODUCTS, shards)
    if is_widened(geometry, channels, features):
        wide = Widening(geometry)
        return wide.output(forward(wide.images(x), wide.kernel(kernel), wide.geometry, shards))
    # XLA's forward convolution is a good one, as long as nothing is dilated, reversed or
    # transposed; what is slow is how it differentiates it.
    x_, padding = cropped(x.astype(dtype), padding)
    y = lax.conv_general_dilated(
        x_, weights, strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return y.astype(x.dtype)


def input_gradient(
    dy: jax.Array, kernel: jax.Array, geometry: Geometry, shards: int = 1
) -> jax.Array:
    """The gradient of `forward` with respect to x, `[N, H, W, C]`."""
    if is_winograd_backwards(geometry, max(1, dy.shape[0] // shards), *kernel.shape[2:]):
        return winograd.input_gradient(dy, kernel, geometry, PRODUCTS, shards)

    def backwards(dy: jax.Array, flipped: jax.Array, back: Geometry) -> jax.Array:
        exchanged = flipped if back.depthwise else flipped.swapaxes(2, 3)
        return forward(dy, exchanged, back, shards)

    return input_gradient_by(backwards, dy, kernel, geometry)


def input_gradient_by(
    backwards: Callable[[jax.Array, jax.Array, Geometry], jax.Array],
    dy: jax.Array,
    kernel: jax.Array,
    geometry: Geometry,
) -> jax.Array:
    """The gradient of a convolution with respect to the images, by stride-1 convolutions.

    With strides, the input pixels of each phase (row and column modulo the strides) see the
    gradient through their own part of the kernel: one stride-1 convolution for each phase.

    Args:
      backwards: computes the stride-1 convolution of `dy` with a part of the kernel, flipped along
        height and width, from its output channels to its input channels.
      dy: gradient of the convolution, `[N, H', W', F]`.
      kernel: as in `forward`.
      geometry: of the convolution.
    """
    stride_h, stride_w = geometry.strides
    if (stride_h, stride_w) == (1, 1):
        return backwards(dy, jnp.flip(kernel, (0, 1)), geometry.reversed())
    if pointwise.applies(geometry):
        return pointwise.input_gradient(dy, kernel, geometry)
    channels = kernel.shape[3] if geometry.depthwise else kernel.shape[2]
    height, width = geometry.input_size
    rows, columns = -(-height // stride_h), -(-width // stride_w)
    grid = [
        [_phase(backwards, dy, kernel, geometry, (a, b), (rows, columns)) for b in range(stride_w)]
        for a in range(stride_h)
    ]
    interleaved = jnp.stack([jnp.stack(row, 3) for row in grid], 2)
    whole = interleaved.reshape(dy.shape[0], rows * stride_h, columns * stride_w, channels)
    return whole[:, :height, :width]


def _phase(
    backwards: Callable[[jax.Array, jax.Array, Geometry], jax.Array],
    dy: jax.Array,
    kernel: jax.Array,
    geometry: Geometry,
    offset: tuple[int, int],
    size: tuple[int, int],
) -> jax.Array:
    """The gradient of the input pixels `offset + strides * (row, column)`, `[N, *size, C]`.

    Pixel `stride * r + offset` meets kernel position `p` at output `(stride * r + offset + low - p)
    / stride`; with `p = first + stride * t` that is `r + shift - t`.
    """
    first, padding = [], []
    for stride, begin, n, taps_all, out, (low, _) in zip(
        geometry.strides,
        offset,
        size,
        geometry.kernel_size,
        geometry.output_size,
        geometry.padding,
        strict=True,
    ):
        start = (begin + low) % stride
        shift = (begin + low - start) // stride
        taps = len(range(start, taps_all, stride))
        before = taps - 1 - shift
        first.append(start)
        padding.append((before, n + taps - 1 - out - before))
    part = kernel[first[0] :: geometry.strides[0], first[1] :: geometry.strides[1]]
    if not part.size:  # No kernel position meets these pixels.
        channels = kernel.shape[3] if geometry.depthwise else kernel.shape[2]
        return jnp.zeros((dy.shape[0], *size, channels), dy.dtype)
    back = Geometry(
        input_size=geometry.output_size,
        kernel_size=(part.shape[0], part.shape[1]),
        strides=(1, 1),
        padding=(padding[0], padding[1]),
        depthwise=geometry.depthwise,
    )
    return backwards(dy, jnp.flip(part, (0, 1)), back)


def kernel_gradient(x: jax.Array, dy: jax.Array, geometry: Geometry, shards: int = 1) -> jax.Array:
    """The gradient of `forward` with respect to the kernel, `[h, w, C, F]` (or `[h, w, 1, C]`)."""
    dtype = _compute_dtype(x)
    strides, padding = geometry.strides, geometry.padding
    channels, features = x.shape[3], dy.shape[3]
    taps = geometry.kernel_size[0] * geometry.kernel_size[1]
    batch = max(1, x.shape[0] // shards)
    if geometry.depthwise:
        images = chunk_size(batch, 2 * x[0].size * dtype.itemsize)
        gradient = sum_chunks(
            lambda c, d: depthwise.kernel_gradient(
                c.astype(dtype), d.astype(dtype), geometry.kernel_size, strides, padding
            ),
            (x, dy),
            images,
            shards,
        )
        return gradient.reshape(*geometry.kernel_size, 1, features).astype(x.dtype)
    if pointwise.applies(geometry):
        return pointwise.kernel_gradient(x.astype(dtype), dy.astype(dtype), strides).astype(x.dtype)
    if is_winograd_gradient(geometry, batch, channels, features):
        return winograd_kernel_gradient(x, dy, geometry, PRODUCTS, shards).astype(x.dtype)
    if is_widened(geometry, channels, features):
        wide = Widening(geometry)
        gradient = kernel_gradient(wide.images(x), wide.output_gradient(dy), wide.geometry, shards)
        return wide.kernel_gradient(gradient, channels, features)
    if strides == (1, 1):
        # The side with fewer channels is taken as the images, so that the product's rows are long.
        if features < channels:
            back = geometry.reversed()
            dy, pads = cropped(dy.astype(dtype), back.padding)
            flipped = exchanged.kernel_gradient(dy, x.astype(dtype), pads)
            return jnp.flip(flipped, (0, 1)).swapaxes(2, 3).astype(x.dtype)
        x_, pads = cropped(x.astype(dtype), padding)
        return exchanged.kernel_gradient(x_, dy.astype(dtype), pads).astype(x.dtype)
    images = chunk_size(batch, height_width_product(dy) * taps * channels * dtype.itemsize)
    gradient = sum_chunks(
        lambda c, d: patches.kernel_gradient(
            c.astype(dtype), d.astype(dtype), geometry.kernel_size, strides, padding
        ),
        (x, dy),
        images,
        shards,
    )
    return gradient.reshape(*geometry.kernel_size, channels, features).astype(x.dtype)


def gradients(
    x: jax.Array, kernel: jax.Array, dy: jax.Array, geometry: Geometry, shards: int = 1
) -> list[jax.Array]:
    """Both gradients; neither is used before the other is computed (see `joint`)."""
    if is_winograd_jointly(geometry, max(1, x.shape[0] // shards), *kernel.shape[2:]):
        return list(winograd.gradients(x, kernel, dy, geometry, PRODUCTS, shards)[:2])
    dx = input_gradient(dy, kernel, geometry, shards)
    return lax.optimization_barrier([dx, kernel_gradient(x, dy, geometry, shards)])


def height_width_product(images: jax.Array) -> int:
    """Pixels of each image in `[N, H, W, C]`."""
    height, width = height_width(images)
    return height * width
