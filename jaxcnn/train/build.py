"""From a configuration and its data to compiled programs that are known to fit."""

import math
from typing import Any, NamedTuple

from flax import linen as nn
from jax.sharding import Mesh
from ml_collections import config_dict

from jaxcnn.config import settings
from jaxcnn.data import Dataset, augment, batches
from jaxcnn.errors import UserError
from jaxcnn.runtime import memory
from jaxcnn.train import feed, optim
from jaxcnn.train.optim import Optimizer
from jaxcnn.train.programs import Programs


class Built(NamedTuple):
    """What a run is made of.

    Attributes:
        programs: The compiled programs.
        optimizer: The optimizer with its schedule.
        steps_per_epoch: Steps of an epoch.
        max_nonfinite: So many steps in a row that are not finite end the run.
        needed: Memory of a step on each device.
        remedy: What helps where memory is not enough, in one line.
    """

    programs: Programs
    optimizer: Optimizer
    steps_per_epoch: int
    max_nonfinite: int
    needed: memory.Estimate
    remedy: str


def build(
    config: config_dict.ConfigDict,
    resolved: dict[str, Any],
    model: nn.Module,
    dataset: Dataset,
    mesh: Mesh,
) -> Built:
    """Compiles everything.

    Raises:
        UserError: If a step cannot fit into the memory of a device.
    """
    steps = batches.steps_per_epoch(len(dataset.train.labels), config.train.batch_size)
    optimizer = optim.create_optimizer(
        **config.optim, epochs=config.train.epochs, steps_per_epoch=steps
    )
    # One step in a row is the first one: "stop" is "skip" without patience. A whole epoch of
    # skipped steps would have no mean loss, so it ends the run in any case.
    patience = min(config.train.max_nonfinite, steps)
    max_nonfinite = patience if config.train.on_nonfinite == "skip" else 1
    layout = settings.layout_of(resolved)
    with memory.exhaustion_explained(memory.remedy(None, resolved, mesh.size, None)):
        programs = Programs(
            model=model,
            optimizer=optimizer,
            augment=augment.create_augment(**config.augment),
            pixel_stats=settings.pixel_stats_of(resolved),
            dataset=dataset,
            mesh=mesh,
            layout=layout,
            label_smoothing=config.train.label_smoothing,
            ema_decay=config.train.ema_decay,
            seed=config.seed,
            max_nonfinite=max_nonfinite,
        )
    image_bytes = math.prod(dataset.train.images.shape[1:]) + 4  # with its label
    batch_bytes = math.prod(layout.shape) * image_bytes // mesh.size
    data_bytes = sum(map(feed.nbytes, (dataset.train, dataset.eval))) if programs.resident else 0
    needed = memory.estimate(programs.train_program, batch_bytes, data_bytes)
    available = memory.limit()
    remedy = memory.remedy(needed, resolved, mesh.size, available)
    if available is not None and needed.total > available:
        raise UserError(remedy)
    return Built(programs, optimizer, steps, max_nonfinite, needed, remedy)
