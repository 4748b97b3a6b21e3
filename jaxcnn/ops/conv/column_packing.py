"""How a convolution with very few channels gets more of them: blocks of columns become channels.

`BLOCK` neighboring output pixels are computed as `BLOCK * F` channels of one packed pixel, from
packed pixels of `BLOCK * C` channels, with a kernel that holds a shifted copy for each. It
multiplies zeros, but products of 24 columns instead of 6 fill the vector units.
"""

import dataclasses

import jax
import jax.numpy as jnp

from jaxcnn.ops.spec import ConvSpec

BLOCK = 4


@dataclasses.dataclass(frozen=True)
class ColumnPacking:
    """A stride-1 convolution with `BLOCK` columns packed into one.

    Attributes:
        unpacked: The convolution before packing.
    """

    unpacked: ConvSpec

    @property
    def out_blocks(self) -> int:
        """Packed output pixels in a row."""
        return -(-self.unpacked.output_size[1] // BLOCK)

    @property
    def in_blocks(self) -> int:
        """Packed input pixels in a row."""
        # The outputs of all blocks read w - 1 columns more than they are.
        return -(-(self.out_blocks * BLOCK + self.unpacked.kernel_size[1] - 1) // BLOCK)

    @property
    def spec(self) -> ConvSpec:
        """The packed convolution."""
        return dataclasses.replace(
            self.unpacked,
            input_size=(self.unpacked.input_size[0], self.in_blocks),
            kernel_size=(self.unpacked.kernel_size[0], self.in_blocks - self.out_blocks + 1),
            padding=(self.unpacked.padding[0], (0, 0)),
        )

    def pack_images(self, x: jax.Array) -> jax.Array:
        """`[N, H, W, C]` to `[N, H, in_blocks, BLOCK * C]`, padding along the width included."""
        # Padded here, so that the first block begins where the first output reads.
        low = self.unpacked.padding[1][0]
        x = _fit(x, low, self.in_blocks * BLOCK)
        return x.reshape(*x.shape[:2], self.in_blocks, BLOCK * x.shape[3])

    def pack_kernel(self, kernel: jax.Array) -> jax.Array:
        """`[h, w, C, F]` to `[h, w', BLOCK * C, BLOCK * F]`."""
        height, width, channels, features = kernel.shape
        taps = self.spec.kernel_size[1]
        # Copy v gives output column v of a block, so its taps begin v columns later.
        copies = [
            jnp.pad(kernel, ((0, 0), (v, taps * BLOCK - width - v), (0, 0), (0, 0)))
            for v in range(BLOCK)
        ]
        # [h, taps * BLOCK, C, BLOCK, F]: BLOCK columns and their C channels lie side by side, and
        # the reshape makes channels of them.
        packed = jnp.stack(copies, axis=3)
        return packed.reshape(height, taps, BLOCK * channels, BLOCK * features)

    def unpack_kernel_grad(self, gradient: jax.Array, channels: int, features: int) -> jax.Array:
        """The transpose of `pack_kernel`, to `[h, w, channels, features]`."""
        # Adds up what the copies of an entry get, and drops what the zeros between get.
        shape = (*self.unpacked.kernel_size, channels, features)
        like = jax.typeof(gradient).update(shape=shape)
        return jax.linear_transpose(self.pack_kernel, like)(gradient)[0]

    def unpack_output(self, y: jax.Array) -> jax.Array:
        """`[N, H', out_blocks, BLOCK * F]` to `[N, H', W', F]`."""
        # The last block may reach beyond the row.
        y = y.reshape(*y.shape[:2], self.out_blocks * BLOCK, y.shape[3] // BLOCK)
        return y[:, :, : self.unpacked.output_size[1]]

    def pack_output_grad(self, dy: jax.Array) -> jax.Array:
        """The transpose of `unpack_output`."""
        dy = _fit(dy, 0, self.out_blocks * BLOCK)
        return dy.reshape(*dy.shape[:2], self.out_blocks, BLOCK * dy.shape[3])


def _fit(x: jax.Array, low: int, width: int) -> jax.Array:
    """Puts `low` zeros before the columns of `[N, H, W, C]`, and zeros after, up to `width`."""
    config = ((0, 0, 0), (0, 0, 0), (low, width - x.shape[2] - low, 0), (0, 0, 0))
    return jax.lax.pad(x, jnp.zeros((), x.dtype), config)
