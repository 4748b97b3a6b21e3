"""Winograd's algorithms along one axis, as matrices: y = A^T [(G g) * (B^T d)] for each tile.

F(m, r) computes m neighboring outputs of a convolution with r taps in m + r - 1 multiplications,
where the definition takes m r. It is Toom and Cook's product of two polynomials, transposed:
evaluate both at as many points as the product has coefficients, multiply, interpolate (Lavin &
Gray, arXiv:1509.09308, section 4.1).

An example, F(2, 3): two outputs of three taps g0, g1, g2 from four inputs d0 .. d3,

    y0 = d0 g0 + d1 g1 + d2 g2
    y1 = d1 g0 + d2 g1 + d3 g2

take six multiplications by definition, and four so:

    m0 = (d0 - d2) g0                            y0 = m0 + m1 + m2
    m1 = (d1 + d2) (g0 + g1 + g2) / 2            y1 = m1 - m2 + m3
    m2 = (d2 - d1) (g0 - g1 + g2) / 2
    m3 = (d3 - d1) g2

The second factors are the polynomial g0 + g1 p + g2 p^2 at the points p = 0, 1, -1 and infinity
(where the highest coefficient counts alone), two of them halved. As matrices:

          | 1    0    0  |          | 1   0  -1   0 |
    G  =  | 1    1    1  |   B^T =  | 0  1/2 1/2  0 |   A^T = | 1  1  1  0 |
          | 1   -1    1  |          | 0 -1/2 1/2  0 |         | 0  1 -1  1 |
          | 0    0    1  |          | 0  -1   0   1 |

(The halves may stand in G or in B^T; `f_m_3` has them in B^T, as its G is the plain evaluation.)
A 3x3 kernel is transformed along both axes, so F(2x2, 3x3) takes 4 x 4 multiplications for 2 x 2
outputs, where the definition takes 36, and F(4x4, 3x3) takes 36, where it takes 144.
"""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxcnn.ops.spec import Pair

# Where F(m, 3) evaluates its polynomials; infinity stands for the highest coefficient. For m = 4
# the textbook's 0, 1, -1, 2, -2 leave twice the error (Barabasz et al., arXiv:1803.10986, say why).
# Closed under p -> 1 / p, so `f_m_3_flipped` has the same points in another order.
POINTS = {
    2: (0.0, 1.0, -1.0, math.inf),
    4: (0.0, 0.5**0.5, -(0.5**0.5), 2**0.5, -(2**0.5), math.inf),
}
# Beside 0 and infinity three are left, so one of them, 2, stands without its negative.
_F_4_2_POINTS = (0.0, 1.0, -1.0, 2.0, math.inf)


class Scheme(NamedTuple):
    """The matrices of F(m, r) along one axis, P = m + r - 1.

    Attributes:
        at: A^T, from points to the outputs of a tile, `[m, P]`.
        g: G, from taps to points, `[P, r]`.
        bt: B^T, from the inputs that a tile reads to points, `[P, P]`.
        step: Inputs from the first of a tile to the first of the next.
    """

    at: np.ndarray
    g: np.ndarray
    bt: np.ndarray
    step: int

    @property
    def outputs(self) -> int:
        """Outputs of a tile, m."""
        return len(self.at)

    @property
    def points(self) -> int:
        """Multiplications for a tile, P."""
        return len(self.g)


def tile_counts(output_size: Pair, scheme: Scheme) -> Pair:
    """Tiles along height and width that cover an output of this size."""
    return -(-output_size[0] // scheme.outputs), -(-output_size[1] // scheme.outputs)


def _toom_cook(
    points: Sequence[float], m: int, r: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A^T, G and B^T of F(m, r)."""

    # E_n: the values of a polynomial of n coefficients at all points. A product of two is known
    # from its values, V = E_P being invertible: its coefficients are V^-1 [(E_r g) * (E_m a)]. This
    # is linear in a, and its transpose is the convolution: y = E_m^T [(E_r g) * (V^-T d)].
    def evaluation(coefficients: int) -> np.ndarray:
        # At infinity the highest power outgrows the others: its coefficient stands for the value.
        last = [0.0] * (coefficients - 1) + [1.0]
        return np.array(
            [last if p == math.inf else [p**k for k in range(coefficients)] for p in points]
        )

    return evaluation(m).T, evaluation(r), np.linalg.inv(evaluation(m + r - 1)).T


@functools.cache
def f_m_3(m: int) -> Scheme:
    """F(m, 3), stride 1."""
    at, g, bt = _toom_cook(POINTS[m], m, 3)
    return Scheme(at, g, bt, step=m)


@functools.cache
def f_m_3_flipped(m: int) -> Scheme:
    """F(m, 3) for flipped taps, with the G of `f_m_3`, which takes them as they are.

    A polynomial g of three coefficients becomes g~ with g~(1 / p) = g(p) / p^2 when they are
    flipped, and its values at 0 and infinity change places. So what G gives for g at the points p
    serves g~ at the points 1 / p, where the other two matrices have to evaluate.
    """
    inverses = [0.0 if p == math.inf else 1 / p if p else math.inf for p in POINTS[m]]
    at, _, bt = _toom_cook(inverses, m, 3)
    # g~(q) = q^2 g(p) with q = 1 / p. G gives g(p), so the factor q^2 goes into A^T.
    factors = [1.0 if p in (0, math.inf) else p**2 for p in inverses]
    return Scheme(at * factors, f_m_3(m).g, bt, step=m)


@functools.cache
def f_4_2() -> Scheme:
    """F(4, 2), for the two taps of three that meet every other pixel where the stride is 2."""
    at, g, bt = _toom_cook(_F_4_2_POINTS, 4, 2)
    return Scheme(at, g, bt, step=4)
