"""Which implementation runs on which platform, asked when a program is lowered."""

from collections.abc import Callable
from typing import Any

from jax import lax

# For programs compiled for the CPU. Without the first, XLA gives matrix products and reductions to
# YNNPACK, which runs products of fewer than 8.4 million multiplications on one core: [16, 256, 128]
# x [16, 128, 128] at 86 GFLOP/s, against 170 by Eigen's on both (2 cores of an EPYC with AVX2, jax
# 0.10.2 and 0.12.0.1, best of 5). It is a choice of XLA's between its own two libraries.
#
# The second orders the work so that little memory is needed, not so that much could run side by
# side, which two cores cannot use. Intermediate arrays of a step at batch 128: ResNet-18 793 in
# place of 1,037 MB, DenseNet-40 286 in place of 338; step times 0.97 and 1.00 times (jax 0.10.2).
#
# The third keeps barriers until loops are formed: without it XLA may compute a part again for every
# use, or read memory in the order of the loop that uses it.
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
    return lax.platform_dependent(*operands, cpu=fast, default=stock)
