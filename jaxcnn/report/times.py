"""What the claims need that is timed: a depthwise-separable convolution beside a standard one."""

import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax

from jaxcnn import ops
from jaxcnn.report import counts
from jaxcnn.runtime.compilation import compiler_options
from jaxcnn.runtime.kept import Keeper


def of_blocks(
    keeper: Keeper, advance: Callable[[], None], batch: int = 128, repeats: int = 7
) -> list[dict[str, Any]]:
    """Returns the seconds of each MobileNet block's convolutions, forward, and of a standard one.

    Both are compiled alike, fed with the same images and run in turns; medians of `repeats`.

    Args:
        keeper: Takes the measurement of a block, or has it.
        advance: Called after each block.
        batch: Number of images.
        repeats: How often each program is timed.
    """
    found = []
    for block in counts.mobilenet_blocks():
        facts = counts.separable(block)
        shape = {key: facts[key] for key in ("inputs", "output", "strides")}
        medians = keeper.take(
            "times of convolutions",
            {**shape, "batch": batch, "repeats": repeats},
            partial(_block_times, **shape, batch=batch, repeats=repeats),
        )
        ratio = medians["separable"] / medians["standard"]
        kept = {key: facts[key] for key in ("block", "formula")}
        found.append({**kept, **medians, "ratio": ratio})
        advance()
    return found


def _block_times(
    inputs: list[int], output: list[int], strides: int, batch: int, repeats: int
) -> dict[str, float]:
    """Returns the median seconds of a block's two convolutions and of a standard one."""
    height, width, channels = inputs
    features = output[-1]
    keys = jax.random.split(jax.random.key(0), 4)
    images = jax.random.normal(keys[0], (batch, height, width, channels))
    depthwise = jax.random.normal(keys[1], (3, 3, 1, channels))
    pointwise = jax.random.normal(keys[2], (1, 1, channels, features))
    standard = jax.random.normal(keys[3], (3, 3, channels, features))

    def separable(x: jax.Array, d: jax.Array, p: jax.Array) -> jax.Array:
        return _conv(_conv(x, d, strides, groups=x.shape[-1]), p, 1)

    def whole(x: jax.Array, k: jax.Array) -> jax.Array:
        return _conv(x, k, strides)

    options = compiler_options()
    programs: dict[str, tuple[Any, tuple[jax.Array, ...]]] = {
        "separable": (jax.jit(separable, compiler_options=options), (images, depthwise, pointwise)),
        "standard": (jax.jit(whole, compiler_options=options), (images, standard)),
    }
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    with ops.uncached():  # as in training
        # In turns, so that what slows the machine for a while slows both.
        for turn in range(repeats + 1):
            for name, (program, arguments) in programs.items():
                began = time.perf_counter()
                jax.block_until_ready(program(*arguments))
                if turn:  # the first turn compiles
                    seconds[name].append(time.perf_counter() - began)
    return {name: statistics.median(times) for name, times in seconds.items()}


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
