"""The corruptions by name, at five strengths, as functions of (key, images, severity).

Hendrycks & Dietterich 2019, arXiv:1903.12261. The strengths are those of the published program for
CIFAR (github.com/hendrycks/robustness, ImageNet-C/create_c/make_cifar_c.py). The images are
computed anew by code of this program, so they are not those of the published files: other random
numbers, values rounded rather than cut off, frost without photographs. Lengths in pixels are meant
for 32x32 and are the same for images of other sizes; those of the elastic transform are in
proportion to the size.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn.data import jpeg, resample
from jaxcnn.errors import UserError
from jaxcnn.evaluate.corruptions import blur, digital, noise, weather
from jaxcnn.runtime.compilation import compiled

SEVERITIES = (1, 2, 3, 4, 5)
SMALLEST = 16
"""Height and width, in pixels, that an image has at least."""
JPEG = "jpeg_compression"
"""The one that is computed by Pillow on the host."""

_JPEG_QUALITIES = (80, 65, 58, 50, 40)

Parameters = tuple[Any, ...]
Shape = tuple[int, int, int]
Corruptor = Callable[..., np.ndarray]
"""Takes `images`, uint8 `[B, H, W, C]`, a `severity`, 1 to 5, and `first`, the number of the first
image in its split; returns the images corrupted."""


class Corruption(NamedTuple):
    """How an image is corrupted.

    Attributes:
        apply: Takes a key, an image, float32 `[H, W, C]`, and the parameters.
        parameters: Gives the parameters of each severity, in order and of equal shapes, for images
            of a shape (H, W, C).
    """

    apply: Callable[..., jax.Array]
    parameters: Callable[[Shape], Sequence[Parameters]]


def _numbers(*values: Any) -> Callable[[Shape], Sequence[Parameters]]:
    """Returns parameters that do not depend on the images' shape."""
    return lambda shape: [(np.float32(value),) for value in values]


def _shot(shape: Shape) -> Sequence[Parameters]:
    return [(np.float32(each), noise.photon_counts(each)) for each in (500, 250, 100, 75, 50)]


def _defocus(shape: Shape) -> Sequence[Parameters]:
    disks = ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1))
    return [(blur.defocus_kernel(*disk),) for disk in disks]


def _glass(shape: Shape) -> Sequence[Parameters]:
    return [
        (*(resample.gaussian(size, sigma, 4, "nearest") for size in shape[:2]), np.float32(again))
        for sigma, again in ((0.05, 0), (0.25, 0), (0.4, 0), (0.25, 1), (0.4, 1))
    ]


def _motion(shape: Shape) -> Sequence[Parameters]:
    pairs = ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5))
    return [(blur.motion_taps(radius, sigma, length=19),) for radius, sigma in pairs]


def _zoom(shape: Shape) -> Sequence[Parameters]:
    # The published factors, with the last one that rounding adds to some.
    factors = [np.arange(1, end, 0.01) for end in (1.06, 1.11, 1.16, 1.21, 1.26)]
    most = max(map(len, factors))
    found: list[Parameters] = []
    for row in factors:
        stacks = [np.zeros((most, size, size), np.float32) for size in shape[:2]]
        for stack, size in zip(stacks, shape[:2], strict=True):
            stack[: len(row)] = [resample.zoom(size, factor) for factor in row]
        found.append((*stacks, np.float32(len(row))))
    return found


def _snow(shape: Shape) -> Sequence[Parameters]:
    # Mean, deviation, enlargement, least; radius and deviation of the motion; what is kept.
    rows = (
        (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
        (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
        (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
        (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
        (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
    )
    return [
        (
            np.array([mean, deviation, least, kept], np.float32),
            *(resample.zoom(size, factor) for size in shape[:2]),
            blur.motion_taps(int(radius), sigma, length=29),
        )
        for mean, deviation, factor, least, radius, sigma, kept in rows
    ]


def _elastic(shape: Shape) -> Sequence[Parameters]:
    size = min(shape[:2])
    # Of the field its strength and its smoothness, and of the points their reach: over the size.
    rows = (
        (0, 0, 0.08),
        (0.05, 0.2, 0.07),
        (0.08, 0.06, 0.06),
        (0.1, 0.04, 0.05),
        (0.1, 0.03, 0.03),
    )
    return [
        (
            *(resample.gaussian(length, sigma * size, 3, "reflect") for length in shape[:2]),
            np.array([field * size, reach * size], np.float32),
        )
        for field, sigma, reach in rows
    ]


def _pixelate(shape: Shape) -> Sequence[Parameters]:
    found = []
    for factor in (0.95, 0.9, 0.85, 0.75, 0.65):
        down, back = [], []
        for size in shape[:2]:
            small = int(size * factor)
            down.append(np.pad(resample.box(size, small), ((0, size - small), (0, 0))))
            back.append(np.pad(resample.box(small, size), ((0, 0), (0, size - small))))
        found.append((*down, *back))
    return found


COMPUTED = {
    "gaussian_noise": Corruption(noise.gaussian_noise, _numbers(0.04, 0.06, 0.08, 0.09, 0.10)),
    "shot_noise": Corruption(noise.shot_noise, _shot),
    "impulse_noise": Corruption(noise.impulse_noise, _numbers(0.01, 0.02, 0.03, 0.05, 0.07)),
    "defocus_blur": Corruption(blur.defocus_blur, _defocus),
    "glass_blur": Corruption(blur.glass_blur, _glass),
    "motion_blur": Corruption(blur.motion_blur, _motion),
    "zoom_blur": Corruption(blur.zoom_blur, _zoom),
    "snow": Corruption(weather.snow, _snow),
    "frost": Corruption(
        weather.frost, _numbers((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45))
    ),
    "fog": Corruption(weather.fog, _numbers((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75))),
    "brightness": Corruption(weather.brightness, _numbers(0.05, 0.1, 0.15, 0.2, 0.3)),
    "contrast": Corruption(digital.contrast, _numbers(0.75, 0.5, 0.4, 0.3, 0.15)),
    "elastic_transform": Corruption(digital.elastic_transform, _elastic),
    "pixelate": Corruption(digital.pixelate, _pixelate),
}
"""Those that JAX computes."""

NAMES = (*COMPUTED, JPEG)
"""The fifteen corruptions, in the paper's order."""


def check_shape(shape: Shape) -> None:
    """Raises UserError unless images of this shape, (H, W, C), can be corrupted."""
    height, width, channels = shape
    if min(height, width) < SMALLEST or channels not in (1, 3):
        raise UserError(
            f"images of {height}x{width} pixels and {channels} channels cannot be corrupted: the "
            f"corruptions need {SMALLEST}x{SMALLEST} pixels at least, and 1 or 3 channels"
        )


def of_batch(
    name: str, parameters: Parameters, key: jax.Array, images: jax.Array, first: jax.Array | int
) -> jax.Array:
    """Returns uint8 `[B, H, W, C]`, corrupted by one of `COMPUTED`; can be jitted.

    Args:
        name: A key of `COMPUTED`.
        parameters: Those of its `parameters` for a severity.
        key: A PRNG key, the same for all images and severities.
        images: uint8 `[B, H, W, C]`.
        first: The number of the first image: what is drawn for an image depends on its number, not
            on the batch.
    """
    numbers = first + jnp.arange(len(images))
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, numbers)
    scaled = images.astype(jnp.float32) / 255
    apply = COMPUTED[name].apply
    changed = jax.vmap(lambda key, image: apply(key, image, *parameters))(keys, scaled)
    return jnp.round(jnp.clip(changed, 0, 1) * 255).astype(jnp.uint8)


def corruptor(name: str, image_shape: Shape, batch_size: int) -> Corruptor:
    """Returns a corruption, compiled for `batch_size` images of `image_shape`, (H, W, C).

    Args:
        name: One of `NAMES`.
        image_shape: As `check_shape` allows.
        batch_size: Images at once.
    """
    if name == JPEG:
        return lambda images, severity, first: jpeg.recompressed(
            images, _JPEG_QUALITIES[severity - 1]
        )
    parameters = COMPUTED[name].parameters(image_shape)
    key = jax.random.key(0, impl="threefry2x32")  # the same on every machine, each time
    images = jax.ShapeDtypeStruct((batch_size, *image_shape), jnp.uint8)
    program = compiled(jax.jit(partial(of_batch, name)), (parameters[0], key, images, np.int32(0)))

    def corrupt(images: np.ndarray, severity: int, first: int) -> np.ndarray:
        return np.asarray(program(parameters[severity - 1], key, images, np.int32(first)))

    return corrupt
