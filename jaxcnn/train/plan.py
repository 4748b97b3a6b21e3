"""What a run would do, in words: steps, memory, and which part of a batch lies where."""

import time
from collections.abc import Iterator
from pathlib import Path

import jax
from ml_collections import config_dict

import jaxcnn
from jaxcnn.data import Dataset
from jaxcnn.run.folder import RunDir
from jaxcnn.run.observers import Observer
from jaxcnn.runtime import distributed, memory
from jaxcnn.runtime.compilation import timed
from jaxcnn.train import fit, initial
from jaxcnn.train.capacity import compile_programs
from jaxcnn.train.programs import Programs


def dry_run(
    config: config_dict.ConfigDict,
    dataset: Dataset,
    workdir: str | Path,
    observer: Observer,
    stages: dict[str, float] | None = None,
) -> None:
    """Does all that `fit.fit` does before the first step, says what would be done, writes nothing.

    Args:
        config: As for `fit.fit`.
        dataset: As for `fit.fit`.
        workdir: As for `fit.fit`.
        observer: Gets the lines.
        stages: What came before, in seconds, for the line about the start.

    Raises:
        UserError: As `fit.fit`.
    """
    settings, mesh, rows = fit.prepare(config, dataset)
    run = RunDir(workdir)
    before = distributed.broadcast_from_process_0(lambda: fit.epochs_before(run, settings))
    initial.of_run(settings, run, observer.say)
    observer.network(settings.model.name, rows)
    observer.say("compiling")
    programs = compile_programs(settings, dataset, mesh)
    stages = {**(stages or {}), **programs.seconds}
    with timed(stages, "initial state"):
        jax.block_until_ready(programs.init())
    stages["all"] = time.perf_counter() - jaxcnn.IMPORTED_AT
    for line in (*lines(programs), start(stages)):
        observer.say(line)
    observer.say(
        f"{workdir} " + (f"is finished with {before} epochs" if before else "is free or goes on")
    )


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


def start(stages: dict[str, float]) -> str:
    """Returns the line that says how long it is from the program's start to the first step.

    Args:
        stages: Seconds by what they were spent on; "all" is the whole, from which others may miss.
    """
    parts = {name: seconds for name, seconds in stages.items() if name != "all"}
    parts["other"] = stages["all"] - sum(parts.values())
    listed = ", ".join(f"{name} {seconds:.1f}" for name, seconds in parts.items())
    return f"start: {stages['all']:.1f} s to the first step: {listed}"
