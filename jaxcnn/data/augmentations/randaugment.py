"""RandAugment: a few operations, drawn for each image, all of one magnitude.

Every operation takes an image uint8 `[H, W, C]`, a magnitude float32 [] in 0..1, a sign -1 or 1,
and the pixel that fills what moves in from outside, uint8 `[C]`. Their ranges are those of
AutoAugment (Cubuk et al. 2019, arXiv:1805.09501, table 6).
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn.data.augmentations import color
from jaxcnn.data.augmentations.each import each

Operation = Callable[[jax.Array, jax.Array, jax.Array, jax.Array], jax.Array]

MOST = 10
"""The largest magnitude."""


def rand_augment(
    key: jax.Array, images: jax.Array, strength: Sequence[int], fill: np.ndarray
) -> jax.Array:
    """Applies N operations to each image (Cubuk et al. 2020, arXiv:1909.13719, fig. 2).

    Args:
        key: A PRNG key.
        images: uint8 `[..., H, W, C]`.
        strength: N, from 1 on, and the magnitude M, 0 to `MOST`.
        fill: uint8 `[C]`.

    Returns:
        uint8 `[..., H, W, C]`.
    """
    count, level = strength
    magnitude = jnp.float32(level / MOST)
    leading = images.shape[:-3]
    for number in range(count):
        name_key, sign_key = jax.random.split(jax.random.fold_in(key, number))
        chosen = jax.random.randint(name_key, leading, 0, len(OPERATIONS))
        signs = jax.random.rademacher(sign_key, leading, jnp.float32)

        def apply(image: jax.Array, index: jax.Array, sign: jax.Array) -> jax.Array:
            return jax.lax.switch(
                index, list(OPERATIONS.values()), image, magnitude, sign, jnp.asarray(fill)
            )

        images = each(apply, images, chosen, signs)
    return images


def affine(image: jax.Array, matrix: jax.Array, fill: jax.Array) -> jax.Array:
    """Takes each pixel from where `matrix` maps it, to the nearest pixel.

    Args:
        image: uint8 `[H, W, C]`.
        matrix: float32 `[2, 3]`: row and column, measured from the image's center, of the source
            are `matrix` times (row, column, 1) of the result.
        fill: uint8 `[C]`, for sources outside.
    """
    height, width, _ = image.shape
    middle = jnp.float32([(height - 1) / 2, (width - 1) / 2])
    rows, columns = jnp.meshgrid(jnp.arange(height), jnp.arange(width), indexing="ij")
    at = jnp.stack([rows - middle[0], columns - middle[1], jnp.ones((height, width))])
    # At the highest precision: a GPU's default would move whole rows.
    source = jnp.einsum("ij,jhw->ihw", matrix, at, precision=jax.lax.Precision.HIGHEST)
    source = jnp.round(source + middle.reshape(2, 1, 1)).astype(jnp.int32)
    inside = (source >= 0) & (source < jnp.int32([height, width]).reshape(2, 1, 1))
    found = image[jnp.clip(source[0], 0, height - 1), jnp.clip(source[1], 0, width - 1)]
    return jnp.where((inside[0] & inside[1])[..., None], found, fill.reshape(1, 1, -1))


def identity(image: jax.Array, magnitude: jax.Array, sign: jax.Array, fill: jax.Array) -> jax.Array:
    """Changes nothing."""
    return image


def shear_x(image: jax.Array, magnitude: jax.Array, sign: jax.Array, fill: jax.Array) -> jax.Array:
    """Moves each row sideways by up to 0.3 of its distance from the center."""
    return affine(image, _matrix(1, 0, 0, 0.3 * magnitude * sign, 1, 0), fill)


def shear_y(image: jax.Array, magnitude: jax.Array, sign: jax.Array, fill: jax.Array) -> jax.Array:
    """Moves each column up or down by up to 0.3 of its distance from the center."""
    return affine(image, _matrix(1, 0.3 * magnitude * sign, 0, 0, 1, 0), fill)


# 150 pixels of the 331 of the images on which AutoAugment was searched.
_TRANSLATION = 150 / 331


def translate_x(
    image: jax.Array, magnitude: jax.Array, sign: jax.Array, fill: jax.Array
) -> jax.Array:
    """Moves the image sideways by up to 0.45 of its width."""
    pixels = _TRANSLATION * image.shape[1] * magnitude * sign
    return affine(image, _matrix(1, 0, 0, 0, 1, pixels), fill)


def translate_y(
    image: jax.Array, magnitude: jax.Array, sign: jax.Array, fill: jax.Array
) -> jax.Array:
    """Moves the image up or down by up to 0.45 of its height."""
    pixels = _TRANSLATION * image.shape[0] * magnitude * sign
    return affine(image, _matrix(1, 0, pixels, 0, 1, 0), fill)


def rotate(image: jax.Array, magnitude: jax.Array, sign: jax.Array, fill: jax.Array) -> jax.Array:
    """Turns the image by up to 30 degrees."""
    angle = jnp.deg2rad(30.0) * magnitude * sign
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    return affine(image, _matrix(cos, -sin, 0, sin, cos, 0), fill)


def _matrix(*entries: jax.typing.ArrayLike) -> jax.Array:
    return jnp.stack([jnp.asarray(entry, jnp.float32) for entry in entries]).reshape(2, 3)


def _factor(magnitude: jax.Array, sign: jax.Array) -> jax.Array:
    return 1 + 0.9 * magnitude * sign


def brightness(
    image: jax.Array, magnitude: jax.Array, sign: jax.Array, fill: jax.Array
) -> jax.Array:
    """Multiplies the image by 0.1 to 1.9."""
    return color.blend(jnp.zeros_like(image), image, _factor(magnitude, sign))


def saturation(
    image: jax.Array, magnitude: jax.Array, sign: jax.Array, fill: jax.Array
) -> jax.Array:
    """Multiplies the distance from grey by 0.1 to 1.9; the papers' "Color"."""
    return color.blend(color.grey(image), image, _factor(magnitude, sign))


def contrast(image: jax.Array, magnitude: jax.Array, sign: jax.Array, fill: jax.Array) -> jax.Array:
    """Multiplies the distance from the mean grey by 0.1 to 1.9."""
    return color.blend(color.mean_grey(image), image, _factor(magnitude, sign))


def sharpness(
    image: jax.Array, magnitude: jax.Array, sign: jax.Array, fill: jax.Array
) -> jax.Array:
    """Multiplies the distance from the smoothed image by 0.1 to 1.9."""
    return color.blend(smoothed(image), image, _factor(magnitude, sign))


def smoothed(image: jax.Array) -> jax.Array:
    """Returns means of 3x3 pixels, the middle one five times; border pixels stay (as Pillow's)."""
    wide = image.astype(jnp.int32)
    height, width, _ = image.shape
    if height < 3 or width < 3:
        return image
    total = 4 * wide[1:-1, 1:-1]
    for i in range(3):
        for j in range(3):
            total += wide[i : height - 2 + i, j : width - 2 + j]
    return image.at[1:-1, 1:-1].set(color.to_uint8(total / 13))


def posterize(
    image: jax.Array, magnitude: jax.Array, sign: jax.Array, fill: jax.Array
) -> jax.Array:
    """Keeps the 8 to 4 highest bits of each value."""
    dropped = jnp.round(4 * magnitude).astype(jnp.uint8)
    return (image >> dropped) << dropped


def solarize(image: jax.Array, magnitude: jax.Array, sign: jax.Array, fill: jax.Array) -> jax.Array:
    """Inverts the values from a threshold on, which falls from 256 to 0."""
    threshold = jnp.round(256 * (1 - magnitude)).astype(jnp.int32)
    return jnp.where(image >= threshold, 255 - image, image)


def auto_contrast(
    image: jax.Array, magnitude: jax.Array, sign: jax.Array, fill: jax.Array
) -> jax.Array:
    """Stretches each channel to 0..255."""
    low, high = (f(image, axis=(0, 1), keepdims=True).astype(jnp.int32) for f in (jnp.min, jnp.max))
    stretched = (image - low) * 255 // jnp.maximum(high - low, 1)
    return jnp.where(high > low, stretched, image).astype(jnp.uint8)


def equalize(image: jax.Array, magnitude: jax.Array, sign: jax.Array, fill: jax.Array) -> jax.Array:
    """Spreads each channel so that all values are about equally frequent (as Pillow does)."""

    def channel(values: jax.Array) -> jax.Array:
        histogram = jnp.zeros(256, jnp.int32).at[values.ravel()].add(1)
        # The pixels below the largest value, over 255.
        step = (values.size - histogram[values.max()]) // 255
        below = jnp.cumsum(histogram) - histogram
        table = jnp.clip((below + step // 2) // jnp.maximum(step, 1), 0, 255).astype(jnp.uint8)
        return jnp.where(step > 0, table[values], values)

    return jax.vmap(channel, -1, -1)(image)


OPERATIONS: dict[str, Operation] = {
    "identity": identity,
    "auto_contrast": auto_contrast,
    "equalize": equalize,
    "rotate": rotate,
    "solarize": solarize,
    "saturation": saturation,
    "posterize": posterize,
    "contrast": contrast,
    "brightness": brightness,
    "sharpness": sharpness,
    "shear_x": shear_x,
    "shear_y": shear_y,
    "translate_x": translate_x,
    "translate_y": translate_y,
}
"""The paper's list, in its order."""
