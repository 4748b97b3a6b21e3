"""From stored pixels to what the network sees: random crop and flip, normalisation."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn.ops.pixels import PixelStats
from jaxcnn.ops.pixels import normalize as normalize  # for those who take both from here

Transform = Callable[[jax.Array, jax.Array], jax.Array]
"""From a key and images uint8 `[..., H, W, C]` to images of the same shape and dtype."""


def pixel_stats(images: np.ndarray) -> PixelStats:
    """Returns the stats of uint8 `[N, H, W, C]`, exact to the last rounding (6 decimals).

    For CIFAR-10's training split this gives the std 0.2470, 0.2435, 0.2616; the widespread 0.2023,
    0.1994, 0.2010 is the mean of the images' own deviations. A channel that is constant gets std 1.
    """
    channels = images.shape[-1]
    total = np.zeros(channels, np.uint64)
    squares = np.zeros(channels, np.uint64)
    for chunk in np.array_split(images, max(1, len(images) // 1000)):
        flat = chunk.reshape(len(chunk), -1)
        # 1,000 squares of 255 stay within uint32; reducing over images first keeps NumPy's inner
        # loops long, which a mean over the last axis does not.
        total += flat.sum(0, dtype=np.uint32).reshape(-1, channels).sum(0, dtype=np.uint64)
        square = np.square(flat, dtype=np.uint16).sum(0, dtype=np.uint32)
        squares += square.reshape(-1, channels).sum(0, dtype=np.uint64)
    pixels = images.size // channels
    mean = total / pixels / 255
    std = np.sqrt(np.maximum(squares / pixels / 255**2 - mean**2, 0))
    std = np.where(std < 1e-6, 1.0, std)
    return PixelStats(tuple(np.round(mean, 6).tolist()), tuple(np.round(std, 6).tolist()))


def create_augment(*, crop_padding: int, flip: bool, crop_mode: str = "zeros") -> Transform:
    """Returns the random crop and flip; `augmentations` has more that recipes may add."""

    def augment(key: jax.Array, images: jax.Array) -> jax.Array:
        crop_key, flip_key = jax.random.split(key)
        if crop_padding:
            images = random_crop(crop_key, images, crop_padding, crop_mode)
        if flip:
            images = random_flip(flip_key, images)
        return images

    return augment


_PAD_MODES = {"zeros": "constant", "reflect": "reflect"}


def random_crop(key: jax.Array, images: jax.Array, padding: int, mode: str = "zeros") -> jax.Array:
    """Pads each image and takes a random window of its own size.

    Args:
        key: A PRNG key.
        images: uint8 `[..., H, W, C]`. What is drawn for an image depends on its position in row
            order alone, not on how the leading axes are cut.
        padding: Pixels on every side, above 0.
        mode: "zeros" for black, "reflect" for the image mirrored at its border pixels.

    Returns:
        uint8 `[..., H, W, C]` (He et al. 2015, arXiv:1512.03385, sec. 4.2).
    """
    leading = images.shape[:-3]
    corners = jax.random.randint(key, (*leading, 2), 0, 2 * padding + 1)
    margins = ((padding, padding), (padding, padding), (0, 0))

    def window(image: jax.Array, corner: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice(
            jnp.pad(image, margins, _PAD_MODES[mode]), (*corner, 0), image.shape
        )

    # One `vmap` for each leading axis, so that micro-batches need not be joined for this.
    for _ in leading:
        window = jax.vmap(window)
    return window(images, corners)


def random_flip(key: jax.Array, images: jax.Array) -> jax.Array:
    """Mirrors each image of `[..., H, W, C]` left to right with probability 1/2."""
    mirrored = jax.random.bernoulli(key, shape=(*images.shape[:-3], 1, 1, 1))
    return jnp.where(mirrored, images[..., ::-1, :], images)
