"""The conditions of the table in `select.py`: predicates on a convolution's shape, by name.

What the thresholds rest on is in docs/algorithm-measurements.md.
"""

from collections.abc import Callable
from typing import NamedTuple

from jaxcnn.ops.spec import ConvSpec
from jaxcnn.ops.winograd import costs
from jaxcnn.ops.winograd.costs import Cost

# Fewer channels on either side make Winograd's matrix products too thin to pay for its transforms.
# Both gradients share the transform of a wide gradient: the images may have fewer channels.
WINOGRAD_CHANNELS = 64
WINOGRAD_GRAD_CHANNELS = 24
WINOGRAD_KERNEL_GRAD_CHANNELS = 32

# Winograd's algorithm has to leave at most this part of the multiplications, as the transforms of
# images and results take time, too; stride 2 has fewer of them.
WINOGRAD_MOST_LEFT = 1 / 2
WINOGRAD_STRIDE2_MOST_LEFT = 3 / 5

# Multiplications that have to be saved for each number of the transformed kernel: with fewer, the
# transform of the kernel costs more. Stride 2 needs half as many.
WINOGRAD_LEAST_SAVED = 128

# With more channels times features, a matrix product fills the vector units by itself.
PACKED_CHANNELS_TIMES_FEATURES = 100

# The kernel's gradient gains only from few channels; with more channels than features it is very
# slow.
PACKED_KERNEL_GRAD_CHANNELS = 6

# Features that fill one of the widest vectors (AVX-512, float32).
VECTOR = 16

# With fewer channels, all patches of the images are smaller than copies of the output's gradient.
SHIFTS_CHANNELS = 8


class ConvShape(NamedTuple):
    """What the choice depends on.

    Attributes:
        spec: The convolution.
        batch: Images of one device.
        channels: Of the images, C.
        features: Of the result, F.
    """

    spec: ConvSpec
    batch: int
    channels: int
    features: int


class Condition(NamedTuple):
    """When a row applies.

    Attributes:
        text: For the printed table.
        holds: The predicate.
    """

    text: str
    holds: Callable[[ConvShape], bool]


def _is_stride1(shape: ConvShape) -> bool:
    return shape.spec.strides == (1, 1)


def _is_pointwise(shape: ConvShape) -> bool:
    spec = shape.spec
    # Padded pixels would be results of their own, which the product of all pixels does not have.
    no_padding = spec.padding == ((0, 0), (0, 0))
    return not spec.depthwise and spec.kernel_size == (1, 1) and no_padding


def _has_single_channel(shape: ConvShape) -> bool:
    # A depthwise convolution has as many groups as channels, which oneDNN computes rightly.
    return not shape.spec.depthwise and min(shape.channels, shape.features) == 1


def _is_packable(shape: ConvShape) -> bool:
    spec = shape.spec
    is_spatial = spec.strides == (1, 1) and spec.kernel_size[1] > 1 and not spec.depthwise
    # One wide side fills the vector units by itself.
    is_narrow = max(shape.channels, shape.features) <= VECTOR
    is_thin = shape.channels * shape.features <= PACKED_CHANNELS_TIMES_FEATURES
    return is_spatial and is_narrow and is_thin


def _is_dense_3x3(spec: ConvSpec, stride: int) -> bool:
    is_3x3 = spec.kernel_size == (3, 3) and spec.strides == (stride, stride)
    return is_3x3 and not spec.depthwise


def _is_profitable(cost: Cost, batch: int, most_left: float, least_saved: float) -> bool:
    """Whether Winograd's algorithm saves enough multiplications."""
    # Of one pair of channel and feature, as is `matrices`: both sides grow with C F alike.
    saved = batch * (cost.direct - cost.winograd)
    return cost.winograd <= most_left * cost.direct and saved >= least_saved * cost.matrices


def _is_profitable_stride1(spec: ConvSpec, batch: int) -> bool:
    if not _is_dense_3x3(spec, stride=1):
        return False
    cost = costs.stride1(spec.output_size)
    return _is_profitable(cost, batch, WINOGRAD_MOST_LEFT, WINOGRAD_LEAST_SAVED)


def _is_winograd_forward(shape: ConvShape) -> bool:
    is_wide = min(shape.channels, shape.features) >= WINOGRAD_CHANNELS
    return is_wide and _is_profitable_stride1(shape.spec, shape.batch)


def _is_winograd_input_grad(shape: ConvShape) -> bool:
    # Only with stride 1 is the gradient a convolution of the same kind (`ConvSpec.reversed`).
    if not _is_stride1(shape):
        return False
    return _is_wide_joint(shape) and _is_profitable_stride1(shape.spec.reversed(), shape.batch)


def _is_wide_joint(shape: ConvShape) -> bool:
    return shape.channels >= WINOGRAD_GRAD_CHANNELS and shape.features >= WINOGRAD_CHANNELS


def _is_winograd_kernel_grad(shape: ConvShape) -> bool:
    is_wide = min(shape.channels, shape.features) >= WINOGRAD_KERNEL_GRAD_CHANNELS
    return (is_wide or _is_wide_joint(shape)) and _is_profitable_stride1(shape.spec, shape.batch)


def _is_winograd_stride2_kernel_grad(shape: ConvShape) -> bool:
    is_wide = min(shape.channels, shape.features) >= WINOGRAD_KERNEL_GRAD_CHANNELS
    if not is_wide or not _is_dense_3x3(shape.spec, stride=2):
        return False
    cost = costs.stride2_kernel_grad(shape.spec.output_size)
    least_saved = WINOGRAD_LEAST_SAVED / 2
    return _is_profitable(cost, shape.batch, WINOGRAD_STRIDE2_MOST_LEFT, least_saved)


ALWAYS = Condition("otherwise", lambda shape: True)
DEPTHWISE = Condition("depthwise", lambda shape: shape.spec.depthwise)
POINTWISE = Condition("dense, 1x1, no padding", _is_pointwise)
SINGLE_CHANNEL = Condition("one channel or one feature", _has_single_channel)
STRIDE1 = Condition("stride 1", _is_stride1)
PACKABLE = Condition(
    f"stride 1, at most {VECTOR} channels and features, their product at most "
    f"{PACKED_CHANNELS_TIMES_FEATURES}",
    _is_packable,
)
PACKABLE_KERNEL_GRAD = Condition(
    f"{PACKABLE.text}, at most {PACKED_KERNEL_GRAD_CHANNELS} channels, no fewer features",
    lambda shape: (
        _is_packable(shape) and shape.channels <= min(shape.features, PACKED_KERNEL_GRAD_CHANNELS)
    ),
)
FEW_FEATURES = Condition(
    f"{PACKABLE.text}, fewer than {VECTOR} features",
    lambda shape: shape.features < VECTOR and _is_packable(shape),
)
FEW_CHANNELS = Condition(
    f"{PACKABLE.text}, fewer than {VECTOR} channels",
    lambda shape: shape.channels < VECTOR and _is_packable(shape),
)
VECTOR_OF_FEATURES = Condition(
    f"{PACKABLE.text}, {VECTOR} features",
    lambda shape: shape.features == VECTOR and _is_packable(shape),
)
FEWER_FEATURES = Condition(
    "stride 1, fewer features than channels",
    lambda shape: _is_stride1(shape) and shape.features < shape.channels,
)
SHIFTABLE = Condition(
    f"stride 1, at least {SHIFTS_CHANNELS} channels",
    lambda shape: _is_stride1(shape) and shape.channels >= SHIFTS_CHANNELS,
)
WINOGRAD_FORWARD = Condition(
    f"3x3, stride 1, at least {WINOGRAD_CHANNELS} channels and features, enough saved",
    _is_winograd_forward,
)
_WIDE_JOINT = f"at least {WINOGRAD_GRAD_CHANNELS} channels and {WINOGRAD_CHANNELS} features"
WINOGRAD_INPUT_GRAD = Condition(
    f"3x3, stride 1, {_WIDE_JOINT}, enough saved",
    _is_winograd_input_grad,
)
WINOGRAD_KERNEL_GRAD = Condition(
    f"3x3, stride 1, {_WIDE_JOINT} or {WINOGRAD_KERNEL_GRAD_CHANNELS} of both, enough saved",
    _is_winograd_kernel_grad,
)
WINOGRAD_STRIDE2_KERNEL_GRAD = Condition(
    f"3x3, stride 2, at least {WINOGRAD_KERNEL_GRAD_CHANNELS} channels and features, enough saved",
    _is_winograd_stride2_kernel_grad,
)
