"""What the claims need beyond the runs' own records: counts, times and gradient norms."""

import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxcnn import models, ops
from jaxcnn.data import Dataset, augment, batches
from jaxcnn.evaluate.run import Run
from jaxcnn.models import summary
from jaxcnn.models.densenet import DenseNet
from jaxcnn.runtime.compilation import compiler_options, init_compiler_options
from jaxcnn.train import metrics

STAGES = {"init": "at initialisation", "trained": "after training"}
DEPTHS = (20, 56)
"""Layers of the untrained networks whose gradients are compared."""

_BATCH = 64
_SEEDS = 3
_IMAGE = (32, 32, 3)


def counts(runs: Mapping[str, Run]) -> dict[str, Any]:
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
        "separable": [_separable(block) for block in _mobilenet_blocks()],
        "dense": {name: _connections(*pair) for name, pair in dense.items()},
    }


def _mobilenet_blocks() -> list[tuple[summary.Layer, summary.Layer]]:
    """Returns (depthwise, pointwise) of each block of the study's MobileNet."""
    layers = summary.layers(models.create("mobilenet"), _IMAGE)
    convs = [layer for layer in layers if layer.kind != "norm" and layer.name.startswith("block")]
    return list(zip(convs[::2], convs[1::2], strict=True))


def _separable(block: tuple[summary.Layer, summary.Layer]) -> dict[str, Any]:
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


def _connections(model: nn.Module, shape: tuple[int, int, int]) -> list[dict[str, int]]:
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
        first: dict[
            str, summary.Layer
        ] = {}  # of each dense layer, the convolution that sees the concatenation
        for layer in inside:
            first.setdefault(layer.name.split("/")[0], layer)
        channels = [layer.inputs[-1] for layer in first.values()]
        growth = inside[-1].output[-1]
        connections = sum(1 + (taken - channels[0]) // growth for taken in channels)
        found.append({"layers": len(channels), "connections": connections})
    return found


def separable_times(batch: int = 128, repeats: int = 7) -> list[dict[str, Any]]:
    """Returns the seconds of each MobileNet block's convolutions, forward, and of a standard one.

    Both are compiled alike, fed with the same images and run in turns; medians of `repeats`.
    """
    found = []
    for block in _mobilenet_blocks():
        facts = _separable(block)
        height, width, channels = facts["inputs"]
        features, strides = facts["output"][-1], facts["strides"]
        keys = jax.random.split(jax.random.key(0), 4)
        images = jax.random.normal(keys[0], (batch, height, width, channels))
        depthwise = jax.random.normal(keys[1], (3, 3, 1, channels))
        pointwise = jax.random.normal(keys[2], (1, 1, channels, features))
        standard = jax.random.normal(keys[3], (3, 3, channels, features))

        def separable(
            x: jax.Array, d: jax.Array, p: jax.Array, strides: int = strides
        ) -> jax.Array:
            return _conv(_conv(x, d, strides, groups=x.shape[-1]), p, 1)

        def whole(x: jax.Array, k: jax.Array, strides: int = strides) -> jax.Array:
            return _conv(x, k, strides)

        programs = {
            "separable": (
                jax.jit(separable, compiler_options=compiler_options()),
                (images, depthwise, pointwise),
            ),
            "standard": (jax.jit(whole, compiler_options=compiler_options()), (images, standard)),
        }
        seconds: dict[str, list[float]] = {name: [] for name in programs}
        with ops.uncached():  # as in training
            # In turns, so that what slows the machine for a while slows both.
            for turn in range(repeats + 1):
                for name, (program, inputs) in programs.items():
                    began = time.perf_counter()
                    jax.block_until_ready(program(*inputs))
                    if turn:  # the first turn compiles
                        seconds[name].append(time.perf_counter() - began)
        medians = {name: statistics.median(times) for name, times in seconds.items()}
        found.append(
            {
                "block": facts["block"],
                "formula": facts["formula"],
                **medians,
                "ratio": medians["separable"] / medians["standard"],
            }
        )
    return found


def _conv(x: jax.Array, kernel: jax.Array, strides: int, groups: int = 1) -> jax.Array:
    margin = kernel.shape[0] // 2
    return ops.conv_general_dilated(
        x,
        kernel,
        (strides, strides),
        [(margin, margin)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def gradients(
    runs: Mapping[str, Run],
    data_dir: str,
    say: Callable[[str], None],
    depths: Sequence[int] = DEPTHS,
) -> list[dict[str, Any]]:
    """Returns the gradient norm of every convolution, in order from the image.

    At initialisation: plain, residual and dense networks of `depths` layers, median of three seeds.
    After training: the plain, residual and dense runs. The loss is that of a training
    batch, without augmentation, norms in training mode.
    """
    first = next(iter(runs.values()))
    dataset = first.dataset(data_dir=data_dir)
    found = []
    for name, family, depth, model in _untrained(len(first.class_names), depths):
        say(f"gradients of {name} at initialisation")
        program = _gradient_program(model, first.settings.pixel_stats, dataset)
        init = jax.jit(
            lambda key, model=model: model.init(
                key, jnp.zeros((1, *first.image_shape)), train=False
            ),
            compiler_options=init_compiler_options(),
        )
        norms = [_norms(program, init(jax.random.key(s)), dataset, s) for s in range(_SEEDS)]
        median = {key: statistics.median(n[key] for n in norms) for key in norms[0]}
        found.append(_line(name, family, depth, "init", model, first.image_shape, median))
    for name, run in runs.items():
        family = models.FAMILY[run.model_name]
        if family not in ("resnet", "densenet"):
            continue
        say(f"gradients of {name} after training")
        own = run.dataset(data_dir=data_dir)
        program = _gradient_program(run.model, run.settings.pixel_stats, own)
        norms_ = _norms(program, run.newest(say)[1], own, run.settings.seed)
        family = "plain" if run.settings.model.plain else family
        depth = sum(row.layers for row in summary.block_summaries(run.model, run.image_shape))
        found.append(_line(name, family, depth, "trained", run.model, run.image_shape, norms_))
    return found


def _untrained(classes: int, depths: Sequence[int]) -> Iterator[tuple[str, str, int, nn.Module]]:
    """Yields (name, family, depth, network) of the networks of equal depth."""
    for depth in depths:
        yield f"plain{depth}", "plain", depth, models.create(f"plain{depth}", classes)
        yield f"resnet{depth}", "resnet", depth, models.create(f"resnet{depth}", classes)
        # Stem, two transitions and classifier are 4 layers; the others stand in three blocks.
        # The later blocks get a layer more, so that the depth is met exactly.
        share, rest = divmod(depth - 4, 3)
        blocks = tuple(share + (block >= 3 - rest) for block in range(3))
        dense = DenseNet(blocks, stem=16, bn_size=0, compression=1.0, num_classes=classes)
        yield f"dense{depth}", "dense", depth, dense


def _gradient_program(model: nn.Module, moments: augment.PixelStats, dataset: Dataset) -> Any:
    """Returns the compiled function from (variables, images, labels) to norms by layer."""

    def norms(variables: Any, images: jax.Array, labels: jax.Array) -> Any:
        def loss(params: Any) -> jax.Array:
            logits, _ = model.apply(
                {**variables, "params": params},
                augment.normalize(images, moments),
                train=True,
                mutable=["batch_stats"],
                rngs={"dropout": jax.random.key(0)},
            )
            return jnp.mean(metrics.cross_entropy(logits, labels))

        grads = jax.grad(loss)(variables["params"])
        return jax.tree.map(jnp.linalg.norm, jax.tree.map(jnp.ravel, grads))

    # Each runs a few times: compiling is most of the cost.
    return jax.jit(norms, compiler_options={**compiler_options(), **init_compiler_options()})


def _norms(program: Any, variables: Any, dataset: Dataset, seed: int) -> dict[str, float]:
    """Returns the gradient norm of each kernel by its layer's path, on a batch of the seed's."""
    size = min(_BATCH, len(dataset.train.labels))
    chosen = batches.shuffled_batches(seed, 0, len(dataset.train.labels), size)[0]
    norms = program(variables, dataset.train.images[chosen], dataset.train.labels[chosen])
    return {
        "/".join(key.key for key in path[:-1]): float(norm)
        for path, norm in jax.tree_util.tree_leaves_with_path(norms)
        # Without scales and biases, whose gradients are sums over many more pixels.
        if path[-1].key == "kernel"
    }


def _line(
    name: str,
    family: str,
    depth: int,
    when: str,
    model: nn.Module,
    shape: tuple[int, int, int],
    norms: Mapping[str, float],
) -> dict[str, Any]:
    """Returns the norms of the convolutions in order, without those of shortcuts."""
    order = [
        layer.name
        for layer in summary.layers(model, shape)
        if layer.kind not in ("norm", "dense") and "shortcut" not in layer.name
    ]
    values = [norms[layer] for layer in order]
    third = max(1, len(values) // 3)
    # Geometric, since norms range over powers of ten; a norm of zero would make it zero.
    mean = lambda part: float(np.exp(np.mean(np.log(np.maximum(part, 1e-30)))))  # noqa: E731
    return {
        "name": name,
        "family": {"densenet": "dense"}.get(family, family),
        "depth": depth,
        "when": when,
        "norms": values,
        "ratio": mean(values[:third]) / mean(values[-third:]),
    }
