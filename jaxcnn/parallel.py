"""Where arrays live when a step runs on all devices: batches are split, the rest is replicated."""

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxcnn.errors import UserError


def data_mesh() -> Mesh:
    """Returns a mesh of all devices with the one axis "data"."""
    return jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of what every device holds whole: parameters, the data set, keys."""
    return NamedSharding(mesh, PartitionSpec())


def split(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of a batch: the first axis is divided among the devices."""
    return NamedSharding(mesh, PartitionSpec("data"))


def check_batch(key: str, size: int, mesh: Mesh) -> None:
    """Raises UserError unless the global batch of `size` images divides among the devices."""
    devices = mesh.size
    if size % devices:
        below = size // devices * devices
        nearest = " or ".join(str(n) for n in (below, below + devices) if n)
        raise UserError(
            f"{key}={size} does not divide among {devices} devices: the nearest that do: {nearest}"
        )


def replicate(arrays: np.ndarray | jax.Array, mesh: Mesh) -> jax.Array:
    """Puts an array on every device."""
    return jax.device_put(arrays, replicated(mesh))
