"""What a run would do, in words: steps, memory, and which part of a batch lies where."""

from collections.abc import Iterator

import jax

from jaxcnn.runtime import memory
from jaxcnn.train.programs import Programs


def lines(programs: Programs) -> Iterator[str]:
    """Yields the plan of a run with these compiled programs, a fact a line."""
    settings, mesh = programs.settings, programs.mesh
    train, facts = settings.train, settings.facts
    device = mesh.devices.flat[0]
    count = f"{mesh.size} x {device.device_kind}"
    processes = jax.process_count()
    yield f"devices: {count} ({device.platform}), {processes} process{'es' * (processes > 1)}"
    each = train.batch_size // train.grad_accum_steps // mesh.size
    micro = f"{train.grad_accum_steps} micro-batches of " if train.grad_accum_steps > 1 else ""
    yield (
        f"batch: {train.batch_size} images = {micro}{mesh.size} devices x {each}; "
        f"evaluation: {train.eval_batch_size} = {mesh.size} x "
        f"{train.eval_batch_size // mesh.size}"
    )
    norms = each if settings.local_norms else each * mesh.size
    yield f"batch norm: {settings.model.batch_norm}, over {norms} images"
    yield (
        f"steps: {train.epochs} epochs x {settings.steps_per_epoch} = {settings.total_steps}, "
        f"{train.steps_per_call} in one call; {facts.train_examples % train.batch_size} images are "
        "left over in an epoch, others each time"
    )
    place = "on each device" if programs.resident else "streamed from host memory"
    yield f"data: {place}; optimizer: {'split' if train.shard_optimizer else 'whole'} on each"
    needed, available = programs.memory_needed(), memory.limit()
    of = "" if available is None else f" of {memory.gigabytes(available)}"
    yield (
        f"memory of each device: {memory.gigabytes(needed.total)}{of} "
        f"(state and data {memory.gigabytes(needed.fixed)}, "
        f"batch and activations {memory.gigabytes(needed.growing)})"
    )
