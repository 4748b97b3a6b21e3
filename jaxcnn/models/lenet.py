"""LeNet: the study's basic CNN, two convolutions and three dense layers (LeCun et al. 1998)."""

from typing import Any

import jax
from flax import linen as nn

from jaxcnn import ops
from jaxcnn.models import base, layers


class LeNet(base.Network):
    """LeNet-5 (LeCun et al. 1998, fig. 2) with ReLU and max-pooling, as the study trains it.

    There are no norms, so `norm_groups` and `norm_momentum` change nothing.
    """

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        """Maps float `[B, H, W, C]`, H and W at least 16, to float32 logits `[B, K]`.

        The first dense layer takes all positions, so its size depends on that of the images: a
        trained LeNet takes one image size only. `train` changes nothing here.
        """
        del train
        layers.check_images(images, "lenet", smallest=16)
        make = self.layer_factory()
        x = images.astype(self.dtype)
        for index, features in enumerate((6, 16), start=1):
            conv = make.conv(features, 5, padding="VALID", use_bias=True, name=f"conv{index}")
            x = make.max_pool(nn.relu(conv(x)))
        # [B, 5, 5, 16] for images of 32 x 32, as in the paper's figure.
        x = x.reshape(x.shape[0], -1)
        for index, features in enumerate((120, 84), start=1):
            dense = nn.Dense(
                features,
                dtype=self.dtype,
                kernel_init=nn.initializers.he_normal(),
                name=f"dense{index}",
            )
            x = nn.relu(dense(x))
        logits = nn.Dense(self.num_classes, dtype=self.dtype, name="classifier")(x)
        return ops.at_least_float32(logits)


VARIANTS: dict[str, tuple[type[nn.Module], dict[str, Any]]] = {"lenet": (LeNet, {})}
OPTIONS: tuple[str, ...] = ()
