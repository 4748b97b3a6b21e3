"""ResNet: residual networks of He et al. 2015 (arXiv:1512.03385), for ImageNet and for CIFAR."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxcnn.models import base, layers


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions, or 1x1-3x3-1x1 (bottleneck), added to their input (sec. 3.2 and 4.1).

    Attributes:
        features: Channels of the block's 3x3 convolutions.
        expansion: Output channels over `features`; 4 with a bottleneck.
        bottleneck: 1x1-3x3-1x1 in place of 3x3-3x3.
        shortcut: Where shapes differ: "projection" (1x1 convolution and norm, option B of sec. 3.3)
            or "padded" (every second position and zero channels, option A); "none" leaves out every
            shortcut, the paper's plain network.
        strides: Stride of the (first) 3x3 convolution.
        make: Creates the layers.
    """

    features: int
    expansion: int
    bottleneck: bool
    shortcut: str
    strides: int
    make: layers.LayerFactory

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps `[B, H, W, C]` to `[B, H / strides, W / strides, features * expansion]`.

        `train` is positional for `nn.remat`.
        """
        out = self.features * self.expansion
        if self.bottleneck:
            plan = [(self.features, 1, 1), (self.features, 3, self.strides), (out, 1, 1)]
        else:
            plan = [(self.features, 3, self.strides), (out, 3, 1)]
        # A norm waits for the convolution behind it: with ReLU they are one step in training.
        y, norm = x, None
        for index, (features, kernel, strides) in enumerate(plan, start=1):
            conv = self.make.conv(features, kernel, strides=strides, name=f"conv{index}")
            y = layers.norm_relu_conv(y, norm, conv, train=train) if norm else conv(y)
            norm = self.make.norm(name=f"norm{index}")
        assert norm is not None
        # The last norm has no ReLU of its own: that comes after the sum (fig. 2).
        y = norm(y, train=train)
        if self.shortcut != "none":
            y = y + self.carry(x, out, train=train)
        return self.make.relu(y)

    def carry(self, x: jax.Array, out: int, *, train: bool) -> jax.Array:
        """The shortcut: `x` itself, or `x` brought to `[B, H / strides, W / strides, out]`."""
        if self.strides == 1 and x.shape[-1] == out:
            return x
        if self.shortcut == "padded":
            # Option A has no parameters: the stride drops positions, new channels are zero.
            x = x[:, :: self.strides, :: self.strides]
            return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, out - x.shape[-1])))
        x = self.make.conv(out, 1, strides=self.strides, name="shortcut_conv")(x)
        return self.make.norm(name="shortcut_norm")(x, train=train)


class ResNet(base.Network):
    """A 3x3 stem, stages of residual blocks, and a classifier.

    Attributes:
        blocks: Blocks of each stage.
        widths: `features` of each stage's blocks; every stage but the first begins with stride 2.
        bottleneck: Bottleneck blocks with an expansion of 4.
        shortcut: "projection" or "padded", see ResidualBlock.
        plain: Leave out all shortcuts: the plain networks of the paper's figures 4 and 6.
        remat: Recompute each block in the backward pass in place of keeping its arrays.
    """

    blocks: tuple[int, ...]
    widths: tuple[int, ...]
    bottleneck: bool = False
    shortcut: str = "projection"
    plain: bool = False
    remat: bool = False

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        """Maps float `[B, H, W, C]` to float32 logits `[B, K]`."""
        layers.check_images(images, "resnet", smallest=2 ** (len(self.blocks) - 1))
        block_type = layers.recomputed(ResidualBlock) if self.remat else ResidualBlock
        make = self.layer_factory()
        x = make.conv(self.widths[0], 3, name="stem_conv")(images.astype(self.dtype))
        x = make.norm(name="stem_norm")(x, train=train, with_relu=True)
        for stage, (blocks, width) in enumerate(
            zip(self.blocks, self.widths, strict=True), start=1
        ):
            for block in range(1, blocks + 1):
                x = block_type(
                    features=width,
                    expansion=4 if self.bottleneck else 1,
                    bottleneck=self.bottleneck,
                    shortcut="none" if self.plain else self.shortcut,
                    strides=2 if stage > 1 and block == 1 else 1,
                    make=make,
                    name=f"stage{stage}_block{block}",
                )(x, train)
        return make.classifier(x, self.num_classes)


def _imagenet(*blocks: int, bottleneck: bool = False) -> tuple[type[nn.Module], dict[str, Any]]:
    """A row of the paper's table 1, with the study's 3x3 stem and no max-pool for small images."""
    return ResNet, {"blocks": blocks, "widths": (64, 128, 256, 512), "bottleneck": bottleneck}


def _cifar(depth: int, **fields: bool | str) -> tuple[type[nn.Module], dict[str, Any]]:
    """Section 4.2: depth = 6 n + 2, n blocks in each of three stages, option A shortcuts."""
    # Two convolutions a block, three stages; the stem and the classifier are the other two.
    n = (depth - 2) // 6
    row = {"blocks": (n, n, n), "widths": (16, 32, 64), "shortcut": "padded", **fields}
    return ResNet, row


VARIANTS: dict[str, tuple[type[nn.Module], dict[str, Any]]] = {
    "resnet18": _imagenet(2, 2, 2, 2),
    "resnet34": _imagenet(3, 4, 6, 3),
    "resnet50": _imagenet(3, 4, 6, 3, bottleneck=True),
    "resnet101": _imagenet(3, 4, 23, 3, bottleneck=True),
    "resnet152": _imagenet(3, 8, 36, 3, bottleneck=True),
    **{f"resnet{depth}": _cifar(depth) for depth in (20, 32, 44, 56, 110)},
    # With option B, as much public code has it, whose weights can be imported.
    **{f"resnet{depth}b": _cifar(depth, shortcut="projection") for depth in (20, 56)},
    # The paper's plain networks (sec. 4.2, fig. 6 left): the same layers, no shortcut.
    **{f"plain{depth}": _cifar(depth, plain=True) for depth in (20, 32, 44, 56, 110)},
}
OPTIONS: tuple[str, ...] = ("plain",)
