"""Channels that another program keeps in another order: which of its channels is which of ours.

The order of channels is a convention of the code, not of the network: where code concatenates or
pads the other way round, the same function needs its weights permuted.
"""

from typing import NamedTuple

import numpy as np

from jaxcnn.exchange.network import Network


class Order(NamedTuple):
    """Permutations of a layer's channels: ours[j] is theirs[permutation[j]]; None keeps the order.

    Attributes:
        inputs: Of the channels that a convolution or dense layer reads.
        outputs: Of those that it gives; of a norm, its only ones.
    """

    inputs: np.ndarray | None = None
    outputs: np.ndarray | None = None


def none(network: Network) -> dict[str, Order]:
    """The same order everywhere."""
    return {}


def flattened_channels_first(network: Network) -> dict[str, Order]:
    """LeNet's first dense layer reads [H, W, C] here, and [C, H, W] in PyTorch."""
    height, width, channels = next(
        layer.output for layer in network.layers if layer.name == "conv2"
    )
    pooled = (channels, height // 2, width // 2)
    rows = np.arange(np.prod(pooled)).reshape(pooled).transpose(1, 2, 0)
    return {"dense1": Order(inputs=rows.ravel())}


def newest_first(network: Network) -> dict[str, Order]:
    """DenseNet code that concatenates [new, old]; here, as in the paper, it is [old, new]."""
    orders: dict[str, Order] = {}
    first, news = 0, list[int]()  # channels that a block begins with, and those of its layers

    def order() -> np.ndarray:
        ends = np.cumsum([0, *news])
        after = ends[-1]
        parts = [np.arange(new) + after - end for new, end in zip(news, ends[1:], strict=True)]
        return np.concatenate([np.arange(first) + after, *parts])

    group, reads_all = "", True
    for layer in network.layers:
        if layer.name == "stem_conv":
            first = layer.output[-1]
            continue
        if (here := layer.name.partition("/")[0]) != group:
            group, reads_all = here, True
        if reads_all:  # the first norm and the first convolution of a dense layer
            is_norm = layer.kind == "norm"
            orders[layer.name] = Order(outputs=order()) if is_norm else Order(inputs=order())
            reads_all = is_norm
        if layer.name.endswith("/conv2"):
            news.append(layer.output[-1])
        elif here.startswith("transition") and layer.kind == "conv":
            first, news = layer.output[-1], []
    return orders


def zeros_on_both_sides(network: Network) -> dict[str, Order]:
    """Option A shortcuts that put half of the new zero channels before the old ones, half behind.

    Here all of them are behind. The channels between the blocks of a stage are permuted, those
    inside of a block are not.
    """
    orders: dict[str, Order] = {}
    trunk: np.ndarray | None = None
    for layer in network.layers:
        channels, last = layer.output[-1], layer.name.rpartition("/")[2]
        if last == "conv1" and trunk is not None:
            orders[layer.name] = Order(inputs=trunk)
            if channels > len(trunk):
                before = (channels - len(trunk)) // 2
                trunk = np.concatenate(
                    [
                        before + trunk,
                        np.arange(before),
                        np.arange(before + len(trunk), channels),
                    ]
                )
        elif last == "stem_norm":
            trunk = np.arange(channels)
        elif last in ("conv2", "norm2"):
            orders[layer.name] = Order(outputs=trunk)
        elif layer.name == "classifier":
            orders[layer.name] = Order(inputs=trunk)
    return orders


def permute(array: np.ndarray, order: Order, *, inverse: bool = False) -> np.ndarray:
    """Returns an array in our order, or in theirs; the array's axes are ours.

    Args:
        array: A kernel [..., in, out] or vector [out].
        order: Of its layer.
        inverse: From ours to theirs.
    """
    axes = {array.ndim - 1: order.outputs}
    if array.ndim > 1:
        axes[array.ndim - 2] = order.inputs
    for axis, permutation in axes.items():
        if permutation is not None:
            chosen = np.argsort(permutation) if inverse else permutation
            array = np.take(array, chosen, axis)
    return array
