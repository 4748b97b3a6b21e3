"""DenseNet: densely connected networks of Huang et al. 2017 (arXiv:1608.06993)."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from jaxcnn import ops
from jaxcnn.models import layers
from jaxcnn.models.batch_norm import updated_moments


class DenseLayer(nn.Module):
    """Computes the `growth_rate` new channels of one layer (sec. 3, "Composite function").

    Attributes:
        growth_rate: New channels, k.
        bn_size: The 1x1 bottleneck has bn_size * k channels; 0 leaves the bottleneck out.
        drop_rate: Dropout probability after the last convolution.
        dtype: Compute dtype.
    """

    growth_rate: int
    bn_size: int
    drop_rate: float
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps `[B, H, W, C]` to `[B, H, W, k]`; `train` is positional for `nn.remat`."""
        if self.bn_size:
            x = layers.norm_relu(x, train=train, dtype=self.dtype, name="norm1")
            x = layers.conv(x, self.bn_size * self.growth_rate, 1, dtype=self.dtype, name="conv1")
        x = layers.norm_relu(x, train=train, dtype=self.dtype, name="norm2")
        x = layers.conv(x, self.growth_rate, 3, dtype=self.dtype, name="conv2")
        return nn.Dropout(self.drop_rate, deterministic=not train)(x)


class DenseNet(nn.Module):
    """A 3x3 stem, dense blocks joined by transitions, and a classifier.

    Attributes:
        blocks: Layers of each dense block.
        growth_rate: New channels of each layer, k.
        stem: Channels of the stem convolution; 0 means 2 k (sec. 4.1).
        bn_size: Bottleneck channels over k; 0 for none ("DenseNet-B", sec. 3).
        compression: Fraction of the channels that a transition keeps, theta ("DenseNet-C", sec. 3).
        drop_rate: Dropout probability after each 3x3 convolution; the paper uses 0.2 without
            data augmentation.
        remat: Recompute each layer in the backward pass in place of keeping its intermediate
            arrays: same numbers, less memory, more time (arXiv:1707.06990). On the CPU, without
            dropout, a block is one operation that needs less memory still, with `remat` or without.
        num_classes: Number of classes, K.
        dtype: Compute dtype; parameters are float32.
    """

    blocks: tuple[int, ...]
    growth_rate: int = 12
    stem: int = 0
    bn_size: int = 4
    compression: float = 0.5
    drop_rate: float = 0.0
    remat: bool = False
    num_classes: int = 10
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        """Maps float `[B, H, W, C]` to float32 logits `[B, K]`."""
        layers.check_images(images, "densenet", smallest=2 ** (len(self.blocks) - 1))
        layer_type = layers.recomputed(DenseLayer) if self.remat else DenseLayer
        x = images.astype(self.dtype)
        x = layers.conv(x, self.stem or 2 * self.growth_rate, 3, dtype=self.dtype, name="stem_conv")
        plain = train and not (self.drop_rate or self.is_initializing())
        as_one = plain and ops.is_dense_block_fast(x)
        for block, depth in enumerate(self.blocks, start=1):
            if block > 1:
                x = self.transition(x, train=train, as_one=as_one, name=f"transition{block - 1}")
            names = [f"block{block}_layer{layer}" for layer in range(1, depth + 1)]
            if as_one:
                x = self.block_as_one(x, names)
                continue
            for name in names:
                new = layer_type(
                    growth_rate=self.growth_rate,
                    bn_size=self.bn_size,
                    drop_rate=self.drop_rate,
                    dtype=self.dtype,
                    name=name,
                )(x, train)
                # The barrier has XLA write the concatenation once. Without it, it is repeated in
                # every kernel that reads it, and compiling takes the square of the depth.
                x = jax.lax.optimization_barrier(jnp.concatenate([x, new], axis=-1))
        x = layers.norm_relu(x, train=train, dtype=self.dtype, name="final_norm")
        return layers.classifier(x, self.num_classes, dtype=self.dtype)

    def block_as_one(self, x: jax.Array, names: list[str]) -> jax.Array:
        """What the layers of these names give in training, computed by `ops.dense_block`."""
        params, batch_stats = self.variables["params"], self.variables["batch_stats"]
        x, statistics = ops.dense_block(x, [params[name] for name in names], layers.NORM_EPSILON)
        for name, norms in zip(names, statistics, strict=True):
            updated = {
                norm: updated_moments(batch_stats[name][norm], mean, var, layers.NORM_MOMENTUM)
                for norm, (mean, var) in norms.items()
            }
            self.put_variable("batch_stats", name, updated)
        return x

    def transition(self, x: jax.Array, *, train: bool, as_one: bool, name: str) -> jax.Array:
        """Norm, ReLU, 1x1 convolution, 2x2 average pooling: half the size, theta * C channels."""
        features = int(x.shape[-1] * self.compression)
        x = layers.norm_relu(x, train=train, dtype=self.dtype, name=f"{name}_norm")
        if as_one:
            # The mean of four products is the product of the mean, a quarter of the work: forward
            # and backward 110 ms against 219 (160 channels, 32x32, batch 128; 2 cores of an EPYC,
            # jax 0.10.2, best of 4).
            x = ops.avg_pool(x, (2, 2), strides=(2, 2))
            return layers.conv(x, features, 1, dtype=self.dtype, name=f"{name}_conv")
        x = layers.conv(x, features, 1, dtype=self.dtype, name=f"{name}_conv")
        return ops.avg_pool(x, (2, 2), strides=(2, 2))


def _imagenet(*blocks: int, growth_rate: int = 32) -> tuple[type[nn.Module], dict[str, Any]]:
    """A row of the paper's table 1 with a 3x3 CIFAR stem and no max-pool."""
    return DenseNet, {"blocks": blocks, "growth_rate": growth_rate}


VARIANTS: dict[str, tuple[type[nn.Module], dict[str, Any]]] = {
    "densenet121": _imagenet(6, 12, 24, 16),
    "densenet161": _imagenet(6, 12, 36, 24, growth_rate=48),
    "densenet169": _imagenet(6, 12, 32, 32),
    "densenet201": _imagenet(6, 12, 48, 32),
    # Depth 100 = 3 blocks of 16 layers of two convolutions, 2 transitions, stem and classifier.
    "densenet_bc100_k12": (DenseNet, {"blocks": (16, 16, 16)}),
    "densenet40_k12": (
        DenseNet,
        {"blocks": (12, 12, 12), "stem": 16, "bn_size": 0, "compression": 1.0},
    ),
}
OPTIONS: tuple[str, ...] = ("growth_rate", "bn_size", "drop_rate")
