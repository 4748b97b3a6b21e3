"""Which implementation runs on which platform, asked when a program is lowered."""

from collections.abc import Callable
from typing import Any

from jax import lax

# For programs compiled for the CPU.
#
# - Without the first, XLA gives matrix products and reductions to YNNPACK, one of its own two
#   libraries, which runs small products on one core.
# - The second orders the work so that little memory is needed, not so that much could run side by
#   side, which a few cores cannot use.
# - The third keeps barriers until loops are formed: without it XLA may compute a part again for
#   every use, or read memory in the order of the loop that uses it.
#
# Figures: docs/algorithm-measurements.md, "Compiler options".
CPU_COMPILER_OPTIONS = {
    "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE",
    "xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED",
    "xla_disable_hlo_passes": "cse_barrier_expander",
}


def cpu_or_stock(fast: Callable[..., Any], stock: Callable[..., Any], *operands: Any) -> Any:
    """`fast(*operands)` where the program is lowered for the CPU, `stock(*operands)` elsewhere.

    The choice is made when the program is lowered, so an exported program may hold both. GPU and
    TPU keep XLA's own primitives: cuDNN and the matrix unit do convolutions better.
    """
    # Never `jax.default_backend()`: a program may be traced on one platform and run on another.
    return lax.platform_dependent(*operands, cpu=fast, default=stock)
