"""The table of a network: parameters and FLOPs against the literature and by hand."""

import pytest

from jaxcnn import describe, models

pytestmark = pytest.mark.usefixtures("stock_convolutions")

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
    assert describe.totals(describe.describe(models.create(name), IMAGE))[1] == pytest.approx(
        flops, rel=0.01
    )


def test_lenet_by_hand():
    rows = {row.name: row for row in describe.describe(models.create("lenet"), IMAGE)}
    assert list(rows) == ["conv1", "conv2", "dense1", "dense2", "classifier"]
    assert rows["conv1"] == ("conv1", 1, (28, 28, 6), 5 * 5 * 3 * 6 + 6, 28 * 28 * 5 * 5 * 3 * 6)
    assert rows["dense1"] == ("dense1", 1, (120,), 400 * 120 + 120, 400 * 120)


def test_depthwise_convolutions_count_one_input_channel_each():
    rows = {row.name: row for row in describe.describe(models.create("mobilenet"), IMAGE)}
    assert rows["block1"].flops == 16 * 16 * (9 * 32 + 32 * 32)
    assert rows["block1"].output == (16, 16, 32)


@pytest.mark.parametrize("name", models.FAMILY)
def test_blocks_add_up_to_the_network(name):
    rows = describe.describe(models.create(name), IMAGE)
    layers = {"resnet110": 110, "densenet121": 121, "densenet_bc100_k12": 100, "lenet": 5}
    assert sum(row.layers for row in rows) == layers.get(name, sum(row.layers for row in rows))
    assert all(row.parameters > 0 for row in rows)
