"""The input gradient of a strided convolution, by one stride-1 convolution for each phase.

The input pixels of a phase, those with the same row and column modulo the strides, meet their own
part of the kernel and no other. Together the phases take as many multiplications as the forward
pass; a convolution of the output's gradient dilated by the strides takes as many times more as a
window of the strides has pixels.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxcnn.ops.spec import ConvSpec, Pair

Convolve = Callable[[jax.Array, jax.Array, ConvSpec], jax.Array]


def conv_input_grad(
    convolve: Convolve, dy: jax.Array, kernel: jax.Array, spec: ConvSpec
) -> jax.Array:
    """The gradient of a convolution with respect to the images, `[N, H, W, C]`.

    Args:
        convolve: Computes the stride-1 convolution of `dy` with a part of the kernel, flipped along
            height and width, from its output channels to its input channels.
        dy: Gradient of the convolution, `[N, H', W', F]`.
        kernel: `[h, w, C, F]`, or `[h, w, 1, C]` if depthwise.
        spec: The convolution.
    """
    stride_h, stride_w = spec.strides
    height, width = spec.input_size
    # All phases are computed of one size, to be interleaved; what lies beyond the image is cut off.
    rows, columns = -(-height // stride_h), -(-width // stride_w)
    grid = [
        [_phase(convolve, dy, kernel, spec, (a, b), (rows, columns)) for b in range(stride_w)]
        for a in range(stride_h)
    ]
    # [N, rows, stride_h, columns, stride_w, C], the order of pixels.
    interleaved = jnp.stack([jnp.stack(row, 3) for row in grid], 2)
    whole = interleaved.reshape(
        dy.shape[0], rows * stride_h, columns * stride_w, _channels(kernel, spec)
    )
    return whole[:, :height, :width]


def _channels(kernel: jax.Array, spec: ConvSpec) -> int:
    return kernel.shape[3] if spec.depthwise else kernel.shape[2]


def _phase(
    convolve: Convolve,
    dy: jax.Array,
    kernel: jax.Array,
    spec: ConvSpec,
    offset: Pair,
    size: Pair,
) -> jax.Array:
    """The gradient of the input pixels `offset + strides * (row, column)`, `[N, *size, C]`.

    Pixel `stride * r + offset` meets kernel position `p` at output `(stride * r + offset + low - p)
    / stride`; with `p = first + stride * t` that is `r + shift - t`.
    """
    first, padding = [], []
    for stride, begin, n, kernel_taps, out, (low, _) in zip(
        spec.strides,
        offset,
        size,
        spec.kernel_size,
        spec.output_size,
        spec.padding,
        strict=True,
    ):
        # The first kernel position that meets the phase; every `stride`th after it does.
        start = (begin + low) % stride
        shift = (begin + low - start) // stride
        taps = len(range(start, kernel_taps, stride))
        # Flipped, the part reads dy from row r + shift - (taps - 1) on; behind, as many rows as
        # give n results. Either may be negative, and crop rows that this phase has not met.
        before = taps - 1 - shift
        first.append(start)
        padding.append((before, n + taps - 1 - out - before))
    part = kernel[first[0] :: spec.strides[0], first[1] :: spec.strides[1]]
    if not part.size:  # No kernel position meets these pixels.
        return jnp.zeros((dy.shape[0], *size, _channels(kernel, spec)), dy.dtype)
    back = ConvSpec(
        input_size=spec.output_size,
        kernel_size=(part.shape[0], part.shape[1]),
        strides=(1, 1),
        padding=(padding[0], padding[1]),
        depthwise=spec.depthwise,
    )
    return convolve(dy, jnp.flip(part, (0, 1)), back)
