"""Whether a training step fits into the memory of a device."""

from jax.sharding import Mesh

from jaxcnn.config.settings import Settings
from jaxcnn.data import Dataset
from jaxcnn.errors import UserError
from jaxcnn.runtime import memory
from jaxcnn.train.optim import create_optimizer
from jaxcnn.train.programs import Programs
from jaxcnn.train.remedies import remedy
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
