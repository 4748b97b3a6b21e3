"""Winograd's algorithms along one axis, as matrices: y = A^T [(G g) * (B^T d)] for each tile.

Toom and Cook's product of two polynomials, transposed: evaluate both at as many points as the
product has coefficients, multiply, interpolate (Lavin & Gray, arXiv:1509.09308, section 4.1). It
computes m outputs of a convolution with r taps in m + r - 1 multiplications, not in m r.
"""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

# Where F(m, 3) evaluates its polynomials; infinity stands for the highest coefficient. For m = 4,
# 0, 1, -1, 2 and -2 would leave twice the error (1.5e-6 of the norm against 0.7e-6, 64 channels);
# see Barabasz et al., arXiv:1803.10986, for why.
POINTS = {
    2: (0.0, 1.0, -1.0, math.inf),
    4: (0.0, 0.5**0.5, -(0.5**0.5), 2**0.5, -(2**0.5), math.inf),
}
# Those of the two taps that meet every other pixel where the stride is 2.
_OUTER_POINTS = (0.0, 1.0, -1.0, 2.0, math.inf)


class Scheme(NamedTuple):
    """An algorithm for 3 taps along one axis, or 2, of P points.

    Attributes:
      at: A^T, from points to the outputs of a tile, `[outputs, P]`.
      g: G, from taps to points, `[P, taps]`.
      bt: B^T, from the inputs that a tile reads to points, `[P, inputs]`.
      step: inputs from the first of a tile to the first of the next.
    """

    at: np.ndarray
    g: np.ndarray
    bt: np.ndarray
    step: int

    @property
    def outputs(self) -> int:
        """Outputs of a tile."""
        return len(self.at)

    @property
    def points(self) -> int:
        """Multiplications for a tile."""
        return len(self.g)


def _toom_cook(
    points: Sequence[float], m: int, r: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A^T, G and B^T of F(m, r)."""

    def evaluation(coefficients: int) -> np.ndarray:
        last = [0.0] * (coefficients - 1) + [1.0]
        return np.array(
            [last if p == math.inf else [p**k for k in range(coefficients)] for p in points]
        )

    return evaluation(m).T, evaluation(r), np.linalg.inv(evaluation(m + r - 1)).T


@functools.cache
def dense(m: int) -> Scheme:
    """F(m, 3), stride 1."""
    at, g, bt = _toom_cook(POINTS[m], m, 3)
    return Scheme(at, g, bt, step=m)


@functools.cache
def dense_flipped(m: int) -> Scheme:
    """`dense` for taps that are transformed as they are and are to be flipped.

    Flipped, a polynomial of 3 coefficients has at 1 / p the value that it had at p, over p^2; at 0
    that at infinity. So nothing but the points of the other two matrices has to change.
    """
    inverses = [0.0 if p == math.inf else 1 / p if p else math.inf for p in POINTS[m]]
    at, _, bt = _toom_cook(inverses, m, 3)
    factors = [1.0 if p in (0, math.inf) else p**2 for p in inverses]
    return Scheme(at * factors, dense(m).g, bt, step=m)


@functools.cache
def outer_taps() -> Scheme:
    """F(4, 2), for the two taps that meet every other pixel where the stride is 2."""
    at, g, bt = _toom_cook(_OUTER_POINTS, 4, 2)
    return Scheme(at, g, bt, step=4)
