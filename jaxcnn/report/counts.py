"""What the claims need that is counted: multiply-adds and connections; nothing is run for it."""

import functools
import math
from collections.abc import Mapping
from typing import Any

from flax import linen as nn

from jaxcnn import models
from jaxcnn.evaluate.run import Run
from jaxcnn.models import summary

_IMAGE = (32, 32, 3)


def of_runs(runs: Mapping[str, Run]) -> dict[str, Any]:
    """Returns what is counted without running anything.

    `xla`: for each run's network, this project's count and XLA's (see `summary.xla_flops`).
    `separable`: for each block of MobileNet, the multiply-adds of its two convolutions over those
    of a standard 3x3 convolution, beside 1 / N + 1 / 9. `dense`: connections of each dense block.
    """
    networks = {run.model_name: (run.model, run.image_shape) for run in runs.values()}
    xla = {}
    for name, (model, shape) in networks.items():
        layers = summary.layers(model, shape)
        xla[name] = {
            "flops": sum(layer.flops for layer in layers),
            "inside": sum(layer.inside for layer in layers),
            "xla": summary.xla_flops(model, shape) / 2,
        }
    dense = {name: pair for name, pair in networks.items() if models.FAMILY[name] == "densenet"}
    dense = dense or {"densenet40_k12": (models.create("densenet40_k12"), _IMAGE)}
    return {
        "xla": xla,
        "separable": [separable(block) for block in mobilenet_blocks()],
        "dense": {name: connections(*pair) for name, pair in dense.items()},
    }


@functools.cache
def mobilenet_blocks() -> list[tuple[summary.Layer, summary.Layer]]:
    """Returns (depthwise, pointwise) of each block of the study's MobileNet."""
    layers = summary.layers(models.create("mobilenet"), _IMAGE)
    convs = [layer for layer in layers if layer.kind != "norm" and layer.name.startswith("block")]
    return list(zip(convs[::2], convs[1::2], strict=True))


def separable(block: tuple[summary.Layer, summary.Layer]) -> dict[str, Any]:
    """Returns the shapes of a block's two convolutions, and their multiply-adds over a standard's.

    The ratio is 1 / N + 1 / 9 for N output channels (arXiv:1704.04861, section 3.1).
    """
    depthwise, pointwise = block
    channels, features = depthwise.inputs[-1], pointwise.output[-1]
    standard = math.prod(pointwise.output[:-1]) * 9 * channels * features
    return {
        "block": depthwise.name.split("/")[0],
        "inputs": list(depthwise.inputs),
        "output": list(pointwise.output),
        "strides": depthwise.inputs[0] // depthwise.output[0],
        "separable": depthwise.flops + pointwise.flops,
        "standard": standard,
        "ratio": (depthwise.flops + pointwise.flops) / standard,
        "formula": 1 / features + 1 / 9,
    }


def connections(model: nn.Module, shape: tuple[int, int, int]) -> list[dict[str, int]]:
    """Returns for each dense block its layers and the direct connections between them.

    Read off the kernels: a layer that takes C channels, where the block begins with C0 and each
    layer adds k, is connected to 1 + (C - C0) / k predecessors, the block's input being one.
    """
    blocks: dict[str, list[summary.Layer]] = {}
    for layer in summary.layers(model, shape):
        if layer.kind != "norm" and layer.name.startswith("block"):
            blocks.setdefault(layer.name.split("_")[0], []).append(layer)
    found = []
    for inside in blocks.values():
        # Of each dense layer, the convolution that sees the concatenation.
        first: dict[str, summary.Layer] = {}
        for layer in inside:
            first.setdefault(layer.name.split("/")[0], layer)
        channels = [layer.inputs[-1] for layer in first.values()]
        growth = inside[-1].output[-1]
        connections = sum(1 + (taken - channels[0]) // growth for taken in channels)
        found.append({"layers": len(channels), "connections": connections})
    return found
