"""What a run would do, in words: steps, memory, and which part of a batch lies where."""

from collections.abc import Iterator
from typing import Any

import jax
from jax.sharding import Mesh

from jaxcnn.runtime import memory
from jaxcnn.train.build import Built


def lines(resolved: dict[str, Any], built: Built, mesh: Mesh) -> Iterator[str]:
    """Yields the plan, a fact a line.

    Args:
        resolved: Content of config.json.
        built: The compiled programs.
        mesh: The devices.
    """
    train, layout = resolved["train"], built.programs.layout
    device = mesh.devices.flat[0]
    count = f"{mesh.size} x {device.device_kind}"
    processes = jax.process_count()
    yield f"devices: {count} ({device.platform}), {processes} process{'es' * (processes > 1)}"
    each = layout.batch_size // layout.grad_accum_steps // mesh.size
    micro = f"{layout.grad_accum_steps} micro-batches of " if layout.grad_accum_steps > 1 else ""
    yield (
        f"batch: {layout.batch_size} images = {micro}{mesh.size} devices x {each}; "
        f"evaluation: {layout.eval_batch_size} = {mesh.size} x "
        f"{layout.eval_batch_size // mesh.size}"
    )
    norms = each if layout.local_norms else each * mesh.size
    yield f"batch norm: {resolved['model']['batch_norm']}, over {norms} images"
    total = train["epochs"] * built.steps_per_epoch
    left = resolved["dataset"]["train_examples"] % layout.batch_size
    yield (
        f"steps: {train['epochs']} epochs x {built.steps_per_epoch} = {total}, "
        f"{layout.steps_per_call} in one call; {left} images are left over in an epoch, "
        "others each time"
    )
    place = "on each device" if built.programs.resident else "streamed from host memory"
    yield f"data: {place}; optimizer: {'split' if layout.shard_optimizer else 'whole'} on each"
    available = memory.limit()
    of = "" if available is None else f" of {memory.gigabytes(available)}"
    yield (
        f"memory of each device: {memory.gigabytes(built.needed.total)}{of} "
        f"(state and data {memory.gigabytes(built.needed.fixed)}, "
        f"batch and activations {memory.gigabytes(built.needed.growing)})"
    )
