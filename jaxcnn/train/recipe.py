"""What a recipe puts around the training step and into its loss, and which data that needs."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn.data import Split
from jaxcnn.data.augmentations.flips import alternating_flip
from jaxcnn.data.augmentations.mixing import Mix, Targets
from jaxcnn.data.augmentations.pipeline import Augmentation
from jaxcnn.models.groups import with_fixed
from jaxcnn.train import metrics


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


def cross_entropy(
    logits: jax.Array,
    targets: jax.Array | Targets,
    label_smoothing: float,
    class_weights: tuple[float, ...] | None = None,
) -> jax.Array:
    """Returns the loss of each example, float32 `[B]`, mixed as the images are.

    Cross-entropy is linear in the target, so the loss of a mixed target is the mixed loss. A weight
    of the label's class multiplies the whole loss of that label, its smoothed part included.

    Args:
        logits: float32 `[B, K]`.
        targets: Labels, int32 `[B]`, or those of mixed images.
        label_smoothing: As `metrics.cross_entropy`.
        class_weights: K numbers, see `config.class_weights`; None for equal ones.
    """

    def of(labels: jax.Array) -> jax.Array:
        losses = metrics.cross_entropy(logits, labels, label_smoothing)
        return losses if class_weights is None else jnp.float32(class_weights)[labels] * losses

    if not isinstance(targets, Targets):
        return of(targets)
    heavier, lighter = of(targets.heavier), of(targets.lighter)
    return targets.weight * heavier + (1 - targets.weight) * lighter


def mixed(
    mix: Mix | None, key: jax.Array, images: jax.Array, labels: jax.Array
) -> tuple[jax.Array, jax.Array | Targets]:
    """Returns images and targets as `mix` gives them; the images and labels themselves without."""
    return (images, labels) if mix is None else mix(key, images, labels)


def main_labels(targets: jax.Array | Targets) -> jax.Array:
    """Returns the class of each image that counts as right, int32; of mixed images, the heavier."""
    return targets.heavier if isinstance(targets, Targets) else targets


Decay = float | Callable[[jax.Array], jax.Array]
"""The kept fraction of an average, or the same as a function of the step."""


def ema_decay(decay: float, with_warmup: bool) -> Decay:
    """Returns `decay`, or with warm-up min(decay, (1 + step) / (10 + step)).

    So the first average keeps a tenth of the initial weights, not nearly all of them (as
    `num_updates` of TensorFlow's ExponentialMovingAverage).
    """
    if not with_warmup:
        return decay
    return lambda step: jnp.minimum(decay, (1 + step) / (10 + step))


def averaged(ema: Any, params: Any, batch_stats: Any, decay: Decay, step: jax.Array) -> Any:
    """Returns the averages of parameters and running statistics after a step.

    Args:
        ema: Those before, {"params", "batch_stats"}; {} if there are none.
        params: New parameters.
        batch_stats: New running statistics.
        decay: Kept fraction; 0 for no averages.
        step: int32 [], the step's number, from 0 on.
    """
    if not decay:
        return ema
    kept = decay(step) if callable(decay) else decay
    now = {"params": params, "batch_stats": batch_stats}
    mean = jax.tree.map(lambda old, new: kept * old + (1 - kept) * new, ema, now)
    return {**mean, "batch_stats": with_fixed(ema["batch_stats"], mean["batch_stats"])}
