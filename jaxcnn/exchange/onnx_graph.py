"""A network as an ONNX graph: the architectures once more, in the operations of ONNX.

Arrays are [B, C, H, W] inside, as most runtimes compute. Every export is compared with the network
itself, see `exporting`.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

import jaxcnn
from jaxcnn.exchange import network, orders, weights
from jaxcnn.exchange.onnx_layers import Graph
from jaxcnn.exchange.subject import Subject
from jaxcnn.models import speedrun
from jaxcnn.models.groups import WHITENING

OPSET = 17
"""Version of the operations, of 2022; every runtime since then has them."""

# The file format that belongs to it; newer ones are refused by runtimes of that time.
_IR_VERSION = 8

INPUT, OUTPUT, BATCH = "images", "logits", "batch"


def build(subject: Subject) -> onnx.ModelProto:
    """Returns the model: uint8 `[batch, H, W, C]` to float32 `[batch, K]`; card in its metadata."""
    graph = Graph(subject.arrays)
    x = graph.normalized(INPUT, subject.run.settings.pixel_stats)
    logits = _FAMILIES[subject.network.family](graph, subject.network, x)
    graph.add("Identity", [logits], name=OUTPUT)
    classes = subject.arrays["params/classifier/kernel"].shape[1]
    made = helper.make_graph(
        graph.nodes,
        subject.network.name,
        [
            helper.make_tensor_value_info(
                INPUT, TensorProto.UINT8, [BATCH, *subject.network.image_shape]
            )
        ],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, [BATCH, classes])],
        graph.constants,
    )
    model = helper.make_model(
        made,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=_IR_VERSION,
        producer_name="jaxcnn",
        producer_version=jaxcnn.__version__,
    )
    card = weights.card(subject.run, subject.run.name, subject.step)
    helper.set_model_props(model, weights.metadata(card))
    onnx.checker.check_model(model, full_check=True)
    return model


def _lenet(graph: Graph, of: network.Network, x: str) -> str:
    for layer in ("conv1", "conv2"):
        x = graph.pool(graph.relu(graph.conv(x, layer, padding="VALID")), "MaxPool")
    order = orders.flattened_channels_first(of)["dense1"]
    kernel = orders.permute(graph.arrays["params/dense1/kernel"], order, inverse=True)
    x = graph.relu(graph.dense(graph.add("Flatten", [x]), "dense1", kernel))
    return graph.dense(graph.relu(graph.dense(x, "dense2")), "classifier")


def _resnet(graph: Graph, of: network.Network, x: str) -> str:
    module: Any = of.module
    x = graph.norm_relu(graph.conv(x, "stem_conv"), "stem_norm")
    for stage, blocks in enumerate(module.blocks, start=1):
        for block in range(1, blocks + 1):
            name = f"stage{stage}_block{block}"
            stride = 2 if stage > 1 and block == 1 else 1
            strides = [1, stride, 1] if module.bottleneck else [stride, 1]
            y = x
            for index, step in enumerate(strides, start=1):
                y = graph.norm(graph.conv(y, f"{name}/conv{index}", step), f"{name}/norm{index}")
                y = graph.relu(y) if index < len(strides) else y
            if not module.plain:
                y = graph.add("Add", [y, _shortcut(graph, name, x, stride, len(strides))])
            x = graph.relu(y)
    return graph.classifier(x)


def _shortcut(graph: Graph, block: str, x: str, stride: int, last: int) -> str:
    """The block's input, brought to the shape of its output."""
    if graph.has(f"{block}/shortcut_conv"):
        x = graph.conv(x, f"{block}/shortcut_conv", stride)
        return graph.norm(x, f"{block}/shortcut_norm")
    before, after = graph.channels(f"{block}/conv1")[0], graph.channels(f"{block}/conv{last}")[1]
    if stride == 1 and before == after:
        return x
    # Option A: every second position, and zeros for the new channels.
    limits = {
        "starts": [0, 0],
        "ends": [np.iinfo(np.int64).max] * 2,
        "axes": [2, 3],
        "steps": [stride, stride],
    }
    named = [graph.constant(f"{block}/{key}", row, np.int64) for key, row in limits.items()]
    x = graph.add("Slice", [x, *named])
    zeros = [0, 0, 0, 0, 0, after - before, 0, 0]
    return graph.add("Pad", [x, graph.constant(f"{block}/zeros", zeros, np.int64)])


def _densenet(graph: Graph, of: network.Network, x: str) -> str:
    module: Any = of.module
    x = graph.conv(x, "stem_conv")
    for block, depth in enumerate(module.blocks, start=1):
        if block > 1:
            name = f"transition{block - 1}"
            x = graph.conv(graph.norm_relu(x, f"{name}_norm"), f"{name}_conv")
            x = graph.pool(x, "AveragePool")
        for layer in range(1, depth + 1):
            name, y = f"block{block}_layer{layer}", x
            for index in (1, 2) if module.bn_size else (2,):
                y = graph.conv(graph.norm_relu(y, f"{name}/norm{index}"), f"{name}/conv{index}")
            x = graph.add("Concat", [x, y], axis=1)
    return graph.classifier(graph.norm_relu(x, "final_norm"))


def _mobilenet(graph: Graph, of: network.Network, x: str) -> str:
    module: Any = of.module
    x = graph.norm_relu(graph.conv(x, "stem_conv", module.stem_strides), "stem_norm")
    for block, (_, stride) in enumerate(module.blocks, start=1):
        for part, step in (("depthwise", stride), ("pointwise", 1)):
            name = f"block{block}/{part}"
            x = graph.norm_relu(graph.conv(x, f"{name}_conv", step), f"{name}_norm")
    return graph.classifier(x)


def _speedrun(graph: Graph, of: network.Network, x: str) -> str:
    module: Any = of.module
    x = graph.gelu(graph.conv(x, WHITENING, padding="VALID"))
    for index in range(1, len(module.widths) + 1):
        name = f"group{index}"
        x = graph.pool(graph.conv(x, f"{name}/conv1"), "MaxPool")
        x = entered = graph.gelu(graph.norm(x, f"{name}/norm1", speedrun.EPSILON))
        x = graph.norm(graph.conv(x, f"{name}/conv2"), f"{name}/norm2", speedrun.EPSILON)
        if module.is_residual:
            x = graph.conv(graph.gelu(x), f"{name}/conv3")
            x = graph.add("Add", [graph.norm(x, f"{name}/norm3", speedrun.EPSILON), entered])
        x = graph.gelu(x)
    height, width, features = of.layers[-2].output
    logits = graph.classifier(graph.pool(x, "MaxPool", (min(3, height), min(3, width))))
    return graph.add("Mul", [logits, graph.constant("logit_scale", 1 / features)])


_FAMILIES: dict[str, Callable[[Graph, network.Network, str], str]] = {
    "lenet": _lenet,
    "resnet": _resnet,
    "densenet": _densenet,
    "mobilenet": _mobilenet,
    "speedrun": _speedrun,
}
