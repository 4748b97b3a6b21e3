"""Which settings do not go together with the data and the devices: all that is wrong at once."""

from collections.abc import Iterator

import numpy as np
from jax.sharding import Mesh

from jaxcnn.config.settings import Settings
from jaxcnn.errors import UserError
from jaxcnn.run.best import is_held_out
from jaxcnn.runtime import sharding

# Of an evaluation batch; the default is not refused for a small split, nor what is smaller.
_MOST_BEYOND_SPLIT = 512


def check(settings: Settings, mesh: Mesh) -> None:
    """Raises UserError with everything that is wrong, each with its remedy, in one line."""
    if wrong := list(_faults(settings, mesh)):
        raise UserError("; ".join(wrong))


def _faults(settings: Settings, mesh: Mesh) -> Iterator[str]:
    train, facts = settings.train, settings.facts
    for key, size, micro_batches in (
        ("train.batch_size", train.batch_size, train.grad_accum_steps),
        ("train.eval_batch_size", train.eval_batch_size, 1),
    ):
        if fault := sharding.batch_fault(key, size, mesh, micro_batches):
            yield fault
    if train.batch_size > facts.train_examples:
        yield (
            f"train.batch_size={train.batch_size} is larger than the training split "
            f"{settings.dataset.train_split!r} with its {facts.train_examples} images: "
            f"at most {facts.train_examples}"
        )
    elif settings.total_steps > np.iinfo(np.int32).max:
        most = np.iinfo(np.int32).max // settings.steps_per_epoch
        yield (
            f"train.epochs={train.epochs} of {settings.steps_per_epoch} steps are more steps than "
            f"a run can count: at most {most}"
        )
    if train.ema_warmup and not train.ema_decay:
        yield "train.ema_warmup=True warms up no average: set train.ema_decay too, such as 0.999"
    most = max(facts.eval_examples, _MOST_BEYOND_SPLIT)
    if train.eval_batch_size > most:
        yield (
            f"train.eval_batch_size={train.eval_batch_size} is larger than the evaluation split "
            f"{settings.dataset.eval_split!r} with its {facts.eval_examples} images: at most {most}"
        )
    for key, value in (("keep_best", train.keep_best), ("patience", train.patience)):
        if value and not is_held_out(settings.dataset.eval_split):
            yield (
                f"train.{key}={value} would choose an epoch by the evaluation split "
                f"{settings.dataset.eval_split!r}, which must not take part in the training: hold "
                "out a part of the training data, such as dataset.train_split=train[:90%] and "
                "dataset.eval_split=train[90%:]"
            )
    height, width, _ = facts.image_shape
    if settings.augment.crop_padding > min(height, width):
        yield (
            f"augment.crop_padding={settings.augment.crop_padding} is larger than the images of "
            f"{height} x {width} pixels: at most {min(height, width)}"
        )
