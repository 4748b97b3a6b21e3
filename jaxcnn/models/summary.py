"""What a network consists of: layers, shapes, parameters, FLOPs and memory, without running it."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxcnn.models.layers import BatchNorm, Conv


class Layer(NamedTuple):
    """One convolution, dense layer or norm.

    Attributes:
        name: Its path, such as "stage2_block1/conv1".
        kind: Such as "3x3", "3x3 depthwise", "dense" or "norm".
        inputs: Shape of what it takes for one image.
        output: Shape of what it gives for one image.
        parameters: Number of trainable parameters.
        flops: Multiply-adds for one image as the papers count them, see `layers`.
        inside: Those of them that do not multiply a zero of the padding.
        memory: Bytes of its output for one image, in its compute dtype.
    """

    name: str
    kind: str
    inputs: tuple[int, ...]
    output: tuple[int, ...]
    parameters: int
    flops: int
    inside: int
    memory: int


class BlockSummary(NamedTuple):
    """One block of a network.

    Attributes:
        name: First part of its layers' names, such as "stage2".
        layers: Number of convolutions and dense layers.
        norms: Number of norms.
        output: Shape of what its last layer gives for one image.
        parameters: Number of trainable parameters.
        flops: Multiply-adds of its convolutions and dense layers for one image.
    """

    name: str
    layers: int
    norms: int
    output: tuple[int, ...]
    parameters: int
    flops: int


def layers(model: nn.Module, image_shape: tuple[int, int, int]) -> list[Layer]:
    """Returns the layers of `model` in order of use, for one image of `image_shape` (H, W, C).

    FLOPs are counted as the papers do (He et al. 2015, table 1: "multiply-adds"): one for each
    multiplication of a convolution or dense layer with its addition; norms, activations, pooling
    and biases are left out.
    """
    found: list[Layer] = []

    def count(call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        result, module = call(*args, **kwargs), context.module
        is_layer = isinstance(module, Conv | nn.Dense | BatchNorm)
        # Flax also intercepts `setup` and methods that networks call on their parts.
        if is_layer and context.method_name == "__call__":
            own = module.variables["params"]
            kind, flops, inside = "norm", 0, 0
            if not isinstance(module, BatchNorm):
                # A whitening kernel is no parameter.
                kernel = {**module.variables.get("batch_stats", {}), **own}["kernel"].shape
                flops = math.prod(result.shape[1:-1]) * math.prod(kernel)
                kind, inside = "dense", flops
            if isinstance(module, Conv):
                kind = "x".join(map(str, kernel[:-2]))
                kind += " depthwise" if module.groups > 1 else ""
                # Positions of the kernel; each multiplies C / groups channels for F features.
                inside = _taps_inside(module, args[0].shape[1:-1], result.shape[1:-1])
                inside *= math.prod(kernel[-2:])
            found.append(
                Layer(
                    name="/".join(module.path),
                    kind=kind,
                    inputs=args[0].shape[1:],
                    output=result.shape[1:],
                    parameters=sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(own)),
                    flops=flops,
                    inside=inside,
                    memory=math.prod(result.shape) * result.dtype.itemsize,
                )
            )
        return result

    def init(key: jax.Array) -> Any:
        with nn.intercept_methods(count):
            return model.init(key, jnp.zeros((1, *image_shape), jnp.float32), train=False)

    # Shapes are traced, nothing is computed: `count` sees every layer on the way.
    params = jax.eval_shape(init, jax.random.key(0))["params"]
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params)) == sum(
        layer.parameters for layer in found
    ), "a parameter belongs to no convolution, dense layer or norm"
    return found


def _taps_inside(conv: Conv, sizes: tuple[int, ...], outputs: tuple[int, ...]) -> int:
    """Returns how often a position of the kernel meets a pixel rather than the padding."""
    total = 1
    for size, output, (before, _) in zip(sizes, outputs, conv.pads(), strict=True):
        total *= sum(
            0 <= position * conv.strides - before + tap < size
            for position in range(output)
            for tap in range(conv.kernel_size)
        )
    return total


def block_summaries(model: nn.Module, image_shape: tuple[int, int, int]) -> list[BlockSummary]:
    """Returns the blocks of `model` in order of use, for one image of `image_shape` (H, W, C)."""
    blocks: dict[str, list[Layer]] = {}
    for layer in layers(model, image_shape):
        blocks.setdefault(layer.name.split("/")[0].split("_")[0], []).append(layer)
    return [
        BlockSummary(
            name=name,
            layers=sum(layer.kind != "norm" for layer in inside),
            norms=sum(layer.kind == "norm" for layer in inside),
            output=inside[-1].output,
            parameters=sum(layer.parameters for layer in inside),
            flops=sum(layer.flops for layer in inside),
        )
        for name, inside in blocks.items()
    ]


def totals(rows: list[BlockSummary]) -> tuple[int, int]:
    """Returns (parameters, FLOPs of one image) of the whole network."""
    return sum(row.parameters for row in rows), sum(row.flops for row in rows)


def xla_flops(model: nn.Module, image_shape: tuple[int, int, int]) -> float:
    """Returns the operations that XLA counts for one image, two for each multiply-add.

    The network is counted with `ops="stock"`, as `jaxcnn.ops` computes by other operations. XLA
    leaves out the products with padding (`Layer.inside`) and counts everything else that is
    computed, such as norms and activations.
    """
    model = model.clone(ops="stock")

    def apply(variables: Any, images: jax.Array) -> Any:
        return model.apply(variables, images, train=False)

    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    variables = jax.eval_shape(
        lambda key, x: model.init(key, x, train=False), jax.random.key(0), images
    )
    cost: Any = jax.jit(apply).lower(variables, images).cost_analysis()
    return float(cost["flops"])
