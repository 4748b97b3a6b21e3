"""What a layer leaves to the next one to compute."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax


class Deferred(NamedTuple):
    """An array that is not computed yet.

    Attributes:
        function: From the operands to the array.
        operands: The first has the array's shape.
    """

    function: Callable[..., jax.Array]
    operands: tuple[jax.Array, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """The array's shape."""
        return self.operands[0].shape

    def value(self) -> jax.Array:
        """Computes the array."""
        return self.function(*self.operands)

    def before(self, convolve: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
        """Returns `convolve`, of the array whatever images it is given.

        The array is computed again for the gradients (Chen et al. 2016, arXiv:1604.06174), which
        need the operands besides: it is not kept between the two passes.
        """

        def of_the_array(_: jax.Array, kernel: jax.Array, *args: Any, **kwargs: Any) -> jax.Array:
            @jax.checkpoint
            def both(operands: tuple[jax.Array, ...], kernel: jax.Array) -> jax.Array:
                return convolve(self.function(*operands), kernel, *args, **kwargs)

            return both(self.operands, kernel)

        return of_the_array


def value(x: jax.Array | Deferred) -> jax.Array:
    """Returns the array, computed if it was not."""
    return x.value() if isinstance(x, Deferred) else x
