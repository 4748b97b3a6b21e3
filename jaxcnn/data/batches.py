"""Which examples stand in which batch: a function of (seed, epoch) alone."""

from collections.abc import Iterator

import numpy as np


def steps_per_epoch(examples: int, batch_size: int) -> int:
    """Returns the number of whole batches; what remains of an epoch's order is not trained on."""
    return examples // batch_size


def shuffled_batches(seed: int, epoch: int, examples: int, batch_size: int) -> np.ndarray:
    """Returns the batches of an epoch.

    The order is a permutation of all examples that changes by epoch, so that the remainder that
    makes no whole batch is another one each time. It sorts the raw words of a Philox generator
    (Salmon et al. 2011), whose stream NumPy keeps fixed between versions (NEP 19), as it does not
    for `Generator.permutation`.

    Args:
        seed: The run's seed.
        epoch: From 0 on.
        examples: N.
        batch_size: B, at most N.

    Returns:
        int32 `[N // B, B]`, each row the indices of one batch.
    """
    words = np.random.Philox(key=[seed, epoch]).random_raw(examples)
    order = np.argsort(words, kind="stable").astype(np.int32)
    count = steps_per_epoch(examples, batch_size)
    return order[: count * batch_size].reshape(count, batch_size)


def sequential_batches(examples: int, batch_size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields all examples once: indices int32 `[B]` and a mask bool `[B]`, False for padding."""
    for start in range(0, examples, batch_size):
        indices = np.arange(start, start + batch_size, dtype=np.int32)
        mask = indices < examples
        # Programs have one shape: example 0, masked, fills up the last batch.
        yield np.where(mask, indices, 0), mask
