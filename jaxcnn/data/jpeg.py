"""What an image looks like after it was stored as a JPEG."""

import io

import numpy as np
from PIL import Image


def recompressed(images: np.ndarray, quality: int) -> np.ndarray:
    """Returns images as they come back from JPEG files that Pillow writes, by libjpeg.

    Args:
        images: uint8 `[B, H, W, C]`, with one or three channels.
        quality: 1..95, which scales libjpeg's tables of quantization.

    Returns:
        uint8 `[B, H, W, C]`.
    """
    found = np.empty_like(images)
    for image, place in zip(images, found, strict=True):
        buffer = io.BytesIO()
        stored = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
        stored.save(buffer, "JPEG", quality=quality)
        with Image.open(buffer) as read:
            place[:] = np.asarray(read).reshape(place.shape)
    return found
