"""What does a network take from the training images before the first step?

A network with such statistics has a method `data_statistics`, see `models.speedrun`. They are part
of "batch_stats", and so of every checkpoint: a run that is continued has them.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from flax import traverse_util
from jax.experimental import multihost_utils

from jaxcnn.data import Dataset
from jaxcnn.ops.pixels import PixelStats
from jaxcnn.runtime import distributed
from jaxcnn.runtime.sharding import place
from jaxcnn.train.step import TrainState

Statistics = Callable[[], dict[str, np.ndarray]]
"""Computes arrays of "batch_stats", by their paths in it."""


def statistics(model: nn.Module, dataset: Dataset, stats: PixelStats) -> Statistics | None:
    """Returns what computes a network's statistics of its training images; None if it has none."""
    compute: Any = getattr(model, "data_statistics", None)
    return None if compute is None else lambda: compute(dataset.train.images, stats)


def begun(state: TrainState, compute: Statistics | None) -> TrainState:
    """Returns the state at step 0 with the network's statistics of its training images.

    Args:
        state: That of the seed.
        compute: From `statistics`; with None the state is returned as it is.
    """
    if compute is None:
        return state
    arrays = {path: _of_process_0(array) for path, array in compute().items()}

    def filled(batch_stats: Any) -> Any:
        flat = traverse_util.flatten_dict(batch_stats, sep="/")
        # Copied, as the first step takes over the memory of its state, which must not alias.
        placed = {path: place(np.array(a), flat[path].sharding) for path, a in arrays.items()}
        return traverse_util.unflatten_dict({**flat, **placed}, sep="/")

    ema = state.ema and {**state.ema, "batch_stats": filled(state.ema["batch_stats"])}
    return dataclasses.replace(state, batch_stats=filled(state.batch_stats), ema=ema)


def _of_process_0(array: np.ndarray) -> np.ndarray:
    """Returns process 0's array: the last bits of eigenvectors depend on a machine's library."""
    if not distributed.is_multiprocess():
        return array
    return np.asarray(jax.device_get(multihost_utils.broadcast_one_to_all(array)))
