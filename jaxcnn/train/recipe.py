"""What a recipe puts around the training step, and which data that needs."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxcnn.data import Split
from jaxcnn.data.augmentations.flips import alternating_flip
from jaxcnn.data.augmentations.pipeline import Augmentation


def rows(split: Split, augmentation: Augmentation) -> tuple[np.ndarray, ...]:
    """Returns the arrays of which a batch takes rows: images, labels, their indices if needed."""
    if not augmentation.alternates:
        return tuple(split)
    return (*split, np.arange(len(split.labels), dtype=np.int32))


def wrapped(
    step: Callable[..., Any], augmentation: Augmentation, steps_per_epoch: int
) -> Callable[..., Any]:
    """Returns the step for batches of `rows`; `step` itself where these are images and labels.

    Args:
        step: `train_step` with all its keyword arguments.
        augmentation: Of the run.
        steps_per_epoch: From which the step's number gives its epoch.
    """
    if not augmentation.alternates:
        return step

    def flipped_step(
        state: Any, key: jax.Array, images: jax.Array, labels: jax.Array, indices: jax.Array
    ) -> Any:
        epoch = state.step // steps_per_epoch
        return step(state, key, alternating_flip(key, images, indices, epoch), labels)

    return flipped_step
