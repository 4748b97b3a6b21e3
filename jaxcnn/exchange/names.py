"""What the layers of our networks are called in well-known PyTorch code.

A row is a pattern of our layer's path and what makes the other name of its numbers. Counting starts
at 1 here, and mostly at 0 there.
"""

import re
from collections.abc import Callable, Sequence

from jaxcnn.exchange.network import Network

Row = tuple[str, Callable[..., str]]

_NUMBER = r"(\d+)"


def _rows(**templates: Callable[..., str]) -> tuple[Row, ...]:
    """Rows by keyword: N stands for a number, __ for a slash."""
    return tuple(
        (name.replace("__", "/").replace("N", _NUMBER), make) for name, make in templates.items()
    )


KUANGLIU_LENET = _rows(
    convN=lambda i: f"conv{i}", denseN=lambda i: f"fc{i}", classifier=lambda: "fc3"
)


def _resnet(shortcut: str, classifier: str) -> tuple[Row, ...]:
    """The names of torchvision's ResNet, but for the shortcuts and the classifier."""
    return _rows(
        stem_conv=lambda: "conv1",
        stem_norm=lambda: "bn1",
        stageN_blockN__convN=lambda s, b, i: f"layer{s}.{b - 1}.conv{i}",
        stageN_blockN__normN=lambda s, b, i: f"layer{s}.{b - 1}.bn{i}",
        stageN_blockN__shortcut_conv=lambda s, b: f"layer{s}.{b - 1}.{shortcut}.0",
        stageN_blockN__shortcut_norm=lambda s, b: f"layer{s}.{b - 1}.{shortcut}.1",
        classifier=lambda: classifier,
    )


KUANGLIU_RESNET = _resnet("shortcut", "linear")
TORCHVISION_RESNET = _resnet("downsample", "fc")
# Layers of a sequence with a ReLU behind each norm but the last: conv, norm, ReLU, conv, ...
WEIAICUNZAI_RESNET = _rows(
    stem_conv=lambda: "conv1.0",
    stem_norm=lambda: "conv1.1",
    stageN_blockN__convN=lambda s, b, i: f"conv{s + 1}_x.{b - 1}.residual_function.{3 * i - 3}",
    stageN_blockN__normN=lambda s, b, i: f"conv{s + 1}_x.{b - 1}.residual_function.{3 * i - 2}",
    stageN_blockN__shortcut_conv=lambda s, b: f"conv{s + 1}_x.{b - 1}.shortcut.0",
    stageN_blockN__shortcut_norm=lambda s, b: f"conv{s + 1}_x.{b - 1}.shortcut.1",
    classifier=lambda: "fc",
)
KUANGLIU_DENSENET = _rows(
    stem_conv=lambda: "conv1",
    blockN_layerN__normN=lambda b, n, i: f"dense{b}.{n - 1}.bn{i}",
    blockN_layerN__convN=lambda b, n, i: f"dense{b}.{n - 1}.conv{i}",
    transitionN_norm=lambda b: f"trans{b}.bn",
    transitionN_conv=lambda b: f"trans{b}.conv",
    final_norm=lambda: "bn",
    classifier=lambda: "linear",
)


def _torchvision_densenet(final_norm: str) -> tuple[Row, ...]:
    block = "features.denseblock{}.denselayer{}.{}{}".format
    return _rows(
        stem_conv=lambda: "features.conv0",
        blockN_layerN__normN=lambda b, n, i: block(b, n, "norm", i),
        blockN_layerN__convN=lambda b, n, i: block(b, n, "conv", i),
        transitionN_norm=lambda b: f"features.transition{b}.norm",
        transitionN_conv=lambda b: f"features.transition{b}.conv",
        final_norm=lambda: f"features.{final_norm}",
        classifier=lambda: "classifier",
    )


TORCHVISION_DENSENET = _torchvision_densenet("norm5")
GPLEISS_DENSENET = _torchvision_densenet("norm_final")


def _andreasveit_densenet(has_bottleneck: bool) -> tuple[Row, ...]:
    # Without a bottleneck its only norm and convolution are the first; ours are the second.
    back = 0 if has_bottleneck else 1
    return _rows(
        stem_conv=lambda: "conv1",
        blockN_layerN__normN=lambda b, n, i: f"block{b}.layer.{n - 1}.bn{i - back}",
        blockN_layerN__convN=lambda b, n, i: f"block{b}.layer.{n - 1}.conv{i - back}",
        transitionN_norm=lambda b: f"trans{b}.bn1",
        transitionN_conv=lambda b: f"trans{b}.conv1",
        final_norm=lambda: "bn1",
        classifier=lambda: "fc",
    )


ANDREASVEIT_DENSENET = _andreasveit_densenet(False)
ANDREASVEIT_DENSENET_BC = _andreasveit_densenet(True)
# A block's three norms and convolutions in a sequence: norm, ReLU, conv, norm, ReLU, conv; the last
# dense block is called without "_layer".
_WEIAICUNZAI_BLOCKS = 4


def _weiaicunzai_block(block: int) -> str:
    last = "" if block == _WEIAICUNZAI_BLOCKS else "_layer_"
    return f"features.dense_block{last}{block - 1}"


WEIAICUNZAI_DENSENET = _rows(
    stem_conv=lambda: "conv1",
    blockN_layerN__normN=lambda b, n, i: (
        f"{_weiaicunzai_block(b)}.bottle_neck_layer_{n - 1}.bottle_neck.{3 * i - 3}"
    ),
    blockN_layerN__convN=lambda b, n, i: (
        f"{_weiaicunzai_block(b)}.bottle_neck_layer_{n - 1}.bottle_neck.{3 * i - 1}"
    ),
    transitionN_norm=lambda b: f"features.transition_layer_{b - 1}.down_sample.0",
    transitionN_conv=lambda b: f"features.transition_layer_{b - 1}.down_sample.1",
    final_norm=lambda: "features.bn",
    classifier=lambda: "linear",
)
KUANGLIU_MOBILENET = _rows(
    stem_conv=lambda: "conv1",
    stem_norm=lambda: "bn1",
    blockN__depthwise_conv=lambda b: f"layers.{b - 1}.conv1",
    blockN__depthwise_norm=lambda b: f"layers.{b - 1}.bn1",
    blockN__pointwise_conv=lambda b: f"layers.{b - 1}.conv2",
    blockN__pointwise_norm=lambda b: f"layers.{b - 1}.bn2",
    classifier=lambda: "linear",
)


def of_layers(network: Network, rows: Sequence[Row]) -> dict[str, str]:
    """Returns the other name of each layer of `network`."""
    return {layer.name: _translated(layer.name, rows) for layer in network.layers}


def of_arrays(network: Network, layers: dict[str, str]) -> dict[str, str]:
    """Returns the other name of each array by its path, such as "layer1.0.bn1.running_mean"."""
    return {
        path: f"{layers[layer.name]}.{last}"
        for layer in network.layers
        for path, last in layer.arrays.items()
    }


def _translated(layer: str, rows: Sequence[Row]) -> str:
    for pattern, make in rows:
        if found := re.fullmatch(pattern, layer):
            return make(*map(int, found.groups()))
    raise AssertionError(f"no row for the layer {layer}")
