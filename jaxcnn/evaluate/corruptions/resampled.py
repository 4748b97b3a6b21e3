"""How an image is multiplied by matrices along its axes, and read between its pixels."""

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy import ndimage


def along_both(rows: jax.Array, columns: jax.Array, image: jax.Array) -> jax.Array:
    """Returns `[H', W', C]` of an image `[H, W, C]`, matrices `[H', H]` and `[W', W]`."""
    # "highest": a GPU would round the factors to 10 bits otherwise.
    return jnp.einsum("ah,bw,hwc->abc", rows, columns, image, precision="highest")


def sample(image: jax.Array, y: jax.Array, x: jax.Array, edge: str) -> jax.Array:
    """Returns the image at positions between pixels, bilinearly, `[*positions, C]`.

    Args:
        image: float `[H, W, C]`.
        y: float, of any shape: 0 is the center of the first row.
        x: Likewise, of columns.
        edge: What lies beyond the edge: "reflect" for the mirror image that begins with the pixel
            at the edge, "mirror" for the one that begins with the pixel behind it.
    """
    # Computed once: XLA may compute a position again for each use, with other roundings, and the
    # pixel of the one would get the weight of the other. Needs `compilation.compiler_options`.
    y, x = lax.optimization_barrier((y, x))

    def channel(values: jax.Array) -> jax.Array:
        return ndimage.map_coordinates(values, [y, x], order=1, mode=edge)

    return jax.vmap(channel, in_axes=-1, out_axes=-1)(image)
