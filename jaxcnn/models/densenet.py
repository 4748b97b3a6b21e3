"""DenseNet: densely connected networks of Huang et al. 2017 (arXiv:1608.06993)."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxcnn import ops
from jaxcnn.models import base, layers


class DenseLayer(nn.Module):
    """Computes the `growth_rate` new channels of one layer (sec. 3, "Composite function").

    Attributes:
        growth_rate: New channels, k.
        bn_size: The 1x1 bottleneck has bn_size * k channels; 0 leaves the bottleneck out.
        drop_rate: Dropout probability after the last convolution.
        make: Creates the layers.
    """

    growth_rate: int
    bn_size: int
    drop_rate: float
    make: layers.LayerFactory

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps `[B, H, W, C]` to `[B, H, W, k]`; `train` is positional for `nn.remat`."""
        if self.bn_size:
            # DenseNet-B: a layer deep in a block reads many channels; the 3x3 convolution then
            # reads bn_size * k.
            x = self.make.norm(name="norm1")(x, train=train, with_relu=True)
            x = self.make.conv(self.bn_size * self.growth_rate, 1, name="conv1")(x)
        x = self.make.norm(name="norm2")(x, train=train, with_relu=True)
        x = self.make.conv(self.growth_rate, 3, name="conv2")(x)
        return nn.Dropout(self.drop_rate, deterministic=not train)(x)


class DenseNet(base.Network):
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
            arrays: same numbers, less memory, more time (arXiv:1707.06990). It changes nothing
            where a block is one operation, which needs little memory anyway.
    """

    # No faster with it, and long to compile: docs/performance.md has the times.
    gains_by_onednn: ClassVar[bool] = False

    blocks: tuple[int, ...]
    growth_rate: int = 12
    stem: int = 0
    bn_size: int = 4
    compression: float = 0.5
    drop_rate: float = 0.0
    remat: bool = False

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        """Maps float `[B, H, W, C]` to float32 logits `[B, K]`."""
        layers.check_images(images, "densenet", smallest=2 ** (len(self.blocks) - 1))
        make = self.layer_factory()
        stem = make.conv(self.stem or 2 * self.growth_rate, 3, name="stem_conv")
        x = stem(images.astype(self.dtype))
        # Asked once: it decides for the transitions, too.
        is_fused = self.is_fused(train)
        for block, depth in enumerate(self.blocks, start=1):
            if block > 1:
                name = f"transition{block - 1}"
                x = self.transition(x, make, train=train, pool_first=is_fused, name=name)
            names = [f"block{block}_layer{layer}" for layer in range(1, depth + 1)]
            x = self.fused_block(x, names) if is_fused else self.block(x, make, names, train)
        x = make.norm(name="final_norm")(x, train=train, with_relu=True)
        return make.classifier(x, self.num_classes)

    def is_fused(self, train: bool) -> bool:
        """Whether a block is one operation, `ops.dense_block`, which is for training.

        It has no dropout, and would walk through groups of the batch that lie on different devices.
        """
        is_plain = self.ops == "fast" and self.norm_groups == 1 and not self.drop_rate
        return train and is_plain and not self.is_initializing()

    def block(
        self, x: jax.Array, make: layers.LayerFactory, names: list[str], train: bool
    ) -> jax.Array:
        """Layers of these names, each of whose results is concatenated to what it was given."""
        layer_type = layers.recomputed(DenseLayer) if self.remat else DenseLayer
        for name in names:
            new = layer_type(
                growth_rate=self.growth_rate,
                bn_size=self.bn_size,
                drop_rate=self.drop_rate,
                make=make,
                name=name,
            )(x, train)
            # The barrier has XLA write the concatenation once. Without it, it is repeated in
            # every kernel that reads it, and compiling takes the square of the depth.
            x = jax.lax.optimization_barrier(jnp.concatenate([x, new], axis=-1))
        return x

    def fused_block(self, x: jax.Array, names: list[str]) -> jax.Array:
        """What `block` gives in training, computed by `ops.dense_block`."""
        # The layers' own modules are not called: their parameters and statistics are read under the
        # same names, so that a checkpoint fits both ways of computing a block.
        params, batch_stats = self.variables["params"], self.variables["batch_stats"]
        weights = [params[name] for name in names]
        x, statistics = ops.dense_block(x, weights, layers.NORM_EPSILON)
        for name, norms in zip(names, statistics, strict=True):
            updated = {
                norm: layers.updated_moments(batch_stats[name][norm], mean, var, self.norm_momentum)
                for norm, (mean, var) in norms.items()
            }
            self.put_variable("batch_stats", name, updated)
        return x

    def transition(
        self,
        x: jax.Array,
        make: layers.LayerFactory,
        *,
        train: bool,
        pool_first: bool,
        name: str,
    ) -> jax.Array:
        """Norm, ReLU, 1x1 convolution, 2x2 average pooling: half the size, theta * C channels.

        With `pool_first`, the last two are exchanged: the mean of four products is the product of
        the mean, up to rounding, for a quarter of the work.
        """
        conv = make.conv(int(x.shape[-1] * self.compression), 1, name=f"{name}_conv")
        x = make.norm(name=f"{name}_norm")(x, train=train, with_relu=True)
        return conv(make.avg_pool(x)) if pool_first else make.avg_pool(conv(x))


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
