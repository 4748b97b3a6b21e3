"""Mirroring by turns: an image that stood one way in an epoch stands the other way in the next."""

import jax
import jax.numpy as jnp

from jaxcnn.data.augmentations.each import each

# A step's key is `fold_in(key, step)`, and no step has this number.
_NO_STEP = 0xFFFFFFFF


def alternating_flip(
    key: jax.Array, images: jax.Array, indices: jax.Array, epoch: jax.Array
) -> jax.Array:
    """Mirrors left to right the images whose turn it is.

    Which images begin mirrored is drawn once; in every other epoch it is the others' turn. So two
    epochs in a row show an image both ways, where independent draws show it twice alike half of
    the time (Jordan 2024, arXiv:2404.00498, sec. 3.6).

    Args:
        key: The run's key.
        images: uint8 `[..., H, W, C]`.
        indices: int32 `[...]`, rows of the images in the training split.
        epoch: int32 [], from 0 on.

    Returns:
        uint8 `[..., H, W, C]`; what happens to an image depends on key, index and epoch alone.
    """
    key = jax.random.fold_in(key, jnp.uint32(_NO_STEP))

    def turn(image: jax.Array, index: jax.Array) -> jax.Array:
        begins = jax.random.bernoulli(jax.random.fold_in(key, index))
        return jnp.where(begins ^ (epoch % 2 == 1), image[:, ::-1], image)

    return each(turn, images, indices)
