"""Speedrun: the network of the fastest trainings to 94 % on CIFAR-10 (Jordan, arXiv:2404.00498)."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.typing import DTypeLike

from jaxcnn import ops
from jaxcnn.models import base, layers, whitening
from jaxcnn.models.groups import WHITENING
from jaxcnn.ops.pixels import PixelStats

EPSILON = 1e-12
"""Of the norms: so small that it only keeps 0 from dividing."""


class DiracConv(layers.Conv):
    """A convolution without bias whose first filters pass on its inputs (sec. 3.3).

    The first C of its F filters begin as the identity, the others with PyTorch's values.
    """

    @nn.compact
    def weights(self, channels: int) -> tuple[jax.Array, None]:
        """As in the base class."""
        size = self.kernel_size

        def init(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike) -> jax.Array:
            values = whitening.uniform(size**2 * channels)(key, shape, dtype)
            passing = jnp.eye(channels, self.features, dtype=dtype)
            count = min(channels, self.features)
            values = values.at[..., :count].set(0)
            return values.at[size // 2, size // 2, :, :count].set(passing[:, :count])

        shape = (size, size, channels, self.features)
        return self.param("kernel", init, shape, jnp.float32).astype(self.dtype), None


class Group(nn.Module):
    """Convolution, max-pool, norm, GELU; then convolution, norm, GELU, once or twice.

    Attributes:
        features: Channels.
        is_residual: A third convolution and norm, and what entered the second is added to its
            result before the last GELU.
        make: Has the options of the layers.
    """

    features: int
    is_residual: bool
    make: layers.LayerFactory

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps `[B, H, W, C]` to `[B, H / 2, W / 2, features]`; `train` is positional for remat."""
        x = self.make.max_pool(self.conv(1)(x))
        x = entered = self.make.gelu(self.norm(1)(x, train=train))
        x = self.norm(2)(self.conv(2)(x), train=train)
        if self.is_residual:
            x = self.norm(3)(self.conv(3)(self.make.gelu(x)), train=train) + entered
        return self.make.gelu(x)

    def conv(self, index: int) -> layers.Conv:
        """The 3x3 convolution of a number."""
        return self.make.conv(self.features, 3, kind=DiracConv, name=f"conv{index}")

    def norm(self, index: int) -> layers.BatchNorm:
        """The norm of a number."""
        return self.make.norm(epsilon=EPSILON, use_scale=False, name=f"norm{index}")


class Speedrun(base.Network):
    """A whitening convolution, groups, the largest of 3x3 positions, and a classifier.

    Images of 32x32 pixels end in one position. Of larger ones the classifier takes the mean of
    several, so the layers fit images of any size.

    Attributes:
        widths: Channels of the groups, three in the recipe.
        is_residual: See `Group`.
        width: Multiplies `widths`.
        remat: Recompute each group in the backward pass in place of keeping its arrays.
    """

    widths: tuple[int, ...]
    is_residual: bool = False
    width: float = 1.0
    remat: bool = False

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        """Maps float `[B, H, W, C]` to float32 logits `[B, K]`; H and W at least 9."""
        # Each group halves what the first convolution leaves, the image less a row and a column.
        layers.check_images(images, "speedrun", smallest=1 + 2 ** len(self.widths))
        group = layers.recomputed(Group) if self.remat else Group
        make = self.layer_factory()
        whiten = make.conv(
            *(8 * images.shape[-1], 2),
            kind=whitening.WhiteningConv,
            padding="VALID",
            use_bias=True,
            name=WHITENING,
        )
        x = make.gelu(whiten(images.astype(self.dtype)))
        for index, width in enumerate(self.widths, start=1):
            features = max(8, int(width * self.width))
            x = group(features, self.is_residual, make, name=f"group{index}")(x, train)
        # Maps of fewer than 3x3 positions are one window.
        window = (min(3, x.shape[1]), min(3, x.shape[2]))
        means = jnp.mean(make.max_pool(x, window), axis=(1, 2))
        classifier = nn.Dense(
            self.num_classes,
            use_bias=False,
            dtype=self.dtype,
            kernel_init=_with_deviation_1,
            name="classifier",
        )
        return ops.at_least_float32(classifier(means)) / means.shape[-1]

    @nn.nowrap
    def data_statistics(self, images: np.ndarray, stats: PixelStats) -> dict[str, np.ndarray]:
        """Returns the arrays of "batch_stats" that training images decide, by their paths.

        Args:
            images: All training images, uint8 `[N, H, W, C]`.
            stats: By which they are normalized.
        """
        kernel = whitening.kernel_of(images[: whitening.IMAGES], stats)
        return {f"{WHITENING}/kernel": kernel}


def _with_deviation_1(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike) -> jax.Array:
    values = jax.random.uniform(key, shape, dtype, -1, 1)
    return values / jnp.std(values, ddof=1)


VARIANTS: dict[str, tuple[type[nn.Module], dict[str, Any]]] = {
    "speedrun": (Speedrun, {"widths": (64, 256, 256)}),
    # The network of 96 % in the same repository: wider, with a third convolution and a shortcut.
    "speedrun96": (Speedrun, {"widths": (128, 384, 512), "is_residual": True}),
}
OPTIONS: tuple[str, ...] = ("width",)
