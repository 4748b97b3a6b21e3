"""A network as files of other programs see it: its layers in order, with the arrays of each."""

import math
from typing import Any, NamedTuple

import numpy as np
from flax import linen as nn
from flax import traverse_util

from jaxcnn import models
from jaxcnn.models import pretrained, summary

# Names of a layer's arrays here and in PyTorch, in the order in which PyTorch has them.
_NORM = {
    "params/scale": "weight",
    "params/bias": "bias",
    "batch_stats/mean": "running_mean",
    "batch_stats/var": "running_var",
}
_OTHER = {
    "params/kernel": "weight",
    "batch_stats/kernel": "weight",  # of a whitening convolution
    "params/bias": "bias",
}


class Layer(NamedTuple):
    """A convolution, dense layer or norm.

    Attributes:
        name: Its path, such as "stage2_block1/conv1".
        kind: "conv", "dense" or "norm".
        arrays: Path of each array, such as "params/stage2_block1/conv1/kernel" -> its last name in
            PyTorch.
        output: Shape of what it gives for one image.
    """

    name: str
    kind: str
    arrays: dict[str, str]
    output: tuple[int, ...]


class Network(NamedTuple):
    """A network without its numbers.

    Attributes:
        name: Its name in `jaxcnn.models`.
        module: The flax module.
        image_shape: (H, W, C).
        layers: In order of use.
        shapes: Of each array, by path.
    """

    name: str
    module: nn.Module
    image_shape: tuple[int, int, int]
    layers: list[Layer]
    shapes: dict[str, tuple[int, ...]]

    @property
    def family(self) -> str:
        """Its family in `jaxcnn.models`."""
        return models.FAMILY[self.name]

    @property
    def is_plain(self) -> bool:
        """Whether it is a residual network without its shortcuts."""
        return bool(getattr(self.module, "plain", False))

    @property
    def parameters(self) -> int:
        """Number of trainable parameters."""
        shapes = [s for path, s in self.shapes.items() if path.startswith("params/")]
        return sum(math.prod(shape) for shape in shapes)


def describe(name: str, module: nn.Module, image_shape: tuple[int, int, int]) -> Network:
    """Returns the layers and shapes of a network, without computing anything."""
    shapes = pretrained.shapes(module, image_shape)
    layers = []
    for row in summary.layers(module, image_shape):
        kind = row.kind if row.kind in ("dense", "norm") else "conv"
        names = _NORM if kind == "norm" else _OTHER
        found = {}
        for path, last in names.items():
            collection, _, leaf = path.partition("/")
            if (full := f"{collection}/{row.name}/{leaf}") in shapes:
                found[full] = last
        layers.append(Layer(row.name, kind, found, row.output))
    return Network(name, module, image_shape, layers, shapes)


def flatten(variables: Any) -> dict[str, Any]:
    """Returns the leaves of {"params", "batch_stats"} by path, such as "params/conv1/kernel"."""
    flat: dict[str, Any] = traverse_util.flatten_dict(variables, sep="/")
    return flat


def unflatten(arrays: dict[str, Any]) -> dict[str, Any]:
    """Returns what `flatten` was given; "batch_stats" is there also where it is empty."""
    return {"params": {}, "batch_stats": {}, **traverse_util.unflatten_dict(arrays, sep="/")}


def from_torch(array: np.ndarray) -> np.ndarray:
    """Transposes: kernels OIHW to HWIO (depthwise ones, too), dense [out, in] to [in, out]."""
    if array.ndim == 4:
        return array.transpose(2, 3, 1, 0)
    return array.T if array.ndim == 2 else array


def to_torch(array: np.ndarray) -> np.ndarray:
    """The inverse of `from_torch`."""
    if array.ndim == 4:
        return array.transpose(3, 2, 0, 1)
    return array.T if array.ndim == 2 else array
