"""How many multiplications do Winograd's algorithms take, and which of them the fewest?"""

from typing import NamedTuple

from jaxcnn.ops.spec import Pair
from jaxcnn.ops.winograd import coefficients
from jaxcnn.ops.winograd.coefficients import Scheme, tile_counts


class Cost(NamedTuple):
    """What an algorithm saves, for each image, input channel and output channel.

    Attributes:
        direct: Multiplications of the convolution as it is defined.
        winograd: Multiplications of the algorithm, without transforms.
        matrices: Numbers of the transformed kernel.
    """

    direct: int
    winograd: int
    matrices: int


def stride1(output_size: Pair) -> Cost:
    """The multiplications for outputs of this height and width, by the best of the schemes."""
    height, width = output_size
    scheme = best_scheme(output_size)
    return Cost(9 * height * width, multiplications(output_size, scheme), scheme.points**2)


def best_scheme(output_size: Pair) -> Scheme:
    """The scheme of stride 1 with the fewest multiplications for outputs of this size."""
    # F(4) takes fewer for each output, but where 4 does not divide the size it also computes
    # outputs that are cut off: for 2 x 2 outputs F(2) takes 16, F(4) 36.
    schemes = map(coefficients.f_m_3, coefficients.POINTS)
    return min(schemes, key=lambda scheme: multiplications(output_size, scheme))


def multiplications(output_size: Pair, scheme: Scheme) -> int:
    """The multiplications of a scheme of stride 1, for each image, input and output channel."""
    rows, columns = tile_counts(output_size, scheme)
    return scheme.points**2 * rows * columns


def stride2_kernel_grad(output_size: Pair) -> Cost:
    """The multiplications of the kernel's gradient for outputs of this height and width."""
    scheme = coefficients.f_4_2()
    # Along an axis, the products of its outer taps and, one for each output, of its inner tap. Each
    # of the four groups has one of the two along the height and one of the two along the width.
    counts = tile_counts(output_size, scheme)
    down, across = (scheme.points * count + n for n, count in zip(output_size, counts, strict=True))
    height, width = output_size
    matrices = (scheme.points + 1) ** 2  # (5 + 1)^2 = 25 + 5 + 5 + 1
    return Cost(9 * height * width, down * across, matrices)
