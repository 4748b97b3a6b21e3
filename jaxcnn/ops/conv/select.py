"""Which algorithm computes a convolution and its gradients on the CPU: one table, by shape.

`TABLE` has one list of rows for each library and operation; the first row whose condition holds is
taken. `xla.py` and `onednn.py` hold the algorithms under the names that stand here, `conditions.py`
the predicates. A row gives its reason in a line; the measurement is in
docs/algorithm-measurements.md under the row's anchor.

`python -m jaxcnn.ops.conv.markdown` prints the table.
"""

from typing import Literal, NamedTuple

from jaxcnn.ops.conv import conditions as when
from jaxcnn.ops.conv.conditions import Condition, ConvShape
from jaxcnn.ops.spec import ConvSpec

Backend = Literal["xla", "onednn"]


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


_FORWARD_XLA = (
    Row("xla.depthwise", when.DEPTHWISE, "XLA's grouped convolution is a plain loop"),
    Row("xla.pointwise", when.POINTWISE, "one matrix product, nothing to lay out"),
    Row(
        "xla.winograd",
        when.WINOGRAD_FORWARD,
        "a quarter of the multiplications; products wide enough to pay for the transforms",
        "winograd-stride-1",
    ),
    Row(
        "xla.column_packing",
        when.PACKABLE,
        "a few columns at a time fill the vector units",
        "column-packing",
    ),
    Row(
        "xla.direct", when.ALWAYS, "XLA's forward convolution is fast; only its gradients are slow"
    ),
)
_PHASES_WHY = (
    "a stride dilates the output's gradient with zeros; one convolution per phase has none"
)

# The order counts: exceptions come first, and ALWAYS last, so that a row is always found. A faster
# algorithm for a shape is a row above the present one.
TABLE: dict[Backend, dict[str, tuple[Row, ...]]] = {
    "xla": {
        "forward": _FORWARD_XLA,
        "input_grad": (
            Row(
                "xla.winograd",
                when.WINOGRAD_INPUT_GRAD,
                "as forward; shares one transform with the kernel's gradient",
                "winograd-stride-1",
            ),
            Row(
                "xla.reversed",
                when.STRIDE1,
                "a convolution by the flipped kernel, itself chosen by the rows of `forward`",
            ),
            Row("xla.pointwise", when.POINTWISE, "one matrix product, zeros between its pixels"),
            Row("xla.phases", when.ALWAYS, _PHASES_WHY),
        ),
        # A phase is a forward convolution of the output's gradient, by a part of the kernel.
        "input_grad_phase": _FORWARD_XLA,
        "kernel_grad": (
            Row("xla.depthwise", when.DEPTHWISE, "one sum of products for each kernel position"),
            Row("xla.pointwise", when.POINTWISE, "one matrix product, nothing to lay out"),
            Row(
                "xla.winograd",
                when.WINOGRAD_KERNEL_GRAD,
                "a quarter of the multiplications, and no patches to lay out",
                "winograd-stride-1",
            ),
            Row(
                "xla.winograd_stride2",
                when.WINOGRAD_STRIDE2_KERNEL_GRAD,
                "nine sixteenths of the multiplications",
                "winograd-stride-2",
            ),
            Row(
                "xla.column_packing",
                when.PACKABLE_KERNEL_GRAD,
                "a few columns at a time fill the vector units",
                "column-packing",
            ),
            Row(
                "xla.as_conv_reversed",
                when.FEWER_FEATURES,
                "as below, the side with fewer channels being the images: longer rows",
                "kernel-gradient-as-a-convolution",
            ),
            Row(
                "xla.as_conv",
                when.STRIDE1,
                "XLA's forward convolution lays out its patches in the cache",
                "kernel-gradient-as-a-convolution",
            ),
            Row("xla.im2col", when.ALWAYS, "a stride would dilate the convolution's kernel"),
        ),
    },
    "onednn": {
        "forward": (
            Row(
                WITHOUT_ONEDNN,
                when.SINGLE_CHANNEL,
                "oneDNN's results are wrong for single channels",
            ),
            Row("onednn.pointwise", when.POINTWISE, "one matrix product, nothing to lay out"),
            Row(
                "onednn.output_columns",
                when.FEW_FEATURES,
                "several columns of the output as one of more features fill a vector",
                "several-output-columns",
            ),
            Row(
                "onednn.winograd",
                when.WINOGRAD_FORWARD,
                "a quarter of the multiplications, half of the time of oneDNN's convolution",
                "winograd-by-onednn",
            ),
            Row("onednn.direct", when.ALWAYS, "oneDNN's convolution, dense or depthwise"),
        ),
        "input_grad": (
            Row(
                WITHOUT_ONEDNN,
                when.SINGLE_CHANNEL,
                "oneDNN's results are wrong for single channels",
            ),
            Row("onednn.pointwise", when.POINTWISE, "one matrix product, zeros between its pixels"),
            Row(
                "onednn.output_columns",
                when.FEW_CHANNELS,
                "several columns of the input as one of more channels fill a vector",
                "several-output-columns",
            ),
            Row(
                "onednn.winograd",
                when.WINOGRAD_INPUT_GRAD,
                "as forward; shares one transform with the kernel's gradient",
                "winograd-by-onednn",
            ),
            Row("onednn.reversed", when.STRIDE1, "oneDNN's convolution by the flipped kernel"),
            Row("onednn.phases", when.ALWAYS, _PHASES_WHY),
        ),
        "input_grad_phase": (
            Row(
                "onednn.winograd",
                when.WINOGRAD_FORWARD,
                "as forward: a phase of a larger kernel may be 3x3",
                "winograd-by-onednn",
            ),
            Row("onednn.direct", when.ALWAYS, "oneDNN's convolution, dense or depthwise"),
        ),
        "kernel_grad": (
            Row(
                WITHOUT_ONEDNN,
                when.SINGLE_CHANNEL,
                "oneDNN's results are wrong for single channels",
            ),
            Row(
                WITHOUT_ONEDNN,
                when.FEW_FEATURES,
                "faster than patches, shifts and oneDNN's convolution",
                "several-output-columns",
            ),
            Row("onednn.pointwise", when.POINTWISE, "one matrix product, nothing to lay out"),
            Row(
                "onednn.depthwise_as_conv",
                when.DEPTHWISE,
                "one depthwise convolution instead of a sum of products for each position",
                "depthwise-kernel-gradient",
            ),
            Row(
                "onednn.winograd",
                when.WINOGRAD_KERNEL_GRAD,
                "a quarter of the multiplications, and no patches to lay out",
                "winograd-by-onednn",
            ),
            Row(
                "onednn.winograd_stride2",
                when.WINOGRAD_STRIDE2_KERNEL_GRAD,
                "nine sixteenths of the multiplications",
                "winograd-stride-2",
            ),
            Row(
                "onednn.as_conv",
                when.VECTOR_OF_FEATURES,
                "the features fill one vector; with more, patches are faster",
                "several-output-columns",
            ),
            Row(
                "onednn.shifts",
                when.SHIFTABLE,
                "h copies of one array and w of the other instead of h w copies",
                "shifts-or-patches",
            ),
            Row("onednn.im2col", when.ALWAYS, "one matrix product of patches", "shifts-or-patches"),
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
    # Per operation: a layer may run its three convolutions by three algorithms.
    row = next(row for row in TABLE[backend][operation] if row.when.holds(shape))
    if row.algorithm == WITHOUT_ONEDNN:
        return _choose(operation, shape, "xla")
    return row.algorithm
