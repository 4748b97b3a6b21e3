"""Brightness and contrast, and the arithmetic of pixels that they share with RandAugment."""

import jax
import jax.numpy as jnp

from jaxcnn.data.augmentations.each import each


def brightness(key: jax.Array, images: jax.Array, strength: float) -> jax.Array:
    """Multiplies each image by a factor drawn evenly from 1 - strength to 1 + strength.

    Args:
        key: A PRNG key.
        images: uint8 `[..., H, W, C]`.
        strength: Above 0, at most 1.

    Returns:
        uint8 `[..., H, W, C]`, rounded and cut to 0..255.
    """
    return each(
        lambda image, factor: blend(jnp.zeros_like(image), image, factor),
        images,
        _factors(key, images, strength),
    )


def contrast(key: jax.Array, images: jax.Array, strength: float) -> jax.Array:
    """Multiplies the distance of each image's pixels from its mean grey, else as `brightness`."""
    return each(
        lambda image, factor: blend(mean_grey(image), image, factor),
        images,
        _factors(key, images, strength),
    )


def _factors(key: jax.Array, images: jax.Array, strength: float) -> jax.Array:
    shape = images.shape[:-3]
    return jax.random.uniform(key, shape, minval=1 - strength, maxval=1 + strength)


def blend(base: jax.Array, image: jax.Array, factor: jax.Array) -> jax.Array:
    """Returns base + factor * (image - base), rounded and cut to 0..255.

    Args:
        base: uint8 `[H, W, C]`; the result where `factor` is 0.
        image: uint8 `[H, W, C]`; the result where it is 1.
        factor: float32 [].
    """
    start = base.astype(jnp.float32)
    return to_uint8(start + factor * (image.astype(jnp.float32) - start))


def to_uint8(values: jax.Array) -> jax.Array:
    """Rounds and cuts to 0..255."""
    return jnp.clip(jnp.round(values), 0, 255).astype(jnp.uint8)


def grey(image: jax.Array) -> jax.Array:
    """Returns the luma of `[H, W, C]` in every channel (ITU-R BT.601, as Pillow has it)."""
    if image.shape[-1] != 3:
        luma = to_uint8(image.astype(jnp.float32).mean(-1, keepdims=True))
    else:  # in units of 2^-16, rounded
        weights = jnp.int32([19595, 38470, 7471]).reshape(1, 1, 3)
        total = (image.astype(jnp.int32) * weights).sum(-1, keepdims=True)
        luma = ((total + (1 << 15)) >> 16).astype(jnp.uint8)
    return jnp.broadcast_to(luma, image.shape)


def mean_grey(image: jax.Array) -> jax.Array:
    """Returns `[H, W, C]` with every pixel at the mean of the image's luma."""
    return jnp.broadcast_to(to_uint8(grey(image).astype(jnp.float32).mean()), image.shape)
