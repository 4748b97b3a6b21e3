"""Applying a function of one image to all images of a batch, however its axes are cut."""

from collections.abc import Callable

import jax


def each(function: Callable[..., jax.Array], images: jax.Array, *drawn: jax.Array) -> jax.Array:
    """Returns `function` of every image `[H, W, C]` of `[..., H, W, C]` and what is drawn for it.

    Args:
        function: From one image, and one element of each of `drawn`, to an image.
        images: `[..., H, W, C]`.
        *drawn: Arrays whose first axes are the images' leading ones.
    """
    # One `vmap` for each leading axis, so that micro-batches need not be joined for this.
    for _ in images.shape[:-3]:
        function = jax.vmap(function)
    return function(images, *drawn)
