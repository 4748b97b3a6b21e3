"""How a convolution with very few channels gets more of them: blocks of columns become channels.

`BLOCK` neighbouring output pixels are computed as `BLOCK * F` channels of one wide pixel, from wide
pixels of `BLOCK * C` channels, with a kernel that holds a shifted copy for each. It multiplies
zeros, but products of 24 columns instead of 6 fill the vector units.
"""

import dataclasses

import jax
import jax.numpy as jnp

from jaxcnn.ops.spec import ConvSpec

BLOCK = 4


@dataclasses.dataclass(frozen=True)
class Widening:
    """The stride-1 convolution `narrow`, seen with `BLOCK` columns as one."""

    narrow: ConvSpec

    @property
    def out_blocks(self) -> int:
        """Wide output pixels in a row."""
        return -(-self.narrow.output_size[1] // BLOCK)

    @property
    def in_blocks(self) -> int:
        """Wide input pixels in a row."""
        return -(-(self.out_blocks * BLOCK + self.narrow.kernel_size[1] - 1) // BLOCK)

    @property
    def spec(self) -> ConvSpec:
        """The wide convolution's spec."""
        return dataclasses.replace(
            self.narrow,
            input_size=(self.narrow.input_size[0], self.in_blocks),
            kernel_size=(self.narrow.kernel_size[0], self.in_blocks - self.out_blocks + 1),
            padding=(self.narrow.padding[0], (0, 0)),
        )

    def images(self, x: jax.Array) -> jax.Array:
        """`[N, H, W, C]` to `[N, H, in_blocks, BLOCK * C]`, padding along the width included."""
        low = self.narrow.padding[1][0]
        x = _fit(x, low, self.in_blocks * BLOCK)
        return x.reshape(*x.shape[:2], self.in_blocks, BLOCK * x.shape[3])

    def kernel(self, kernel: jax.Array) -> jax.Array:
        """`[h, w, C, F]` to `[h, w', BLOCK * C, BLOCK * F]`."""
        height, width, channels, features = kernel.shape
        taps = self.spec.kernel_size[1]
        copies = [
            jnp.pad(kernel, ((0, 0), (v, taps * BLOCK - width - v), (0, 0), (0, 0)))
            for v in range(BLOCK)
        ]
        wide = jnp.stack(copies, axis=3)
        return wide.reshape(height, taps, BLOCK * channels, BLOCK * features)

    def conv_kernel_grad(self, gradient: jax.Array, channels: int, features: int) -> jax.Array:
        """The transpose of `kernel`."""
        shape = (*self.narrow.kernel_size, channels, features)
        like = jax.typeof(gradient).update(shape=shape)
        return jax.linear_transpose(self.kernel, like)(gradient)[0]

    def output(self, y: jax.Array) -> jax.Array:
        """`[N, H', out_blocks, BLOCK * F]` to `[N, H', W', F]`."""
        y = y.reshape(*y.shape[:2], self.out_blocks * BLOCK, y.shape[3] // BLOCK)
        return y[:, :, : self.narrow.output_size[1]]

    def output_gradient(self, dy: jax.Array) -> jax.Array:
        """The transpose of `output`."""
        dy = _fit(dy, 0, self.out_blocks * BLOCK)
        return dy.reshape(*dy.shape[:2], self.out_blocks, BLOCK * dy.shape[3])


def _fit(x: jax.Array, low: int, width: int) -> jax.Array:
    """Puts `low` zeros before the columns of `[N, H, W, C]`, and zeros after, up to `width`."""
    config = ((0, 0, 0), (0, 0, 0), (low, width - x.shape[2] - low, 0), (0, 0, 0))
    return jax.lax.pad(x, jnp.zeros((), x.dtype), config)
