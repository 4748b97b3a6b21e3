"""Everything that is done to a training batch, put together from the section `augment`."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxcnn.data.augment import Transform, create_augment
from jaxcnn.data.augmentations.flips import alternating_flip
from jaxcnn.data.augmentations.occlusion import cutout


class Augmentation(NamedTuple):
    """What is done to a training batch.

    Attributes:
        transform: From a key and uint8 `[..., H, W, C]` to images of the same shape.
        alternates: Whether `alternating_flip` comes first, which also needs to know which images
            they are.
    """

    transform: Transform
    alternates: bool

    def preview(self, key: jax.Array, images: np.ndarray, indices: np.ndarray) -> jax.Array:
        """Returns the batch of step 0 as the network's first step gets it, before normalization.

        Args:
            key: The run's key.
            images: uint8 `[B, H, W, C]`.
            indices: int32 `[B]`, their rows in the training split.
        """
        # The keys of step 0, as `train_step` derives them.
        augment_key, _ = jax.random.split(jax.random.fold_in(key, 0))
        given = jax.numpy.asarray(images)
        if self.alternates:
            given = alternating_flip(key, given, jax.numpy.asarray(indices), jax.numpy.int32(0))
        return self.transform(augment_key, given)


def create_augmentation(
    mean: tuple[float, ...],
    *,
    crop_padding: int,
    flip: bool,
    crop_mode: str,
    flip_mode: str,
    **strengths: Any,
) -> Augmentation:
    """Returns what the section `augment` of the settings describes.

    Args:
        mean: Of each channel of the training split, in units of full scale (0..1).
        crop_padding: See `create_augment`.
        flip: Whether images are mirrored at all.
        crop_mode: See `random_crop`.
        flip_mode: "random", or "alternating", see `alternating_flip`.
        **strengths: The strength of each transform of `TRANSFORMS` by the name of its setting.
    """
    fill = np.round(255 * np.asarray(mean)).astype(np.uint8)
    alternates = flip and flip_mode == "alternating"
    plain = create_augment(
        crop_padding=crop_padding, flip=flip and not alternates, crop_mode=crop_mode
    )
    chosen = [
        # By numbers that stay: switching one on changes nothing that another one draws.
        (number, functools.partial(TRANSFORMS[name], strength=strengths[name], fill=fill))
        for number, name in enumerate(TRANSFORMS, start=_FIRST_KEY)
        if strengths[name]
    ]
    return Augmentation(_in_order(plain, chosen), alternates)


# The crop's and the flip's keys are the augmentation's key split in two, numbers 0 and 1.
_FIRST_KEY = 2

TRANSFORMS: dict[str, Callable[..., jax.Array]] = {
    "cutout": lambda key, images, strength, fill: cutout(key, images, strength, fill),
}
"""By the name of its setting, `(key, images, strength, fill)` to images, in the order in which they
are applied; `fill` is the mean pixel, uint8 `[C]`."""


def _in_order(plain: Transform, chosen: Sequence[tuple[int, Transform]]) -> Transform:
    """Returns `plain`, then each of `chosen` with its number's key."""
    if not chosen:
        return plain

    def transform(key: jax.Array, images: jax.Array) -> jax.Array:
        images = plain(key, images)
        for number, each in chosen:
            images = each(jax.random.fold_in(key, number), images)
        return images

    return transform
