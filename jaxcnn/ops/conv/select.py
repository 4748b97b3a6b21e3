"""Which algorithm computes a convolution and its gradients on the CPU: one table, by shape.

`TABLE` has one list of rows for each library and operation; the first row whose condition holds is
taken. `xla.py` and `onednn.py` hold the algorithms under the names that stand here. The reasons are
given in a line; what was measured is in docs/algorithm-measurements.md, under the row's anchor.

`python -m jaxcnn.ops.conv.select` prints the table in Markdown.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

from jaxcnn.ops.spec import ConvSpec
from jaxcnn.ops.winograd import stride1, stride2
from jaxcnn.ops.winograd.coefficients import Cost

Backend = Literal["xla", "onednn"]

# Fewer channels on either side make Winograd's matrix products too thin to pay for its transforms.
WINOGRAD_CHANNELS = 64
WINOGRAD_KERNEL_GRAD_CHANNELS = 32

# Winograd's algorithm has to leave at most this part of the multiplications, as the transforms of
# images and results take time, too; stride 2 has fewer of them.
WINOGRAD_MOST_LEFT = 1 / 2
WINOGRAD_STRIDE2_MOST_LEFT = 3 / 5

# Multiplications that have to be saved for each number of the transformed kernel: with fewer, the
# transform of the kernel costs more. The gradient of stride 2 transforms it only once.
WINOGRAD_LEAST_SAVED = 128

# With more channels times features, a matrix product fills the vector units by itself.
PACKED_CHANNELS_TIMES_FEATURES = 100

# Features that fill one of the widest vectors (AVX-512, float32).
VECTOR = 16

# With fewer channels, patches are as small as shifted images and need no second copy of the output.
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


class Row(NamedTuple):
    """One line of the table.

    Attributes:
        algorithm: Name of a function in `xla.py` or `onednn.py`; `WITHOUT_ONEDNN` refers to the row
            that applies without oneDNN.
        when: Condition under which the row is taken, if none above it was.
        why: The reason, in a line.
        measured: Anchor in docs/algorithm-measurements.md, or "".
    """

    algorithm: str
    when: Condition
    why: str
    measured: str = ""


class Plan(NamedTuple):
    """Names of the algorithms for a convolution, such as "onednn.winograd".

    Attributes:
        forward: The convolution.
        input_grad: Its gradient with respect to the images.
        kernel_grad: Its gradient with respect to the kernel.
    """

    forward: str
    input_grad: str
    kernel_grad: str

    @property
    def is_joint(self) -> bool:
        """Whether both gradients are computed together, from one transform of the output's."""
        return _WINOGRAD.issuperset((self.input_grad, self.kernel_grad))

    @property
    def is_fused_with_norm(self) -> bool:
        """Whether a norm and ReLU before it can be computed inside, in both directions."""
        return self.is_joint and self.forward in _WINOGRAD


WITHOUT_ONEDNN = "without oneDNN"
_WINOGRAD = frozenset({"xla.winograd", "onednn.winograd"})


def _is_stride1(shape: ConvShape) -> bool:
    return shape.spec.strides == (1, 1)


def _is_pointwise(shape: ConvShape) -> bool:
    spec = shape.spec
    no_padding = spec.padding == ((0, 0), (0, 0))
    return not spec.depthwise and spec.kernel_size == (1, 1) and no_padding


def _has_single_channel(shape: ConvShape) -> bool:
    return not shape.spec.depthwise and min(shape.channels, shape.features) == 1


def _is_packable(shape: ConvShape) -> bool:
    spec = shape.spec
    is_spatial = spec.strides == (1, 1) and spec.kernel_size[1] > 1 and not spec.depthwise
    return is_spatial and shape.channels * shape.features <= PACKED_CHANNELS_TIMES_FEATURES


def _is_dense_3x3(spec: ConvSpec, stride: int) -> bool:
    is_3x3 = spec.kernel_size == (3, 3) and spec.strides == (stride, stride)
    return is_3x3 and not spec.depthwise


def _is_profitable(cost: Cost, batch: int, most_left: float, least_saved: float) -> bool:
    """Whether Winograd's algorithm saves enough multiplications."""
    saved = batch * (cost.direct - cost.winograd)
    return cost.winograd <= most_left * cost.direct and saved >= least_saved * cost.matrices


def _is_profitable_stride1(spec: ConvSpec, batch: int) -> bool:
    if not _is_dense_3x3(spec, stride=1):
        return False
    cost = stride1.cost(spec.output_size)
    return _is_profitable(cost, batch, WINOGRAD_MOST_LEFT, WINOGRAD_LEAST_SAVED)


def _is_winograd_forward(shape: ConvShape) -> bool:
    is_wide = min(shape.channels, shape.features) >= WINOGRAD_CHANNELS
    return is_wide and _is_profitable_stride1(shape.spec, shape.batch)


def _is_winograd_input_grad(shape: ConvShape) -> bool:
    if not _is_stride1(shape):
        return False
    return _is_winograd_forward(shape._replace(spec=shape.spec.reversed()))


def _is_winograd_kernel_grad(shape: ConvShape) -> bool:
    is_wide = min(shape.channels, shape.features) >= WINOGRAD_KERNEL_GRAD_CHANNELS
    return is_wide and _is_profitable_stride1(shape.spec, shape.batch)


def _is_winograd_stride2_kernel_grad(shape: ConvShape) -> bool:
    is_wide = min(shape.channels, shape.features) >= WINOGRAD_KERNEL_GRAD_CHANNELS
    if not is_wide or not _is_dense_3x3(shape.spec, stride=2):
        return False
    cost = stride2.cost(shape.spec.output_size)
    least_saved = WINOGRAD_LEAST_SAVED / 2
    return _is_profitable(cost, shape.batch, WINOGRAD_STRIDE2_MOST_LEFT, least_saved)


ALWAYS = Condition("otherwise", lambda shape: True)
DEPTHWISE = Condition("depthwise", lambda shape: shape.spec.depthwise)
POINTWISE = Condition("1x1, no padding", _is_pointwise)
SINGLE_CHANNEL = Condition("one channel or one feature", _has_single_channel)
STRIDE1 = Condition("stride 1", _is_stride1)
PACKABLE = Condition(
    f"stride 1, channels times features at most {PACKED_CHANNELS_TIMES_FEATURES}", _is_packable
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
WINOGRAD_INPUT_GRAD = Condition(WINOGRAD_FORWARD.text, _is_winograd_input_grad)
WINOGRAD_KERNEL_GRAD = Condition(
    f"3x3, stride 1, at least {WINOGRAD_KERNEL_GRAD_CHANNELS} channels and features, enough saved",
    _is_winograd_kernel_grad,
)
WINOGRAD_STRIDE2_KERNEL_GRAD = Condition(
    f"3x3, stride 2, at least {WINOGRAD_KERNEL_GRAD_CHANNELS} channels and features, enough saved",
    _is_winograd_stride2_kernel_grad,
)

_FORWARD_XLA = (
    Row("xla.depthwise", DEPTHWISE, "XLA's grouped convolution is a plain loop"),
    Row("xla.pointwise", POINTWISE, "one matrix product, nothing to lay out"),
    Row(
        "xla.winograd",
        WINOGRAD_FORWARD,
        "a quarter of the multiplications; products wide enough to pay for the transforms",
        "winograd-stride-1",
    ),
    Row(
        "xla.column_packing",
        PACKABLE,
        "a few columns at a time fill the vector units",
        "column-packing",
    ),
    Row("xla.direct", ALWAYS, "XLA's forward convolution is fast; only its gradients are slow"),
)
_PHASES_WHY = (
    "a stride dilates the output's gradient with zeros; one convolution per phase has none"
)

TABLE: dict[Backend, dict[str, tuple[Row, ...]]] = {
    "xla": {
        "forward": _FORWARD_XLA,
        "input_grad": (
            Row(
                "xla.winograd",
                WINOGRAD_INPUT_GRAD,
                "as forward; shares one transform with the kernel's gradient",
                "winograd-stride-1",
            ),
            Row(
                "xla.reversed",
                STRIDE1,
                "a convolution by the flipped kernel, itself chosen by the rows of `forward`",
            ),
            Row("xla.pointwise", POINTWISE, "one matrix product, zeros between its pixels"),
            Row("xla.phases", ALWAYS, _PHASES_WHY),
        ),
        "input_grad_phase": _FORWARD_XLA,
        "kernel_grad": (
            Row("xla.depthwise", DEPTHWISE, "one sum of products for each kernel position"),
            Row("xla.pointwise", POINTWISE, "one matrix product, nothing to lay out"),
            Row(
                "xla.winograd",
                WINOGRAD_KERNEL_GRAD,
                "a quarter of the multiplications, and no patches to lay out",
                "winograd-stride-1",
            ),
            Row(
                "xla.winograd_stride2",
                WINOGRAD_STRIDE2_KERNEL_GRAD,
                "81 in place of 144 multiplications for 16 outputs",
                "winograd-stride-2",
            ),
            Row(
                "xla.column_packing",
                PACKABLE,
                "a few columns at a time fill the vector units",
                "column-packing",
            ),
            Row(
                "xla.as_conv_reversed",
                FEWER_FEATURES,
                "as below, the side with fewer channels being the images: longer rows",
                "kernel-gradient-as-a-convolution",
            ),
            Row(
                "xla.as_conv",
                STRIDE1,
                "XLA's forward convolution lays out its patches in the cache",
                "kernel-gradient-as-a-convolution",
            ),
            Row("xla.im2col", ALWAYS, "a stride would dilate the convolution's kernel"),
        ),
    },
    "onednn": {
        "forward": (
            Row(WITHOUT_ONEDNN, SINGLE_CHANNEL, "oneDNN's results are wrong for single channels"),
            Row("onednn.pointwise", POINTWISE, "one matrix product, nothing to lay out"),
            Row(
                "onednn.output_columns",
                FEW_FEATURES,
                "several columns of the output as one of more features fill a vector",
                "several-output-columns",
            ),
            Row(
                "onednn.winograd",
                WINOGRAD_FORWARD,
                "a quarter of the multiplications, half of the time of oneDNN's convolution",
                "winograd-by-onednn",
            ),
            Row("onednn.direct", ALWAYS, "oneDNN's convolution, dense or depthwise"),
        ),
        "input_grad": (
            Row(WITHOUT_ONEDNN, SINGLE_CHANNEL, "oneDNN's results are wrong for single channels"),
            Row("onednn.pointwise", POINTWISE, "one matrix product, zeros between its pixels"),
            Row(
                "onednn.output_columns",
                FEW_CHANNELS,
                "several columns of the input as one of more channels fill a vector",
                "several-output-columns",
            ),
            Row(
                "onednn.winograd",
                WINOGRAD_INPUT_GRAD,
                "as forward; shares one transform with the kernel's gradient",
                "winograd-by-onednn",
            ),
            Row("onednn.reversed", STRIDE1, "oneDNN's convolution by the flipped kernel"),
            Row("onednn.phases", ALWAYS, _PHASES_WHY),
        ),
        "input_grad_phase": (
            Row(
                "onednn.winograd",
                WINOGRAD_FORWARD,
                "as forward: a phase of a larger kernel may be 3x3",
                "winograd-by-onednn",
            ),
            Row("onednn.direct", ALWAYS, "oneDNN's convolution, dense or depthwise"),
        ),
        "kernel_grad": (
            Row(WITHOUT_ONEDNN, SINGLE_CHANNEL, "oneDNN's results are wrong for single channels"),
            Row(
                WITHOUT_ONEDNN,
                FEW_FEATURES,
                "faster than patches, shifts and oneDNN's convolution",
                "several-output-columns",
            ),
            Row("onednn.pointwise", POINTWISE, "one matrix product, nothing to lay out"),
            Row(
                "onednn.depthwise_as_conv",
                DEPTHWISE,
                "one depthwise convolution in place of a sum of products for each position",
                "depthwise-kernel-gradient",
            ),
            Row(
                "onednn.winograd",
                WINOGRAD_KERNEL_GRAD,
                "a quarter of the multiplications, and no patches to lay out",
                "winograd-by-onednn",
            ),
            Row(
                "onednn.winograd_stride2",
                WINOGRAD_STRIDE2_KERNEL_GRAD,
                "81 in place of 144 multiplications for 16 outputs",
                "winograd-stride-2",
            ),
            Row(
                "onednn.as_conv",
                VECTOR_OF_FEATURES,
                "the features fill one vector; with more, patches are faster",
                "several-output-columns",
            ),
            Row(
                "onednn.shifts",
                SHIFTABLE,
                "h copies of one array and w of the other in place of h w copies",
                "shifts-or-patches",
            ),
            Row("onednn.im2col", ALWAYS, "one matrix product of patches", "shifts-or-patches"),
        ),
    },
}


def select(spec: ConvSpec, batch: int, channels: int, features: int, backend: Backend) -> Plan:
    """Returns the algorithms for a convolution and its two gradients.

    Args:
        spec: The convolution.
        batch: Images of one device, N.
        channels: Of the images, C.
        features: Of the result, F.
        backend: "onednn" where oneDNN may be called, "xla" elsewhere.
    """
    shape = ConvShape(spec, batch, channels, features)
    return Plan(*(_choose(operation, shape, backend) for operation in Plan._fields))


def select_phase(spec: ConvSpec, batch: int, channels: int, features: int, backend: Backend) -> str:
    """Returns the algorithm for one phase of a strided convolution's input gradient.

    Args:
        spec: The stride-1 convolution of the output's gradient that gives the phase.
        batch: As in `select`.
        channels: Of the output's gradient.
        features: Of the input's gradient.
        backend: As in `select`.
    """
    return _choose("input_grad_phase", ConvShape(spec, batch, channels, features), backend)


def _choose(operation: str, shape: ConvShape, backend: Backend) -> str:
    row = next(row for row in TABLE[backend][operation] if row.when.holds(shape))
    if row.algorithm == WITHOUT_ONEDNN:
        return _choose(operation, shape, "xla")
    return row.algorithm
