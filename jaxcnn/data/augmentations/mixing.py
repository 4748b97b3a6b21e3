"""Mixing pairs of images and, with the same weight, their labels: mixup and cutmix."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxcnn.data.augmentations.each import each
from jaxcnn.data.augmentations.occlusion import in_box


class Targets(NamedTuple):
    """Labels of mixed images: two classes for each.

    Attributes:
        heavier: int32 `[...]`, the class of the image that has at least half of the weight.
        lighter: int32 `[...]`, that of the other one.
        weight: float32 `[...]`, of `heavier`, 1/2 to 1.
    """

    heavier: jax.Array
    lighter: jax.Array
    weight: jax.Array


Mix = Callable[[jax.Array, jax.Array, jax.Array], tuple[jax.Array, Targets]]
"""From a key, images uint8 `[..., H, W, C]` and labels int32 `[...]` to mixed ones."""

# The augmentation's key is folded with it: none of its transforms has this number.
_KEY = 1 << 16


def create_mix(*, mixup: float, cutmix: float) -> Mix | None:
    """Returns what mixes a batch, or None if nothing does.

    The n-th image is mixed with the n-th from the end: as the order of a batch is random, so is the
    partner. With both, each image is mixed by the one or the other, with equal probability.

    Args:
        mixup: Alpha of `mix_up`; 0 for none.
        cutmix: Alpha of `cut_mix`; 0 for none.
    """
    chosen = [(mixer, alpha) for mixer, alpha in ((mix_up, mixup), (cut_mix, cutmix)) if alpha]
    if not chosen:
        return None

    def mix(key: jax.Array, images: jax.Array, labels: jax.Array) -> tuple[jax.Array, Targets]:
        choice, *keys = jax.random.split(jax.random.fold_in(key, _KEY), 1 + len(chosen))
        mixed, weight = chosen[0][0](keys[0], images, chosen[0][1])
        if len(chosen) == 2:
            other, other_weight = chosen[1][0](keys[1], images, chosen[1][1])
            takes = jax.random.bernoulli(choice, shape=labels.shape)
            weight = jnp.where(takes, other_weight, weight)
            mixed = each(
                lambda a, b, take: jnp.where(take, b.astype(jnp.float32), a), mixed, other, takes
            )
        return mixed, targets(labels, weight)

    return mix


def partners(array: jax.Array, axes: int) -> jax.Array:
    """Returns what each row of a batch is mixed with: the rows backwards, over all leading axes."""
    return array[(slice(None, None, -1),) * axes]


def targets(labels: jax.Array, weight: jax.Array) -> Targets:
    """Returns the targets of images that have `weight`, 0..1, of their own in them."""
    others = partners(labels, labels.ndim)
    own_is_heavier = weight >= 0.5
    return Targets(
        jnp.where(own_is_heavier, labels, others),
        jnp.where(own_is_heavier, others, labels),
        jnp.maximum(weight, 1 - weight),
    )


def mix_up(key: jax.Array, images: jax.Array, alpha: float) -> tuple[jax.Array, jax.Array]:
    """Returns weighted means of pairs of images (Zhang et al. 2018, arXiv:1710.09412, eq. 1).

    Args:
        key: A PRNG key.
        images: uint8 `[..., H, W, C]`.
        alpha: The weight is drawn from Beta(alpha, alpha), for each image anew.

    Returns:
        float32 `[..., H, W, C]`, 0..255, and the weight of each image itself, float32 `[...]`.
    """
    leading = images.shape[:-3]
    weight = jax.random.beta(key, alpha, alpha, leading)

    def mean(image: jax.Array, other: jax.Array, weight: jax.Array) -> jax.Array:
        return weight * image.astype(jnp.float32) + (1 - weight) * other.astype(jnp.float32)

    return each(mean, images, partners(images, len(leading)), weight), weight


def cut_mix(key: jax.Array, images: jax.Array, alpha: float) -> tuple[jax.Array, jax.Array]:
    """Puts a rectangle of another image in each (Yun et al. 2019, arXiv:1905.04899, eq. 1 and 2).

    Its center is any pixel, so a part of it may lie outside; the weight is that of the part inside.

    Args:
        key: A PRNG key.
        images: uint8 `[..., H, W, C]`.
        alpha: The rectangle's area is 1 - Beta(alpha, alpha) of the image's; its shape is the
            image's.

    Returns:
        uint8 `[..., H, W, C]`, and the share of pixels that are an image's own, float32 `[...]`.
    """
    *leading, height, width, _ = images.shape
    size_key, place_key = jax.random.split(key)
    own = jax.random.beta(size_key, alpha, alpha, tuple(leading))
    places = jax.random.uniform(place_key, (*leading, 2))

    def box(own: jax.Array, place: jax.Array) -> jax.Array:
        size = jnp.int32([height, width])
        sides = jnp.floor(size * jnp.sqrt(1 - own)).astype(jnp.int32)
        first = jnp.floor(size * place).astype(jnp.int32) - sides // 2
        return in_box(first, first + sides, height, width)

    for _ in leading:
        box = jax.vmap(box)
    boxes = box(own, places)
    others = partners(images, len(leading))
    mixed = each(lambda a, b, inside: jnp.where(inside, b, a), images, others, boxes)
    return mixed, 1 - boxes.mean((-3, -2, -1), dtype=jnp.float32)
