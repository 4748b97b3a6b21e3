"""A training step lowered for each platform: off the CPU it is made of stock operations only."""

from typing import Any

import jax
import jax.numpy as jnp
import pytest
from conftest import SMALL_FAST
from flax import linen as nn

from jaxcnn import models
from jaxcnn.data import augment
from jaxcnn.models.densenet import DenseNet
from jaxcnn.models.resnet import ResNet
from jaxcnn.train import optim
from jaxcnn.train.step import Objective, create_train_state, train_step

NETWORKS: dict[str, nn.Module] = {
    **SMALL_FAST,
    "resnet_winograd": ResNet(blocks=(1,), widths=(64,)),  # wide enough to be fused with its norm
    "densenet40_k12": models.create("densenet40_k12"),
}
BATCH, IMAGE = 128, (32, 32, 3)


def traced_step(model: nn.Module) -> Any:
    """The training step of a network, traced once for all platforms."""
    optimizer = optim.constant_sgd(0.1)
    state = jax.eval_shape(
        lambda key: create_train_state(key, model=model, optimizer=optimizer, image_shape=IMAGE),
        jax.random.key(0),
    )

    def step(state: Any, key: jax.Array, images: jax.Array, labels: jax.Array) -> Any:
        return train_step(
            state,
            key,
            images,
            labels,
            objective=Objective(model, augment.PixelStats((0.5,) * 3, (0.25,) * 3)),
            optimizer=optimizer,
            augment=augment.create_augment(crop_padding=4, flip=True),
        )

    images = jax.ShapeDtypeStruct((BATCH, *IMAGE), jnp.uint8)
    labels = jax.ShapeDtypeStruct((BATCH,), jnp.int32)
    return jax.jit(step).trace(state, jax.random.key(0), images, labels)


def counts(traced: Any, platform: str) -> dict[str, int]:
    """How often the operations that differ stand in the program for a platform."""
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    kinds = ("convolution", "while", "select_and_scatter", "reduce_window", "custom_call")
    return {kind: text.count(f"stablehlo.{kind}") for kind in kinds}


# `.ci/run` looks at these, too: their kinds of block stand in the fast suite.
_OTHERS = ("densenet40_k12", "densenet_without_bottleneck", "speedrun",
           "resnet", "resnet_padded", "resnet_bottleneck", "resnet_plain")  # fmt: skip


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow, pytest.mark.ci] if name in _OTHERS else [])
        for name in NETWORKS
    ],
)
def test_only_the_cpu_has_anything_but_stock_operations(name: str) -> None:
    ours, stock = (traced_step(NETWORKS[name].clone(ops=ops)) for ops in ("fast", "stock"))
    for platform in ("cuda", "rocm", "tpu"):
        assert counts(ours, platform) == counts(stock, platform), platform
    # The same trace, lowered for the CPU, is made of other operations.
    assert counts(ours, "cpu") != counts(stock, "cpu")


def test_no_convolution_of_a_dense_block_is_computed_again() -> None:
    """8 layers: 7 convolutions, and all but the first have a gradient of their images."""
    traced = traced_step(DenseNet(blocks=(3, 2), growth_rate=12, bn_size=0))
    assert counts(traced, "cuda")["convolution"] == 7 + 6 + 7
    assert counts(traced, "cpu")["while"] > 0  # so that loops would be found
