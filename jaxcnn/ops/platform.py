"""Which implementation runs on which platform: the only place that asks."""

from collections.abc import Callable
from typing import Any

from jax import lax


def cpu_or_stock(fast: Callable[..., Any], stock: Callable[..., Any], *operands: Any) -> Any:
    """`fast(*operands)` where the program is lowered for the CPU, `stock(*operands)` elsewhere.

    The choice is made when the program is lowered, so an exported program may hold both. GPU and
    TPU keep XLA's own primitives: cuDNN and the matrix unit do convolutions better.
    """
    return lax.platform_dependent(*operands, cpu=fast, default=stock)
