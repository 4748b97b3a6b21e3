"""From an image file of any size and common format to the pixels that a network takes.

Files come from anywhere: only the formats of `FORMATS` are decoded, nothing beyond a size is, and
whatever is wrong with a file is said in one line that names it.
"""

import base64
import contextlib
import io
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from jaxcnn.errors import UserError

FORMATS = ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM")
MAX_BYTES = 64 * 2**20
MAX_PIXELS = 50_000_000
_ANYWHERE = "choose a file in one of " + ", ".join(FORMATS)


class Refused(Exception):
    """A file cannot be used; the message names it and what is wrong, in one line."""


class UnknownFormat(Refused):
    """A file is no image in one of the formats of `FORMATS`."""


@contextlib.contextmanager
def decoding() -> Iterator[None]:
    """While entered, `decode` may be called, from any number of threads.

    What Python does about warnings is the same for all threads, so none of them may change it.
    """
    with warnings.catch_warnings():
        # Pillow only warns below twice its limit.
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        warnings.simplefilter("ignore", UserWarning)  # of broken EXIF data, and the like
        yield


def read(path: Path, shape: tuple[int, int, int]) -> np.ndarray:
    """Returns the image in `path` as uint8 [H, W, C] of `shape`.

    The first picture of an animation is taken, turned upright as its EXIF data say, put on white
    where it is transparent, cut to the middle part that has the shape's proportions, and scaled
    by area.

    Raises:
        Refused: If the file cannot be used.
    """
    with decoding():
        return decode(path, shape)


def decode(path: Path, shape: tuple[int, int, int]) -> np.ndarray:
    """Does what `read` does, within `decoding`."""
    check_channels(shape)
    content = _bytes(path)
    try:
        return decode_content(content, shape)
    except Refused as error:
        raise type(error)(f"{path}: {error}") from error


def check_channels(shape: tuple[int, int, int]) -> None:
    """Raises UserError if an image file cannot give (H, W, C) of `shape`."""
    if shape[-1] not in (1, 3):
        raise UserError(
            f"the run's images have {shape[-1]} channels: an image file gives 1 or 3, use "
            "jaxcnn.evaluate.classifier.Classifier on arrays"
        )


def decode_content(content: bytes, shape: tuple[int, int, int]) -> np.ndarray:
    """Does with the content of a file what `read` does, within `decoding`.

    Raises:
        Refused: If it cannot be used; the message is what is wrong, without a name.
    """
    height, width, channels = shape
    if not content:
        raise Refused("the file is empty: get a whole copy")
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            # The header is enough to refuse: no pixel has been decoded yet.
            _check_pixels(image)
            # A JPEG can decode to a smaller size.
            image.draft("RGB", (2 * max(height, width),) * 2)
            image.load()
            upright = ImageOps.exif_transpose(image)
        flat = _eight_bits(upright).convert("RGB" if channels == 3 else "L")
        fitted = ImageOps.fit(flat, (width, height), Image.Resampling.BOX)
    except Refused:
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise Refused(_too_many()) from error
    except Image.UnidentifiedImageError as error:
        raise UnknownFormat(f"not an image in a format that is read here: {_ANYWHERE}") from error
    except Exception as error:  # decoders raise SyntaxError, struct.error and more for bad bytes
        reason = " ".join(str(error).split()) or type(error).__name__
        raise Refused(f"the image is damaged ({reason}): get a whole copy") from error
    return np.asarray(fitted, np.uint8).reshape(shape)


def _bytes(path: Path) -> bytes:
    """Returns the content of a plain file of at most MAX_BYTES."""
    try:
        # Never a pipe or a device, which might not end.
        if not path.is_file():
            kind = "no such file" if not path.exists() else "not a plain file"
            raise Refused(f"{path}: {kind}: {_ANYWHERE}")
        with open(path, "rb") as file:
            # One byte more than allowed: so a file is found too large whatever `stat` says.
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise Refused(f"{path}: {error.strerror or error}: make the file readable") from error
    if len(content) > MAX_BYTES:
        raise Refused(
            f"{path}: larger than {MAX_BYTES // 2**20} MiB, which is the most: make it smaller"
        )
    return content


def _check_pixels(image: Image.Image) -> None:
    if image.width * image.height > MAX_PIXELS:
        raise Refused(_too_many(f"{image.width:,} x {image.height:,} pixels, "))


def _too_many(found: str = "") -> str:
    return f"{found}more than {MAX_PIXELS:,} pixels, which is the most: make it smaller"


def _eight_bits(image: Image.Image) -> Image.Image:
    """Returns an image of 8 bits a channel without transparency."""
    if image.mode.startswith("I") or image.mode == "F":
        # Pillow's own conversion cuts 16 bits off at 255 in place of scaling them.
        values = np.asarray(image).astype(np.float64)
        if np.min(values) < 0 or np.max(values) > 65535 or image.mode == "F":
            raise Refused("pixels of more than 16 bits: save it with 8 or 16 bits a channel")
        return Image.fromarray(np.round(values / 257).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        # A transparent pixel may hold any color, often black.
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image


def png(image: np.ndarray) -> bytes:
    """Returns uint8 [H, W, C] with 1, 3 or, the last one opacity, 4 channels as a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(buffer, "PNG")
    return buffer.getvalue()


def data_url(image: np.ndarray) -> str:
    """Returns `png` of an image as an address that a page can show without a request."""
    return "data:image/png;base64," + base64.b64encode(png(image)).decode()
