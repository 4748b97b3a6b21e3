"""MobileNet: depthwise-separable convolutions of Howard et al. 2017 (arXiv:1704.04861)."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from jaxcnn.models import layers
from jaxcnn.ops import DeferredNorm


class SeparableBlock(nn.Module):
    """3x3 depthwise and 1x1 pointwise convolution, each with norm and ReLU (fig. 3, right).

    Attributes:
        features: Output channels.
        strides: Stride of the depthwise convolution.
        dtype: Compute dtype.
        is_recomputed: Whether all of the block is, in the backward pass.
    """

    features: int
    strides: int
    dtype: DTypeLike
    is_recomputed: bool

    @nn.compact
    def __call__(self, x: jax.Array | DeferredNorm, train: bool) -> jax.Array | DeferredNorm:
        """Maps `[B, H, W, C]` to `[B, H / strides, W / strides, features]`.

        `train` is positional for `nn.remat`.
        """
        norm_relu = layers.norm_relu if self.is_recomputed else layers.norm_relu_before_conv
        channels = x.shape[-1]
        x = layers.conv(
            x,
            channels,
            3,
            strides=self.strides,
            groups=channels,
            dtype=self.dtype,
            name="depthwise_conv",
        )
        x = norm_relu(x, train=train, dtype=self.dtype, name="depthwise_norm")
        x = layers.conv(x, self.features, 1, dtype=self.dtype, name="pointwise_conv")
        return norm_relu(x, train=train, dtype=self.dtype, name="pointwise_norm")


class MobileNet(nn.Module):
    """A 3x3 stem of 32 channels, separable blocks, and a classifier.

    Attributes:
        blocks: (channels, stride) of each separable block.
        stem_strides: Stride of the stem.
        width: Width multiplier alpha (sec. 3.3): every layer has int(alpha * channels) channels,
            and 8 at least.
        remat: Recompute each block in the backward pass in place of keeping its arrays.
        num_classes: Number of classes, K.
        dtype: Compute dtype; parameters are float32.
    """

    blocks: tuple[tuple[int, int], ...]
    stem_strides: int
    width: float = 1.0
    remat: bool = False
    num_classes: int = 10
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        """Maps float `[B, H, W, C]` to float32 logits `[B, K]`."""
        layers.check_images(images, "mobilenet", smallest=1)
        block_type = layers.recomputed(SeparableBlock) if self.remat else SeparableBlock
        x: jax.Array | DeferredNorm = images.astype(self.dtype)
        x = layers.conv(
            x, self.scaled(32), 3, strides=self.stem_strides, dtype=self.dtype, name="stem_conv"
        )
        norm_relu = layers.norm_relu if self.remat else layers.norm_relu_before_conv
        x = norm_relu(x, train=train, dtype=self.dtype, name="stem_norm")
        for index, (channels, strides) in enumerate(self.blocks, start=1):
            x = block_type(
                features=self.scaled(channels),
                strides=strides,
                dtype=self.dtype,
                is_recomputed=self.remat,
                name=f"block{index}",
            )(x, train)
        return layers.classifier(x, self.num_classes, dtype=self.dtype)

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
