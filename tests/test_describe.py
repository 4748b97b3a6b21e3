"""The table of a network: parameters and FLOPs against the literature and by hand."""

import jax.numpy as jnp
import pytest
from conftest import all_variants

from jaxcnn import models
from jaxcnn.models import summary

IMAGE = (32, 32, 3)


@pytest.mark.parametrize(
    ("name", "flops"),
    [
        ("resnet18", 0.56e9),  # multiply-adds at 32x32 with a 3x3 stem
        ("resnet20", 40.8e6),
        ("resnet56", 125.5e6),
    ],
)
def test_flops_are_the_published_ones(name, flops):
    assert summary.totals(summary.block_summaries(models.create(name), IMAGE))[1] == pytest.approx(
        flops, rel=0.01
    )


def test_lenet_by_hand():
    rows = {row.name: row for row in summary.block_summaries(models.create("lenet"), IMAGE)}
    assert list(rows) == ["conv1", "conv2", "dense1", "dense2", "classifier"]
    assert rows["conv1"] == ("conv1", 1, 0, (28, 28, 6), 5 * 5 * 3 * 6 + 6, 28 * 28 * 5 * 5 * 3 * 6)
    assert rows["dense1"] == ("dense1", 1, 0, (120,), 400 * 120 + 120, 400 * 120)


def test_depthwise_convolutions_count_one_input_channel_each():
    rows = {row.name: row for row in summary.block_summaries(models.create("mobilenet"), IMAGE)}
    assert rows["block1"].flops == 16 * 16 * (9 * 32 + 32 * 32)
    assert rows["block1"].output == (16, 16, 32)


@pytest.mark.parametrize("name", all_variants(*models.FAMILY))
def test_blocks_add_up_to_the_network(name):
    rows = summary.block_summaries(models.create(name), IMAGE)
    layers = {"resnet110": 110, "densenet121": 121, "densenet_bc100_k12": 100, "lenet": 5}
    assert sum(row.layers for row in rows) == layers.get(name, sum(row.layers for row in rows))
    assert all(row.parameters > 0 for row in rows)


# Multiply-adds at 224x224 with 1,000 classes: MobileNet by its paper's table 8, DenseNet-121 by
# torchvision's table of weights.
def test_flops_of_imagenet_networks_are_the_published_ones():
    # A stem of stride 1 on 112x112 computes as much as the paper's of stride 2 on 224x224.
    mobilenet = summary.block_summaries(models.create("mobilenet_v1", 1000), (112, 112, 3))
    assert summary.totals(mobilenet)[1] == pytest.approx(569e6, rel=0.01)
    # Behind the stem and the max-pooling that CIFAR's variant lacks, images are 56x56 of 64
    # channels; the stem itself is 7x7 with stride 2.
    densenet = summary.layers(models.create("densenet121", 1000), (56, 56, 3))
    stem, *rest = densenet
    assert stem.output == (56, 56, 64)
    published_stem = 112 * 112 * 7 * 7 * 3 * 64
    flops = published_stem + sum(layer.flops for layer in rest)
    assert flops == pytest.approx(2.83e9, rel=0.01)


@pytest.mark.parametrize("name", ["lenet", "resnet18", "resnet20", "densenet40_k12", "mobilenet"])
def test_flops_agree_with_those_that_xla_counts(name):
    model = models.create(name)
    inside = sum(layer.inside for layer in summary.layers(model, IMAGE))
    # XLA adds norms, activations and pooling: 3.1 % at most, in MobileNet.
    assert 2 * inside <= summary.xla_flops(model, IMAGE) < 2 * 1.04 * inside


def test_products_with_padding_are_told_from_those_inside():
    layers = {la.name: la for la in summary.layers(models.create("mobilenet"), IMAGE)}
    # 32 rows at stride 2 with one of padding: 16 positions of 3 taps, one tap outside.
    assert layers["stem_conv"].inside == (16 * 3 - 1) ** 2 * 3 * 32
    assert layers["block8/depthwise_conv"].inside == 2 * 2 * 512  # 2x2 pixels, 3x3 taps
    assert layers["block8/pointwise_conv"].inside == layers["block8/pointwise_conv"].flops
    lenet = summary.layers(models.create("lenet"), IMAGE)
    assert all(layer.inside == layer.flops for layer in lenet)  # no padding in it


def test_memory_is_what_the_outputs_take():
    for dtype, size in (("bfloat16", 2), ("float32", 4)):
        stem, *_ = summary.layers(models.create("resnet20", dtype=jnp.dtype(dtype)), IMAGE)
        assert stem.memory == size * 32 * 32 * 16
