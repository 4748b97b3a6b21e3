"""How batches reach the devices: gathered from a data set there, or streamed from host memory.

Both give the same bytes: uint8 images and int32 labels, sharded over the devices, so that the
training step is the same for both. `data.batches` decides which rows form a batch.
"""

import queue
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxcnn.runtime import sharding
from jaxcnn.runtime.compilation import compiler_options

# Batches prepared ahead of the step: one hides the host's work, the other its variation.
_PREFETCHED = 2

Batch = tuple[jax.Array, ...]
"""The rows of a batch of each array of a split: images, labels, perhaps their indices."""


def nbytes(split: Sequence[np.ndarray]) -> int:
    """Returns the bytes that a split takes on a device."""
    return sum(array.nbytes for array in split)


def create_source(
    split: Sequence[np.ndarray], mesh: Mesh, shape: tuple[int, ...], resident: bool
) -> "DeviceDataset":
    """Returns a source of batches of `split` for indices int32 of `shape`.

    Args:
        split: Images uint8 `[N, H, W, C]`, labels int32 `[N]`, and any other arrays of N rows.
        mesh: The devices, among which the last axis of `shape` is divided.
        shape: `[..., B]`.
        resident: Keep the whole split on every device.
    """
    return (DeviceDataset if resident else StreamedDataset)(split, mesh, shape)


class DeviceDataset:
    """A source whose split lies on every device; only indices are transferred.

    Attributes:
        sharding: Of a batch's arrays.
        batch: Shapes, dtypes and shardings of a batch's arrays.
    """

    def __init__(self, split: Sequence[np.ndarray], mesh: Mesh, shape: tuple[int, ...]) -> None:
        """Transfers the split and compiles the gather."""
        self._set_batch(split, mesh, shape)
        whole = sharding.replicated(mesh)
        self._split = tuple(sharding.place(array, whole) for array in split)
        self._gather = (
            jax.jit(
                lambda arrays, indices: tuple(array[indices] for array in arrays),
                in_shardings=(whole, self.sharding),
                out_shardings=self.sharding,
            )
            .lower(self._split, jax.ShapeDtypeStruct(shape, jnp.int32))
            .compile(compiler_options())
        )

    def _set_batch(self, split: Sequence[np.ndarray], mesh: Mesh, shape: tuple[int, ...]) -> None:
        self.sharding = sharding.split(mesh, axis=len(shape) - 1)
        self.batch = tuple(
            jax.ShapeDtypeStruct((*shape, *a.shape[1:]), a.dtype, sharding=self.sharding)
            for a in split
        )

    def batches(self, indices: Iterable[np.ndarray]) -> Iterator[Batch]:
        """Yields, for each indices `[..., B]`, those rows of the split's arrays."""
        for rows in indices:
            yield self._gather(self._split, sharding.place(rows, self.sharding))


class StreamedDataset(DeviceDataset):
    """A source whose split stays in host memory; a thread transfers the next batches ahead."""

    def __init__(self, split: Sequence[np.ndarray], mesh: Mesh, shape: tuple[int, ...]) -> None:
        """Keeps a reference to the split."""
        self._set_batch(split, mesh, shape)
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
        return tuple(
            sharding.place_rows(
                (*rows.shape, *array.shape[1:]),
                self.sharding,
                lambda index, array=array: array[rows[index[: rows.ndim]]],  # type: ignore[misc]
            )
            for array in self._host
        )
