"""Where arrays live when a step runs on all devices: batches are split, the rest is replicated.

There is one mesh with one axis, "data", over all devices of all processes. The program annotates
shardings, from which XLA derives the collectives. Every process runs the same program on the same
host arrays, and transfers the parts that lie on its own devices.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec


def data_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Returns a mesh of all devices, or of those given, with the one axis "data"."""
    chosen = jax.devices() if devices is None else list(devices)
    return jax.make_mesh((len(chosen),), ("data",), axis_types=(AxisType.Auto,), devices=chosen)


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of what every device holds whole: parameters, the data set, keys."""
    return NamedSharding(mesh, PartitionSpec())


def split(mesh: Mesh, axis: int = 0) -> NamedSharding:
    """Returns the sharding of a batch: `axis` is divided among the devices."""
    return NamedSharding(mesh, PartitionSpec(*[None] * axis, "data"))


def split_where_possible(tree: Any, mesh: Mesh) -> Any:
    """Returns a sharding for each array of a tree: its longest axis that divides, else replicated.

    For the optimizer's state it is the first stage of ZeRO (Rajbhandari et al. 2020,
    arXiv:1910.02054, sec. 5.1) by annotation alone: XLA lets each device update its part and
    gathers the updates.
    """

    def sharding(leaf: Any) -> NamedSharding:
        axes = [axis for axis, size in enumerate(leaf.shape) if size % mesh.size == 0 and size]
        if not axes:
            return replicated(mesh)
        return split(mesh, max(axes, key=lambda axis: leaf.shape[axis]))

    return jax.tree.map(sharding, tree)


def batch_fault(key: str, size: int, mesh: Mesh, micro_batches: int = 1) -> str | None:
    """Returns what is wrong unless `size` images divide among devices, in `micro_batches` parts."""
    parts = mesh.size * micro_batches
    if size % parts == 0:
        return None
    below = size // parts * parts
    nearest = " or ".join(str(n) for n in (below, below + parts) if n)
    times = f" x {micro_batches} micro-batches" if micro_batches > 1 else ""
    return (
        f"{key}={size} does not divide among {mesh.size} devices{times}: "
        f"the nearest that do: {nearest}"
    )


def place(array: np.ndarray, sharding: NamedSharding) -> jax.Array:
    """Returns a host array, the same in every process, on the devices with `sharding`."""
    return place_rows(array.shape, sharding, lambda index: array[index])


def place_rows(
    shape: tuple[int, ...], sharding: NamedSharding, rows: Callable[[Any], np.ndarray]
) -> jax.Array:
    """Returns an array of which each process provides only the parts of its own devices.

    Args:
        shape: Of the whole array.
        sharding: Which part lies on which device.
        rows: Gives the part at an index, a tuple of slices into the whole array.
    """
    return jax.make_array_from_callback(shape, sharding, rows)
