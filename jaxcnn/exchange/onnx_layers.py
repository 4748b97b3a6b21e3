"""The layers of the networks as nodes of an ONNX graph; arrays are [B, C, H, W]."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from jaxcnn.exchange import network
from jaxcnn.models.groups import WHITENING
from jaxcnn.models.layers import NORM_EPSILON
from jaxcnn.ops.pixels import PixelStats


class Graph:
    """Nodes and constants that are being collected.

    Attributes:
        arrays: The network's weights, by path.
        nodes: In order of use.
        constants: Weights and other fixed arrays.
    """

    def __init__(self, arrays: dict[str, np.ndarray]) -> None:
        """Begins without nodes."""
        self.arrays = arrays
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def add(self, operation: str, inputs: Sequence[str], name: str = "", **attributes: Any) -> str:
        """Adds a node and returns the name of its only output, by default a number."""
        name = name or f"{operation}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operation, inputs, [name], name=name, **attributes))
        return name

    def constant(self, name: str, array: Any, dtype: Any = np.float32) -> str:
        """Adds a constant and returns its name."""
        content = np.ascontiguousarray(array, dtype)
        self.constants.append(numpy_helper.from_array(content, name))
        return name

    def normalized(self, images: str, stats: PixelStats) -> str:
        """uint8 [B, H, W, C] to float32 [B, C, H, W], as `ops.pixels.normalize` computes it."""
        mean, std = (np.asarray(row).reshape(1, -1, 1, 1) for row in stats)
        x = self.add("Cast", [images], to=TensorProto.FLOAT)
        x = self.add("Transpose", [x], perm=[0, 3, 1, 2])
        x = self.add("Mul", [x, self.constant("pixel_scale", 1 / (255 * std))])
        return self.add("Sub", [x, self.constant("pixel_shift", mean / std)])

    def conv(self, x: str, layer: str, stride: int = 1, padding: str = "SAME") -> str:
        """A square convolution, depthwise if its kernel has one input channel of several."""
        collection = "batch_stats" if layer == WHITENING else "params"
        kernel = self.arrays[f"{collection}/{layer}/kernel"]
        margin = kernel.shape[0] // 2 if padding == "SAME" else 0
        names = [x, self.constant(f"{layer}/kernel", network.to_torch(kernel))]
        if (bias := f"params/{layer}/bias") in self.arrays:
            names.append(self.constant(f"{layer}/bias", self.arrays[bias]))
        return self.add(
            "Conv",
            names,
            name=layer,
            kernel_shape=list(kernel.shape[:2]),
            strides=[stride, stride],
            pads=[margin] * 4,
            group=kernel.shape[3] if layer.endswith("depthwise_conv") else 1,
        )

    def norm(self, x: str, layer: str, epsilon: float = NORM_EPSILON) -> str:
        """A batch norm by its running statistics; runtimes fold it into a convolution before it."""
        paths = ("params/{}/scale", "params/{}/bias", "batch_stats/{}/mean", "batch_stats/{}/var")
        arrays = {path.rpartition("/")[2]: self.arrays.get(path.format(layer)) for path in paths}
        if arrays["scale"] is None:
            arrays["scale"] = np.ones_like(arrays["bias"])
        names = [self.constant(f"{layer}/{name}", array) for name, array in arrays.items()]
        return self.add("BatchNormalization", [x, *names], name=layer, epsilon=epsilon)

    def norm_relu(self, x: str, layer: str) -> str:
        """A batch norm and ReLU."""
        return self.relu(self.norm(x, layer))

    def relu(self, x: str) -> str:
        """ReLU."""
        return self.add("Relu", [x])

    def gelu(self, x: str) -> str:
        """GELU; an operation of that name is younger than `onnx_graph.OPSET`."""
        # The names of constants are those of nodes, which are numbered.
        number = len(self.nodes)
        halved, one = self.constant(f"half_{number}", 0.5), self.constant(f"one_{number}", 1.0)
        root = self.constant(f"root_{number}", 0.5**0.5)
        y = self.add("Add", [self.add("Erf", [self.add("Mul", [x, root])]), one])
        return self.add("Mul", [self.add("Mul", [x, halved]), y])

    def pool(self, x: str, operation: str, window: Sequence[int] = (2, 2)) -> str:
        """Of each 2x2 pixels, or those of another window: "MaxPool" or "AveragePool"."""
        return self.add(operation, [x], kernel_shape=list(window), strides=list(window))

    def dense(self, x: str, layer: str, kernel: np.ndarray | None = None) -> str:
        """A dense layer of [B, C]; `kernel` replaces its own."""
        own = self.arrays[f"params/{layer}/kernel"] if kernel is None else kernel
        names = [x, self.constant(f"{layer}/kernel", own)]
        if (bias := f"params/{layer}/bias") in self.arrays:
            names.append(self.constant(f"{layer}/bias", self.arrays[bias]))
        return self.add("Gemm", names, name=layer)

    def classifier(self, x: str) -> str:
        """The mean over all positions, and the dense layer "classifier"."""
        return self.dense(self.add("Flatten", [self.add("GlobalAveragePool", [x])]), "classifier")

    def channels(self, layer: str) -> tuple[int, int]:
        """Input and output channels of a convolution."""
        shape = self.arrays[f"params/{layer}/kernel"].shape
        return shape[2], shape[3]

    def has(self, layer: str) -> bool:
        """Whether there is such a convolution."""
        return f"params/{layer}/kernel" in self.arrays
