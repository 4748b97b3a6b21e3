"""Which images of a split are shown?"""

import numpy as np


def spread(count: int, shown: int) -> list[int]:
    """Returns up to `shown` indices spread evenly over 0..count - 1."""
    return np.unique(np.linspace(0, count - 1, min(shown, count)).astype(int)).tolist()


def worst(probabilities: np.ndarray, labels: np.ndarray, shown: int) -> list[int]:
    """Returns the wrongly classified examples that gave their true class the least, worst first.

    Args:
        probabilities: float [N, K].
        labels: int [N].
        shown: How many at most.
    """
    wrong = np.flatnonzero(probabilities.argmax(1) != labels)
    given = probabilities[wrong, labels[wrong]]
    return wrong[np.argsort(given, kind="stable")][:shown].tolist()
