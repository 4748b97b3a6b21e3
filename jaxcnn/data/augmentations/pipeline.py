"""Everything that is done to a training batch, put together from the section `augment`."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxcnn.data.augment import Transform, create_augment
from jaxcnn.data.augmentations.color import brightness, contrast
from jaxcnn.data.augmentations.flips import alternating_flip
from jaxcnn.data.augmentations.mixing import Mix, create_mix
from jaxcnn.data.augmentations.occlusion import cutout, random_erasing
from jaxcnn.data.augmentations.randaugment import rand_augment


class Augmentation(NamedTuple):
    """What is done to a training batch.

    Attributes:
        transform: From a key and uint8 `[..., H, W, C]` to images of the same shape.
        alternates: Whether `alternating_flip` comes first, which also needs to know which images
            they are.
        mix: What comes last, see `create_mix`; None for nothing.
    """

    transform: Transform
    alternates: bool
    mix: Mix | None = None

    def preview(self, key: jax.Array, images: np.ndarray, indices: np.ndarray) -> jax.Array:
        """Returns the batch of step 0 as the first step gets it, before normalization, uint8.

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
        seen = self.transform(augment_key, given)
        if self.mix is not None:
            seen, _ = self.mix(augment_key, seen, jax.numpy.zeros(len(images), jax.numpy.int32))
        return jax.numpy.round(seen).astype(jax.numpy.uint8)


def create_augmentation(
    mean: tuple[float, ...],
    *,
    crop_padding: int,
    flip: bool,
    crop_mode: str,
    flip_mode: str,
    mixup: float,
    cutmix: float,
    **strengths: Any,
) -> Augmentation:
    """Returns what the section `augment` of the settings describes.

    Args:
        mean: Of each channel of the training split, in units of full scale (0..1).
        crop_padding: See `create_augment`.
        flip: Whether images are mirrored at all.
        crop_mode: See `random_crop`.
        flip_mode: "random", or "alternating", see `alternating_flip`.
        mixup: See `create_mix`.
        cutmix: Likewise.
        **strengths: The strength of each transform of `TRANSFORMS` by the name of its setting.
    """
    fill = np.round(255 * np.asarray(mean)).astype(np.uint8)
    alternates = flip and flip_mode == "alternating"
    plain = create_augment(
        crop_padding=crop_padding, flip=flip and not alternates, crop_mode=crop_mode
    )
    chosen = [
        (number, apply, strengths[name])
        for name, (number, apply) in TRANSFORMS.items()
        if strengths[name]
    ]
    mix = create_mix(mixup=mixup, cutmix=cutmix)
    return Augmentation(_in_order(plain, chosen, fill), alternates, mix)


TRANSFORMS: dict[str, tuple[int, Callable[..., jax.Array]]] = {
    "randaugment": (6, rand_augment),
    "brightness": (4, lambda key, images, strength, _: brightness(key, images, strength)),
    "contrast": (5, lambda key, images, strength, _: contrast(key, images, strength)),
    "random_erasing": (3, lambda key, images, chance, _: random_erasing(key, images, chance)),
    "cutout": (2, cutout),
}
"""What comes after crop and flip, in this order, by the name of its setting: a number of its own,
and a function of key, images, strength and the mean pixel, uint8 `[C]`, that gives images.

The key is that of the step's augmentation, folded with the number, so that switching one on changes
nothing that another one draws. Numbers never change, since recorded runs depend on them; 0 and 1
are those of crop and flip, as splitting a key in two gives them.
"""


def _in_order(
    plain: Transform, chosen: Sequence[tuple[int, Callable[..., jax.Array], Any]], fill: np.ndarray
) -> Transform:
    """Returns `plain`, then each of `chosen`: a number, a function and its strength."""
    if not chosen:
        return plain

    def transform(key: jax.Array, images: jax.Array) -> jax.Array:
        images = plain(key, images)
        for number, apply, strength in chosen:
            images = apply(jax.random.fold_in(key, number), images, strength, fill)
        return images

    return transform
