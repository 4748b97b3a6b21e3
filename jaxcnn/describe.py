"""What a network consists of: layers, output shapes, parameters and FLOPs, without running it."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxcnn.models.batch_norm import BatchNorm


class Row(NamedTuple):
    """One block of a network.

    Attributes:
        name: First part of its layers' names, such as "stage2".
        layers: Number of convolutions and dense layers.
        output: Shape of what its last layer gives for one image.
        parameters: Number of trainable parameters.
        flops: Multiply-adds of its convolutions and dense layers for one image.
    """

    name: str
    layers: int
    output: tuple[int, ...]
    parameters: int
    flops: int


def describe(model: nn.Module, image_shape: tuple[int, int, int]) -> list[Row]:
    """Returns the blocks of `model` in order of use, for one image of `image_shape` (H, W, C).

    FLOPs are counted as the papers do (He et al. 2015, table 1: "multiply-adds"): one for each
    multiplication of a convolution or dense layer with its addition; norms, activations, pooling
    and biases are left out.
    """
    blocks: dict[str, dict[str, Any]] = {}

    def count(call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        result = call(*args, **kwargs)
        path = context.module.path
        if path and isinstance(context.module, nn.Conv | nn.Dense | BatchNorm):
            block = blocks.setdefault(path[0].split("_")[0], {"layers": 0, "flops": 0})
            if not isinstance(context.module, BatchNorm):
                kernel = context.module.variables["params"]["kernel"]
                positions = math.prod(result.shape[1:-1])
                block["flops"] += positions * math.prod(kernel.shape)
                block["layers"] += 1
            block["output"] = result.shape[1:]
        return result

    def init(key: jax.Array) -> Any:
        with nn.intercept_methods(count):
            return model.init(key, jnp.zeros((1, *image_shape), jnp.float32), train=False)

    params = jax.eval_shape(init, jax.random.key(0))["params"]
    for block in blocks.values():
        block["parameters"] = 0
    for name, tree in params.items():
        size = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))
        blocks[name.split("_")[0]]["parameters"] += size
    return [Row(name=name, **block) for name, block in blocks.items()]


def totals(rows: list[Row]) -> tuple[int, int]:
    """Returns (parameters, FLOPs of one image) of the whole network."""
    return sum(row.parameters for row in rows), sum(row.flops for row in rows)
