"""What helps where a training step does not fit into the memory of a device?"""

import jax

from jaxcnn import models
from jaxcnn.config.settings import Settings
from jaxcnn.runtime import memory
from jaxcnn.runtime.memory import gigabytes


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
