"""Which algorithms does a function use? Read off its trace: a line for each kind of convolution."""

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax

from jaxcnn.ops.conv.select import Backend, Plan, select
from jaxcnn.ops.spec import ConvSpec

DENSE_BLOCK = "cnn_dense_block"


class Use(NamedTuple):
    """Convolutions of one kind.

    Attributes:
        kind: Such as "3x3 stride 2 depthwise", or "dense block", which chooses for itself.
        plan: The algorithms; None for a dense block.
    """

    kind: str
    plan: Plan | None


def algorithms(
    function: Callable[..., Any], *operands: Any, backend: Backend, devices: int = 1
) -> Counter[Use]:
    """Returns how often a function uses which algorithms on the CPU; computes nothing.

    Args:
        function: What is traced, such as the `apply` of a network.
        *operands: Of the function, or their shapes and dtypes.
        backend: As in `select`.
        devices: That share the batch.
    """
    found: Counter[Use] = Counter()
    for eqn in _equations(jax.make_jaxpr(function)(*operands).jaxpr):
        spec = eqn.params.get("spec")
        if eqn.primitive.name == DENSE_BLOCK:
            found[Use("dense block", None)] += 1
        elif isinstance(spec, ConvSpec):
            images, kernel = (operand.aval.shape for operand in eqn.invars[:2])
            plan = select(spec, images[0] // devices, images[3], kernel[3], backend)
            kind = "x".join(map(str, spec.kernel_size))
            kind += f" stride {max(spec.strides)}" if max(spec.strides) > 1 else ""
            found[Use(kind + " depthwise" * spec.depthwise, plan)] += 1
    return found


def _equations(jaxpr: Any) -> Iterator[Any]:
    """Yields the equations of a jaxpr, and those of the jaxprs inside them."""
    for eqn in jaxpr.eqns:
        yield eqn
        for value in eqn.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                inner = getattr(inner, "jaxpr", inner)  # of a closed one
                if hasattr(inner, "eqns"):
                    yield from _equations(inner)
