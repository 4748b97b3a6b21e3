"""Which implementation runs on which platform, asked when a program is lowered."""

from collections.abc import Callable
from typing import Any

import jaxlib
from jax import lax

YNN_FUSIONS = "xla_cpu_experimental_ynn_fusion_type"
"""XLA's option that says what YNNPACK computes."""

# What XLA may give to YNNPACK, one of its own two libraries, by version of jaxlib. Never products:
# it runs small ones on one core. Sums where every sum that was tried is right, see
# scripts/checks/sums.py and docs/results.md: with 0.10.2 it takes wrong rows for some and ends the
# process in others (jax issues 39103, 39257, 40412). A version not named gives it nothing.
_SUMS_ARE_RIGHT = ("0.12.0.1",)


def cpu_compiler_options(jaxlib_version: str) -> dict[str, str]:
    """Returns XLA's options for programs compiled for the CPU by a version of jaxlib.

    - The first says what YNNPACK computes.
    - The second orders the work so that little memory is needed, not so that much could run side by
      side, which a few cores cannot use.
    - The third keeps barriers until loops are formed: without it XLA may compute a part again for
      every use, or read memory in the order of the loop that uses it.

    Figures: docs/algorithm-measurements.md, "Compiler options".
    """
    sums = "LIBRARY_FUSION_TYPE_REDUCE" if jaxlib_version in _SUMS_ARE_RIGHT else ""
    return {
        YNN_FUSIONS: sums,
        "xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED",
        "xla_disable_hlo_passes": "cse_barrier_expander",
    }


CPU_COMPILER_OPTIONS = cpu_compiler_options(jaxlib.__version__)
"""The options for the jaxlib that is installed."""


def cpu_or_stock(fast: Callable[..., Any], stock: Callable[..., Any], *operands: Any) -> Any:
    """`fast(*operands)` where the program is lowered for the CPU, `stock(*operands)` elsewhere.

    The choice is made when the program is lowered, so an exported program may hold both. GPU and
    TPU keep XLA's own primitives: cuDNN and the matrix unit do convolutions better.
    """
    # Never `jax.default_backend()`: a program may be traced on one platform and run on another.
    return lax.platform_dependent(*operands, cpu=fast, default=stock)
