"""How are the pixels of a row smoothed or resized? As a matrix, to multiply by.

Smoothing and resizing are linear, so what SciPy or Pillow make of an identity matrix is the matrix
of what they do.
"""

import math

import numpy as np
from PIL import Image


def gaussian(size: int, sigma: float, truncate: float, edge: str) -> np.ndarray:
    """Returns the matrix of Gaussian smoothing, float32 `[size, size]`; sigma 0 changes nothing.

    Args:
        size: Pixels.
        sigma: Standard deviation, pixels.
        truncate: Where the kernel ends, standard deviations.
        edge: SciPy's name of what lies beyond the edge: "nearest" for the pixel at the edge,
            "reflect" for the mirror image that begins with it.
    """
    from scipy import ndimage  # imported here: only corruptions need it

    matrix = ndimage.gaussian_filter(np.eye(size), (sigma, 0), mode=edge, truncate=truncate)
    return np.asarray(matrix, np.float32)


def zoom(size: int, factor: float) -> np.ndarray:
    """Returns the matrix that enlarges the middle, float32 `[size, size]`, bilinearly.

    The middle 1 / `factor`, rounded up, becomes `factor` times as long, its first and last pixel
    staying the first and last; what then stands out over `size` is cut off on both sides.
    """
    from scipy import ndimage

    middle = math.ceil(size / factor)
    enlarged = ndimage.zoom(np.eye(middle), (factor, 1), order=1, mode="nearest")
    first, begin = (len(enlarged) - size) // 2, (size - middle) // 2
    matrix = np.zeros((size, size), np.float32)
    matrix[:, begin : begin + middle] = enlarged[first : first + size]
    return matrix


def box(size: int, result: int) -> np.ndarray:
    """Returns the matrix of Pillow's BOX filter, float32 `[result, size]`."""
    identity = Image.fromarray(np.eye(size, dtype=np.float32))
    return np.asarray(identity.resize((size, result), Image.Resampling.BOX))
