"""What is the embedded data set, and how do 8x8 digits become 32x32 images?

scikit-learn ships 1,797 handwritten digits of 43 people (E. Alpaydin and C. Kaynak, "Optical
Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998, its test part). They need
no network, which makes them the data set for a first try and for tests.
"""

import numpy as np

from jaxcnn.data.splits import Source, Split, describe, stratified_choice

NAME = "digits"
# Raise it when the pixels, the order or the split below change: it is part of the fingerprint.
VERSION = "1.0.0"
EVAL_EXAMPLES = 360
_UPSCALING = 4
_MAX_VALUE = 16  # the data set counts dark pixels in 4x4 cells: 0..16


def source() -> Source:
    """Returns the embedded digits with the splits `train` (1,437) and `test` (360)."""
    # Imported here because the import is slow and only this data set needs it.
    from sklearn.datasets import load_digits

    bunch = load_digits()
    labels = bunch.target.astype(np.int32)
    images = upscale(bunch.images.astype(np.int64))
    test = stratified_choice(labels, EVAL_EXAMPLES)
    splits = {
        "train": Split(images[~test], labels[~test]),
        "test": Split(images[test], labels[test]),
    }
    infos = describe({name: len(split.labels) for name, split in splits.items()})
    names = tuple(str(digit) for digit in range(10))
    return Source(f"{NAME}/{VERSION}", names, infos, splits.__getitem__)


def upscale(digits: np.ndarray) -> np.ndarray:
    """Enlarges digits four times, bilinearly, and copies them to three channels.

    Bilinear, because it neither overshoots nor shows the 8x8 cells as blocks. The weights at a
    factor of four are whole eighths, so integers give the exact result, rounded half up: the same
    bytes on every machine and with every library version.

    Args:
        digits: Integers `[N, 8, 8]`, 0..16.

    Returns:
        uint8 `[N, 32, 32, 3]`, 0..255.
    """
    size = digits.shape[1]
    # Pixel centres: output pixel i lies at (i + 1/2) / 4 - 1/2 = (2 i - 3) / 8 input pixels.
    eighths = 2 * np.arange(_UPSCALING * size) - 3
    left, right_weight = np.divmod(eighths, 8)
    weights = np.zeros((_UPSCALING * size, size), np.int64)
    rows = np.arange(_UPSCALING * size)
    # At the border the missing neighbour is the border pixel itself.
    np.add.at(weights, (rows, left.clip(0, size - 1)), 8 - right_weight)
    np.add.at(weights, (rows, (left + 1).clip(0, size - 1)), right_weight)
    scaled = weights @ digits @ weights.T  # times 8 in each direction
    whole = 64 * _MAX_VALUE
    grey = ((2 * 255 * scaled + whole) // (2 * whole)).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=-1)
