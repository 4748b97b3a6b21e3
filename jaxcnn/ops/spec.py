"""The static description of a convolution: sizes, strides, padding, dilation, groups."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

Pads = tuple[tuple[int, int], tuple[int, int]]
Pair = tuple[int, int]


def height_width(images: jax.Array) -> Pair:
    """Height and width of `[N, H, W, C]`."""
    return images.shape[1], images.shape[2]


def cropped(x: jax.Array, padding: Pads) -> tuple[jax.Array, Pads]:
    """Returns the images and the padding that is left, none of it negative.

    With negative padding, which gradients need, XLA's convolution on the CPU reads memory that was
    never written (jax 0.10.2).
    """
    if min(low_or_high for pads in padding for low_or_high in pads) >= 0:
        return x, padding
    config = [(0, 0, 0), *((low, high, 0) for low, high in padding), (0, 0, 0)]
    return lax.pad(x, jnp.zeros((), x.dtype), config), ((0, 0), (0, 0))


@dataclasses.dataclass(frozen=True)
class ConvSpec:
    """The static description of a 2-D convolution of NHWC images by an HWIO kernel.

    Attributes:
        input_size: Height and width of the images.
        kernel_size: Height and width of the kernel.
        strides: Step of the window, in pixels, along height and width.
        padding: Zeros put before and after, along height and width; negative numbers crop.
        depthwise: Whether channel c of the output depends on channel c of the input alone.
        precision: As in `lax.conv_general_dilated`; only accelerators use it.
    """

    input_size: Pair
    kernel_size: Pair
    strides: Pair
    padding: Pads
    depthwise: bool
    precision: Any = None

    @property
    def output_size(self) -> Pair:
        """Height and width of the result."""
        height, width = (
            (n + sum(pads) - k) // s + 1
            for n, k, s, pads in zip(
                self.input_size, self.kernel_size, self.strides, self.padding, strict=True
            )
        )
        return height, width

    def reversed(self) -> "ConvSpec":
        """The stride-1 convolution of the output's gradient that gives the input's gradient.

        Its kernel is this one's, flipped along height and width, its last two axes exchanged.
        """
        assert self.strides == (1, 1)
        padding = []
        for n, out, k, (low, _) in zip(
            self.input_size, self.output_size, self.kernel_size, self.padding, strict=True
        ):
            # Every output that has read a pixel is a window around it: k - 1 zeros on each side,
            # less what the forward pass had padded. Negative where that was more than k - 1.
            before = k - 1 - low
            padding.append((before, n - out + k - 1 - before))
        return dataclasses.replace(
            self, input_size=self.output_size, padding=(padding[0], padding[1])
        )


@dataclasses.dataclass(frozen=True)
class GeneralSpec:
    """The static description of a convolution of `[N, ..., C]` by `[..., C / groups, F]`.

    Attributes:
        input_size: Of the images, along each spatial axis, of which there are one to three.
        kernel_size: Of the kernel, along the same axes.
        strides: Step of the window, in pixels.
        padding: Zeros put before and after; negative numbers crop.
        kernel_dilation: Distance between the kernel's entries.
        input_dilation: Distance between the images' pixels, with zeros between them; with more than
            1 the convolution is the transpose of one with that stride.
        groups: Of channels; group g of the output depends on group g of the input alone.
        precision: As in `lax.conv_general_dilated`; only accelerators use it.
    """

    input_size: tuple[int, ...]
    kernel_size: tuple[int, ...]
    strides: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    kernel_dilation: tuple[int, ...]
    input_dilation: tuple[int, ...]
    groups: int
    precision: Any = None

    @property
    def output_size(self) -> tuple[int, ...]:
        """Size of the result along each spatial axis."""
        inputs = [
            (n - 1) * d + 1 for n, d in zip(self.input_size, self.input_dilation, strict=True)
        ]
        windows = [
            (k - 1) * d + 1 for k, d in zip(self.kernel_size, self.kernel_dilation, strict=True)
        ]
        return tuple(
            (n + sum(pads) - window) // stride + 1
            for n, window, stride, pads in zip(
                inputs, windows, self.strides, self.padding, strict=True
            )
        )

    def as_conv(self, channels: int, features: int) -> ConvSpec | None:
        """The same as a `ConvSpec`, for C channels and F features; None if it has none."""
        is_depthwise = 1 < self.groups == channels == features
        if max(*self.kernel_dilation, *self.input_dilation) > 1 or len(self.input_size) != 2:
            return None
        if self.groups > 1 and not is_depthwise:
            return None
        (height, width), (rows, columns) = self.input_size, self.kernel_size
        (down, right), (vertical, horizontal) = self.strides, self.padding
        return ConvSpec(
            input_size=(height, width),
            kernel_size=(rows, columns),
            strides=(down, right),
            padding=(vertical, horizontal),
            depthwise=is_depthwise,
            precision=self.precision,
        )
