"""What all networks have in common: the number of classes, and how their layers compute."""

from typing import ClassVar

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from jaxcnn.models import layers


class Network(nn.Module, kw_only=True):
    """A network from images to logits, with the fields that `models.create` gives to every one.

    Attributes:
        num_classes: Number of classes, K.
        dtype: Compute dtype; parameters are float32.
        ops: "fast" (`jaxcnn.ops`) or "stock" (the primitives of lax and flax).
        norm_groups: Equal parts of a batch, each of which the norms normalize alone.
        norm_momentum: Kept fraction of the norms' running statistics.
    """

    gains_by_onednn: ClassVar[bool] = True
    """Whether steps are so much faster with oneDNN that a start may take longer for it."""

    num_classes: int = 10
    dtype: DTypeLike = jnp.float32
    ops: str = "fast"
    norm_groups: int = 1
    norm_momentum: float = layers.NORM_MOMENTUM

    @nn.nowrap
    def layer_factory(self) -> layers.LayerFactory:
        """Returns what creates layers with these fields."""
        return layers.LayerFactory(self.dtype, self.ops, self.norm_groups, self.norm_momentum)
