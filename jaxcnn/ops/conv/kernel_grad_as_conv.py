"""The gradient of a kernel as one forward convolution, batch and channels exchanged.

The gradient at kernel position p is the sum over images and pixels of x[p + pixel] dy[pixel]^T.
That is the convolution of x, its channels taken as images and its images as channels, with dy as a
kernel of the size of the output. XLA's CPU compiler turns its own gradient into the same, as fast
where it stands alone; in a network it computes the exchange together with the norm before it, which
costs more than the convolution.
"""

from collections.abc import Callable

import jax
from jax import lax

from jaxcnn.ops.spec import Pads

Convolve = Callable[[jax.Array, jax.Array, Pads], jax.Array]


def _by_xla(images: jax.Array, kernel: jax.Array, padding: Pads) -> jax.Array:
    layout = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(images, kernel, (1, 1), padding, dimension_numbers=layout)


def conv_kernel_grad(
    x: jax.Array, dy: jax.Array, padding: Pads, convolve: Convolve = _by_xla
) -> jax.Array:
    """The gradient of a stride-1 convolution with respect to its kernel, `[h, w, C, F]`.

    Args:
        x: Images, `[N, H, W, C]`.
        dy: Gradient of the convolution, `[N, H', W', F]`.
        padding: Of the convolution; must not be negative.
        convolve: Computes the stride-1 convolution of images `[C, H, W, N]` by `[H', W', N, F]`.
    """
    # Without the barriers XLA undoes the transpositions, or fuses them with the norm before.
    x, dy = lax.optimization_barrier((x, dy))
    images = lax.optimization_barrier(x.transpose(3, 1, 2, 0))
    kernel = lax.optimization_barrier(dy.transpose(1, 2, 0, 3))
    # [C, H, W, N] by [H', W', N, F] gives [C, h, w, F].
    return convolve(images, kernel, padding).transpose(1, 2, 0, 3)
