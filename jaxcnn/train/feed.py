"""How batches reach the devices: gathered from a data set there, or streamed from host memory.

Both give the same bytes: uint8 images and int32 labels, sharded over the devices, so that the
training step is the same for both. `data.batches` decides which rows form a batch.
"""

import queue
import threading
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxcnn.data import Split
from jaxcnn.runtime import sharding

# Batches prepared ahead of the step: one hides the host's work, the other its variation.
_PREFETCHED = 2

Batch = tuple[jax.Array, jax.Array]


def nbytes(split: Split) -> int:
    """Returns the bytes that a split takes on a device."""
    return sum(array.nbytes for array in split)


def create_source(
    split: Split, mesh: Mesh, shape: tuple[int, ...], resident: bool
) -> "DeviceDataset":
    """Returns a source of batches of `split` for indices int32 of `shape`.

    Args:
        split: Images uint8 `[N, H, W, C]` and labels int32 `[N]`.
        mesh: The devices, among which the last axis of `shape` is divided.
        shape: `[..., B]`.
        resident: Keep the whole split on every device.
    """
    return (DeviceDataset if resident else StreamedDataset)(split, mesh, shape)


class DeviceDataset:
    """A source whose split lies on every device; only indices are transferred."""

    def __init__(self, split: Split, mesh: Mesh, shape: tuple[int, ...]) -> None:
        """Transfers the split and compiles the gather."""
        self.sharding = sharding.split(mesh, axis=len(shape) - 1)
        whole = sharding.replicated(mesh)
        self._split = tuple(sharding.place(array, whole) for array in split)
        self._gather = (
            jax.jit(
                lambda images, labels, indices: (images[indices], labels[indices]),
                in_shardings=(whole, whole, self.sharding),
                out_shardings=self.sharding,
            )
            .lower(*self._split, jax.ShapeDtypeStruct(shape, jnp.int32))
            .compile()
        )

    def batches(self, indices: Iterable[np.ndarray]) -> Iterator[Batch]:
        """Yields images uint8 `[..., B, H, W, C]` and labels int32 `[..., B]`, for each indices."""
        for rows in indices:
            yield self._gather(*self._split, sharding.place(rows, self.sharding))


class StreamedDataset(DeviceDataset):
    """A source whose split stays in host memory; a thread transfers the next batches ahead."""

    def __init__(self, split: Split, mesh: Mesh, shape: tuple[int, ...]) -> None:
        """Keeps a reference to the split."""
        self.sharding = sharding.split(mesh, axis=len(shape) - 1)
        self._host = split

    def batches(self, indices: Iterable[np.ndarray]) -> Iterator[Batch]:
        """As in the base class; a consumer that stops early ends the thread."""
        ready: queue.Queue[Any] = queue.Queue(_PREFETCHED)
        over = threading.Event()

        def put(item: Any) -> bool:
            while not over.is_set():
                try:
                    ready.put(item, timeout=0.1)
                    return True
                except queue.Full:
                    pass
            return False

        def work() -> None:
            try:
                for rows in indices:
                    if not put(self._send(rows)):
                        return
                put(None)
            except BaseException as error:
                put(error)

        thread = threading.Thread(target=work, name="prefetch", daemon=True)
        thread.start()
        try:
            while (item := ready.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            over.set()
            thread.join()

    def _send(self, rows: np.ndarray) -> Batch:
        images, labels = (
            sharding.place_rows(
                (*rows.shape, *array.shape[1:]),
                self.sharding,
                lambda index, array=array: array[rows[index[: rows.ndim]]],  # type: ignore[misc]
            )
            for array in self._host
        )
        return images, labels
