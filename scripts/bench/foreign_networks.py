"""Networks that are not jaxcnn's, in Flax as anyone writes them: what `ops.accelerate` is tried on.

None is told which convolution to use. Blocks are those of the papers; depths and widths are cut so
that a step takes about a second on two cores.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp


def _normed(x: jax.Array, train: bool) -> jax.Array:
    return nn.relu(nn.BatchNorm(use_running_average=not train)(x))


class Bottleneck(nn.Module):
    """1x1, 3x3 in groups, 1x1, and a shortcut (He et al. 2015; Xie et al. 2017, ResNeXt)."""

    width: int
    features: int
    strides: int = 1
    groups: int = 1
    dilation: int = 1

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """The forward pass."""
        y = _normed(nn.Conv(self.width, (1, 1), use_bias=False)(x), train)
        convolution = nn.Conv(
            self.width, (3, 3), self.strides, use_bias=False,
            feature_group_count=self.groups, kernel_dilation=self.dilation,
        )  # fmt: skip
        y = _normed(convolution(y), train)
        y = nn.BatchNorm(not train)(nn.Conv(self.features, (1, 1), use_bias=False)(y))
        if x.shape != y.shape:
            x = nn.Conv(self.features, (1, 1), self.strides, use_bias=False)(x)
            x = nn.BatchNorm(not train)(x)
        return nn.relu(x + y)


class ResNet(nn.Module):
    """ResNet-50, ResNeXt-50 (32 groups, width 4), or with dilation in place of the last strides."""

    blocks: tuple[int, ...] = (3, 4, 6, 3)
    groups: int = 1
    base: int = 64
    dilated: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """The forward pass."""
        x = _normed(nn.Conv(64, (7, 7), 2, use_bias=False)(x), train)
        x = nn.max_pool(x, (3, 3), (2, 2), "SAME")
        for stage, blocks in enumerate(self.blocks):
            for block in range(blocks):
                strides = 2 if stage and not block and not (self.dilated and stage > 1) else 1
                dilation = 2 if self.dilated and stage > 1 else 1
                width = self.base * 2**stage
                x = Bottleneck(width, 256 * 2**stage, strides, self.groups, dilation)(x, train)
        return nn.Dense(1000)(x.mean((1, 2)))


class ConvNeXt(nn.Module):
    """7x7 depthwise, layer norm, 1x1 to four times the width and back (Liu et al. 2022)."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """The forward pass."""
        for width, blocks, patch in ((96, 2, 4), (192, 2, 2), (384, 4, 2)):
            x = nn.LayerNorm()(nn.Conv(width, (patch, patch), patch)(x))
            for _ in range(blocks):
                y = nn.Conv(width, (7, 7), feature_group_count=width)(x)
                y = nn.Dense(width)(nn.gelu(nn.Dense(4 * width)(nn.LayerNorm()(y))))
                x = x + y
        return nn.Dense(1000)(x.mean((1, 2)))


class EfficientNet(nn.Module):
    """Inverted bottlenecks, 3x3 and 5x5, with squeeze and excitation (Tan & Le 2019)."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """The forward pass."""
        x = _normed(nn.Conv(32, (3, 3), 2, use_bias=False)(x), train)
        for features, side, strides in (
            (16, 3, 1),
            (24, 3, 2),
            (40, 5, 2),
            (80, 3, 2),
            (112, 5, 1),
        ):
            width = 6 * x.shape[-1]
            y = _normed(nn.Conv(width, (1, 1), use_bias=False)(x), train)
            depthwise = nn.Conv(
                width, (side, side), strides, use_bias=False, feature_group_count=width
            )
            y = _normed(depthwise(y), train)
            gate = nn.Dense(width)(nn.silu(nn.Dense(width // 24)(y.mean((1, 2), keepdims=True))))
            x = nn.BatchNorm(not train)(nn.Conv(features, (1, 1), use_bias=False)(
                y * nn.sigmoid(gate)
            ))  # fmt: skip
        return nn.Dense(1000)(x.mean((1, 2)))


class UNet(nn.Module):
    """Two convolutions a level, down by pooling, up by `nn.ConvTranspose` (Ronneberger 2015)."""

    widths: tuple[int, ...] = (32, 64, 128)

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """The forward pass."""
        kept = []
        for width in self.widths:
            for _ in range(2):
                x = _normed(nn.Conv(width, (3, 3), use_bias=False)(x), train)
            kept.append(x)
            x = nn.max_pool(x, (2, 2), (2, 2))
        for width, skipped in zip(reversed(self.widths), reversed(kept), strict=True):
            x = jnp.concatenate([nn.ConvTranspose(width, (2, 2), (2, 2))(x), skipped], -1)
            for _ in range(2):
                x = _normed(nn.Conv(width, (3, 3), use_bias=False)(x), train)
        return nn.Conv(2, (1, 1))(x)


class Generator(nn.Module):
    """From a vector to an image by 4x4 transposed convolutions (Radford et al. 2016, DCGAN)."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """The forward pass."""
        x = _normed(nn.Dense(4 * 4 * 256)(x).reshape(-1, 4, 4, 256), train)
        for width in (128, 64):
            x = _normed(nn.ConvTranspose(width, (4, 4), (2, 2), use_bias=False)(x), train)
        return jnp.tanh(nn.ConvTranspose(3, (4, 4), (2, 2))(x))


class Sequence(nn.Module):
    """1-D: depthwise of 9 with growing dilation and 1x1, as in separable speech models."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """The forward pass."""
        x = nn.Conv(128, (5,), 2)(x)
        for dilation in (1, 2, 4, 8):
            y = nn.Conv(128, (9,), feature_group_count=128, kernel_dilation=dilation)(x)
            x = x + _normed(nn.Conv(128, (1,))(y), train)
        return nn.Dense(40)(x)


class Volumes(nn.Module):
    """3-D: 3x3x3 convolutions, two of them strided (Tran et al. 2015, C3D)."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """The forward pass."""
        for width, strides in ((16, 1), (32, 2), (64, 2)):
            x = _normed(nn.Conv(width, (3, 3, 3), strides, use_bias=False)(x), train)
        return nn.Dense(10)(x.mean((1, 2, 3)))


class Layer(nn.Module):
    """One convolution; a parameter is added to the images, so that their gradient is asked for."""

    convolution: nn.Module

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """The forward pass."""
        return self.convolution(x + self.param("added", nn.initializers.zeros, x.shape))


class Case(NamedTuple):
    """A network and what it is trained on.

    Attributes:
        network: Makes it.
        shape: Of the inputs, with the batch.
        tiny: The same, for a try of seconds.
        about: What is special in it.
    """

    network: Callable[[], Any]
    shape: tuple[int, ...]
    tiny: tuple[int, ...]
    about: str


CASES = {
    "ResNet-50, 64 pixels": Case(ResNet, (16, 64, 64, 3), (2, 32, 32, 3), "1x1, 3x3, strides"),
    "ResNet-50, 224 pixels": Case(ResNet, (4, 224, 224, 3), (1, 64, 64, 3), "large images"),
    "ResNeXt-50 32x4d": Case(
        lambda: ResNet(groups=32, base=128), (8, 64, 64, 3), (2, 32, 32, 3),
        "groups of 4 to 32 channels",
    ),
    "ResNet-50, dilated": Case(
        lambda: ResNet(dilated=True), (4, 96, 96, 3), (1, 64, 64, 3), "dilation 2 in two stages"
    ),
    "ConvNeXt": Case(ConvNeXt, (8, 64, 64, 3), (2, 32, 32, 3), "7x7 depthwise"),
    "EfficientNet": Case(
        EfficientNet, (16, 64, 64, 3), (2, 32, 32, 3), "3x3, 5x5 depthwise, squeeze and excitation"
    ),
    "U-Net": Case(UNet, (8, 64, 64, 3), (2, 16, 16, 3), "2x2 transposed"),
    "DCGAN generator": Case(Generator, (64, 100), (4, 100), "4x4 transposed, 3 features"),
    "1-D separable": Case(Sequence, (16, 1024, 40), (2, 128, 40), "1-D depthwise, dilated"),
    "3-D": Case(Volumes, (4, 16, 32, 32, 3), (1, 4, 8, 8, 3), "3-D, strided"),
}  # fmt: skip


def _layer(
    shape: tuple[int, ...], about: str, convolution: Callable[..., Any], *args: Any, **others: Any
) -> Case:
    tiny = (2, *(min(n, 8) for n in shape[1:-1]), shape[-1])
    return Case(lambda: Layer(convolution(*args, **others)), shape, tiny, about)


LAYERS = {
    "groups of 4": _layer(
        (32, 16, 16, 128), "32 groups", nn.Conv, 128, (3, 3), feature_group_count=32
    ),
    "groups of 8": _layer(
        (32, 8, 8, 256), "32 groups", nn.Conv, 256, (3, 3), feature_group_count=32
    ),
    "groups of 32": _layer(
        (32, 16, 16, 128), "4 groups", nn.Conv, 128, (3, 3), feature_group_count=4
    ),
    "groups of 96": _layer(
        (32, 16, 16, 192), "2 groups", nn.Conv, 192, (3, 3), feature_group_count=2
    ),
    "groups, strided": _layer(
        (32, 16, 16, 64), "8 groups, stride 2", nn.Conv, 64, (3, 3), 2, feature_group_count=8
    ),
    "four filters a channel": _layer(
        (32, 16, 16, 32), "32 groups of 1", nn.Conv, 128, (3, 3), feature_group_count=32
    ),
    "dilated, 64": _layer((32, 32, 32, 64), "dilation 2", nn.Conv, 64, (3, 3), kernel_dilation=2),
    "dilated, 256": _layer(
        (16, 16, 16, 256), "dilation 2", nn.Conv, 256, (3, 3), kernel_dilation=2
    ),
    "dilated, 32": _layer((32, 32, 32, 32), "dilation 2", nn.Conv, 32, (3, 3), kernel_dilation=2),
    "dilated, depthwise": _layer(
        (32, 32, 32, 64),
        "dilation 2",
        nn.Conv,
        64,
        (3, 3),
        kernel_dilation=2,
        feature_group_count=64,
    ),
    "dilated, 16": _layer(
        (16, 32, 32, 16), "dilation 4; stock", nn.Conv, 16, (3, 3), kernel_dilation=4
    ),
    "dilated by 12": _layer(
        (4, 28, 28, 256), "dilation 12; stock", nn.Conv, 256, (3, 3), kernel_dilation=12
    ),
    "transposed 2x2": _layer((32, 16, 16, 128), "stride 2", nn.ConvTranspose, 64, (2, 2), (2, 2)),
    "transposed 3x3": _layer((32, 16, 16, 128), "stride 2", nn.ConvTranspose, 64, (3, 3), (2, 2)),
    "transposed 4x4": _layer((32, 8, 8, 256), "stride 2", nn.ConvTranspose, 128, (4, 4), (2, 2)),
    "transposed, 3 features": _layer(
        (32, 32, 32, 32), "4x4, stride 2", nn.ConvTranspose, 3, (4, 4), (2, 2)
    ),
    "1-D": _layer((32, 1024, 64), "stock", nn.Conv, 64, (3,)),
    "1-D, strided": _layer((32, 1024, 16), "9, stride 4; stock", nn.Conv, 64, (9,), 4),
    "1-D, depthwise": _layer((32, 1024, 64), "7", nn.Conv, 64, (7,), feature_group_count=64),
    "3-D, 3x3x3": _layer((4, 16, 16, 16, 32), "3x3x3", nn.Conv, 32, (3, 3, 3)),
    "3-D, strided": _layer((4, 16, 16, 16, 32), "stride 2", nn.Conv, 64, (3, 3, 3), 2),
    "3 features": _layer((32, 32, 32, 32), "3x3, the last of a network", nn.Conv, 3, (3, 3)),
    "1 feature": _layer((32, 32, 32, 64), "3x3, the last of a network", nn.Conv, 1, (3, 3)),
    "7x7, 3 features": _layer((8, 64, 64, 64), "the last of a network", nn.Conv, 3, (7, 7)),
}
