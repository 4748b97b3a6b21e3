"""MobileNet: depthwise-separable convolutions of Howard et al. 2017 (arXiv:1704.04861)."""

from collections.abc import Iterator
from typing import Any

import jax
from flax import linen as nn

from jaxcnn.models import base, layers


class SeparableBlock(nn.Module):
    """3x3 depthwise and 1x1 pointwise convolution, each with norm and ReLU (fig. 3, right).

    Attributes:
        channels: Input channels.
        features: Output channels.
        strides: Stride of the depthwise convolution.
        make: Creates the layers.
    """

    channels: int
    features: int
    strides: int
    make: layers.LayerFactory

    def setup(self) -> None:
        """Names the layers, which `MobileNet` also calls on their own."""
        self.depthwise_conv = self.make.conv(
            self.channels, 3, strides=self.strides, groups=self.channels
        )
        self.depthwise_norm = self.make.norm()
        self.pointwise_conv = self.make.conv(self.features, 1)
        self.pointwise_norm = self.make.norm()

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps `[B, H, W, C]` to `[B, H / strides, W / strides, features]`.

        `train` is positional for `nn.remat`.
        """
        x = self.depthwise_norm(self.depthwise_conv(x), train=train, with_relu=True)
        return self.pointwise_norm(self.pointwise_conv(x), train=train, with_relu=True)


class MobileNet(base.Network):
    """A 3x3 stem of 32 channels, separable blocks, and a classifier.

    Attributes:
        blocks: (channels, stride) of each separable block.
        stem_strides: Stride of the stem.
        width: Width multiplier alpha (sec. 3.3): every layer has int(alpha * channels) channels,
            and 8 at least.
        remat: Recompute each block in the backward pass in place of keeping its arrays.
    """

    blocks: tuple[tuple[int, int], ...]
    stem_strides: int
    width: float = 1.0
    remat: bool = False

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        """Maps float `[B, H, W, C]` to float32 logits `[B, K]`."""
        layers.check_images(images, "mobilenet", smallest=1)
        make = self.layer_factory()
        stem = make.conv(self.scaled(32), 3, strides=self.stem_strides, name="stem_conv")
        norm = make.norm(name="stem_norm")
        x = stem(images.astype(self.dtype))
        if self.remat:
            x = norm(x, train=train, with_relu=True)
            for block in self.separable_blocks(layers.recomputed(SeparableBlock), make):
                x = block(x, train)
            return make.classifier(x, self.num_classes)
        # A norm, its ReLU and the convolution behind them are one step, across blocks too.
        for block in self.separable_blocks(SeparableBlock, make):
            x = layers.norm_relu_conv(x, norm, block.depthwise_conv, train=train)
            norm = block.depthwise_norm
            x = layers.norm_relu_conv(x, norm, block.pointwise_conv, train=train)
            norm = block.pointwise_norm
        x = norm(x, train=train, with_relu=True)
        return make.classifier(x, self.num_classes)

    def separable_blocks(
        self, block_type: type[nn.Module], make: layers.LayerFactory
    ) -> Iterator[Any]:
        """Yields "block1", "block2" and so on, of `block_type`, a `SeparableBlock`."""
        inputs = self.scaled(32)
        for index, (channels, strides) in enumerate(self.blocks, start=1):
            features = self.scaled(channels)
            yield block_type(
                channels=inputs,
                features=features,
                strides=strides,
                make=make,
                name=f"block{index}",
            )
            inputs = features

    def scaled(self, channels: int) -> int:
        """`channels` times the width multiplier."""
        return max(8, int(channels * self.width))


VARIANTS: dict[str, tuple[type[nn.Module], dict[str, Any]]] = {
    "mobilenet": (
        MobileNet,
        {
            "blocks": (
                (32, 1), (64, 2), (128, 1), (128, 2), (256, 1), (256, 2), (512, 1), (512, 2),
            ),
            "stem_strides": 2,
        },
    ),
    # Table 1 of the paper; stride 1 in the stem, since CIFAR's images are 32x32, not 224x224.
    "mobilenet_v1": (
        MobileNet,
        {
            "blocks": (
                (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2),
                *((512, 1),) * 5, (1024, 2), (1024, 1),
            ),
            "stem_strides": 1,
        },
    ),
}  # fmt: skip
OPTIONS: tuple[str, ...] = ("width",)
