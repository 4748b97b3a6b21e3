"""The gradient of a batch, at once or by micro-batches."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxcnn.models.groups import with_fixed


class Outcome(NamedTuple):
    """What a forward and backward pass gives.

    Attributes:
        grads: Gradient of the mean loss, like the parameters.
        losses: float32 `[B]`, or `[A, B / A]` for A micro-batches.
        logits: float32 `[B, K]`, or `[A, B / A, K]`.
        batch_stats: New running statistics of the norms.
    """

    grads: Any
    losses: jax.Array
    logits: jax.Array
    batch_stats: Any


def loss_and_grads(
    params: Any,
    batch_stats: Any,
    images: jax.Array,
    labels: Any,
    dropout_key: jax.Array,
    *,
    model: nn.Module,
    preprocess: Callable[[jax.Array], jax.Array],
    loss: Callable[[jax.Array, Any], jax.Array],
) -> Outcome:
    """Returns the gradient of the mean loss of a batch.

    With micro-batches, one after another is computed and the gradients are averaged. That is the
    gradient of the whole batch up to rounding, but for batch norm and dropout: each micro-batch is
    normalized by its own statistics and has a dropout key of its own. All start from the same
    running statistics, whose new values are averaged.

    Args:
        params: Parameters.
        batch_stats: Running statistics of the norms.
        images: uint8 `[B, H, W, C]`, or micro-batches `[A, B / A, H, W, C]`.
        labels: int32 `[B]` or `[A, B / A]`, or a tree of such arrays, for `loss`.
        dropout_key: A PRNG key.
        model: A network from `models.create`.
        preprocess: From uint8 `[b, H, W, C]` to the network's input.
        loss: From logits `[b, K]` and labels `[b]` to losses `[b]`.
    """

    def loss_fn(params: Any, images: jax.Array, labels: Any, key: jax.Array) -> Any:
        logits, updated = model.apply(
            {"params": params, "batch_stats": batch_stats},
            preprocess(images),
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": key},
        )
        losses = loss(logits, labels)
        return jnp.mean(losses), (losses, logits, updated.get("batch_stats", {}))

    gradient = jax.grad(loss_fn, has_aux=True)
    if images.ndim == 4:
        grads, (losses, logits, new) = gradient(params, images, labels, dropout_key)
        return Outcome(grads, losses, logits, new)

    count = images.shape[0]

    def micro_batch(total: Any, part: Any) -> Any:
        grads, rest = gradient(params, *part)
        return jax.tree.map(lambda a, b: a + b / count, total, grads), rest

    parts = (images, labels, jax.random.split(dropout_key, count))
    zeros = jax.tree.map(jnp.zeros_like, params)
    grads, (losses, logits, stats) = jax.lax.scan(micro_batch, zeros, parts)
    mean_stats = with_fixed(batch_stats, jax.tree.map(lambda leaf: jnp.mean(leaf, 0), stats))
    return Outcome(grads, losses, logits, mean_stats)
