"""Whether a training step fits into the memory of a device, and what helps where it does not."""

import jax
from jax.sharding import Mesh

from jaxcnn import models
from jaxcnn.config.settings import Settings
from jaxcnn.data import Dataset
from jaxcnn.errors import UserError
from jaxcnn.runtime import memory
from jaxcnn.runtime.memory import gigabytes
from jaxcnn.train.optim import create_optimizer
from jaxcnn.train.programs import Programs
from jaxcnn.train.schedules import Schedule


def compile_programs(
    settings: Settings, dataset: Dataset, mesh: Mesh, rate: Schedule | None = None
) -> Programs:
    """Returns the compiled programs of a run.

    Args:
        settings: Of the run.
        dataset: Its data.
        mesh: The devices.
        rate: A learning rate by step, in place of the settings' own.

    Raises:
        UserError: If a step cannot fit into the memory of a device.
    """
    optimizer = create_optimizer(
        settings.optim, epochs=settings.train.epochs, steps_per_epoch=settings.steps_per_epoch
    )
    if rate is not None:
        optimizer = optimizer._replace(learning_rate=rate)
    with memory.exhaustion_explained(remedy(settings, mesh.size)):
        programs = Programs(settings, settings.create_model(), optimizer, dataset, mesh)
    needed, available = programs.memory_needed(), memory.limit()
    if available is not None and needed.total > available:
        raise UserError(remedy(settings, mesh.size, needed))
    return programs


def remedy(settings: Settings, devices: int, needed: memory.Estimate | None = None) -> str:
    """Returns what is too large and the settings that help, in one line.

    Args:
        settings: Of the run.
        devices: Number of devices.
        needed: Memory of a step on each device; None where the program could not be compiled.
    """
    train, model = settings.train, settings.model
    size, multiple = train.batch_size, devices * train.grad_accum_steps
    text = f"not enough memory for train.batch_size={size}"
    fits = 0
    if needed is not None:
        text += f": a step needs about {gigabytes(needed.total)} on each of {devices} devices"
        if (available := memory.limit()) is not None:
            text += f", which has {gigabytes(available)}"
            fits = memory.largest_batch(needed, size, multiple, available)
    switches = [f"train.grad_accum_steps={2 * train.grad_accum_steps}"]
    platform = jax.default_backend()
    if not train.remat and models.remat_saves_memory(model.name, model.drop_rate, platform):
        switches.append("train.remat=True")
    if model.dtype != "bfloat16":
        switches.append("model.dtype=bfloat16")
    if not train.shard_optimizer and devices > 1:
        switches.append("train.shard_optimizer=True")
    fitting = f"about {fits} would fit" if 0 < fits < size else "try a smaller one"
    return f"{text}; {fitting}, or set {', '.join(switches)}"
