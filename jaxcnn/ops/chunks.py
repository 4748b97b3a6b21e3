"""How a batch is walked in chunks whose intermediates stay in the cache."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

# Bytes of intermediates (patches, normalised features; Winograd's tiles have a budget of their
# own) that one chunk may create: less is kept nearer to the core, more needs fewer kernels, each of
# which has to be started on all cores. Steps of densenet40_k12 at 4, 16 and 32 MB: 1,625 and 1,836,
# 1,251 and 1,158, 1,542 ms (batch 128, 2 cores of an EPYC with AVX-512 and 32 MB of third-level
# cache, jax 0.10.2, medians of 4; several figures are of several runs).
CHUNK_BYTES = 16 << 20


def chunk_size(batch: int, bytes_per_image: int, budget: int = CHUNK_BYTES) -> int:
    """Images in a chunk: as many as the budget allows, preferring a divisor of the batch."""
    most = max(1, min(batch, budget // max(1, bytes_per_image)))
    for size in range(most, most // 2, -1):
        if batch % size == 0:
            return size
    return most


def map_chunks(
    function: Callable[..., Any], arrays: tuple[jax.Array, ...], size: int, shards: int = 1
) -> Any:
    """`function(*arrays)`, computed `size` images at a time and put together again.

    Args:
      function: takes arrays of `[n, ...]` and returns one array of `[n, ...]`.
      arrays: each `[batch, ...]`.
      size: images of each shard in a chunk; need not divide the batch.
      shards: devices over which the batch may be sharded.
    """
    return _walk(function, arrays, size, shards, reduce=False)


def sum_chunks(
    function: Callable[..., Any], arrays: tuple[jax.Array, ...], size: int, shards: int = 1
) -> Any:
    """The sum of `function(*chunk)` over the chunks of the arrays; otherwise as `map_chunks`."""
    return _walk(function, arrays, size, shards, reduce=True)


def _walk(
    function: Callable[..., Any],
    arrays: tuple[jax.Array, ...],
    size: int,
    shards: int,
    reduce: bool,
) -> Any:
    """The loop behind `map_chunks` and `sum_chunks`.

    A batch sharded over devices must not be cut along the sharded axis, or XLA would gather it: it
    is seen as `[shards, chunks, n, ...]` and walked along `chunks`, which no device shares.
    """
    batch = arrays[0].shape[0]
    if batch % shards:
        shards = 1  # Such a batch cannot be sharded evenly, so it is on every device.
    local = batch // shards
    size = min(size, local)
    count, rest = divmod(local, size)
    if count == 1 and not rest:
        return function(*arrays)
    # Without the barrier XLA computes what comes before the loop a second time for it.
    arrays = lax.optimization_barrier(arrays)
    if shards == 1:
        return _walk_alone(function, arrays, size, reduce)
    per_shard = [a.reshape(shards, local, *a.shape[1:]) for a in arrays]

    def run(pieces: list[jax.Array]) -> jax.Array:
        n = pieces[0].shape[1]
        out = function(*[p.reshape(shards * n, *p.shape[2:]) for p in pieces])
        return out if reduce else out.reshape(shards, n, *out.shape[1:])

    head = tuple(
        p[:, : count * size].reshape(shards, count, size, *p.shape[2:]).swapaxes(0, 1)
        for p in per_shard
    )
    tail = [p[:, count * size :] for p in per_shard]
    if reduce:
        total, _ = lax.scan(
            lambda carry, pieces: (carry + run(list(pieces)), None), _zeros(function, arrays), head
        )
        return total + run(tail) if rest else total
    _, stacked = lax.scan(lambda carry, pieces: (carry, run(list(pieces))), (), head)
    out = stacked.swapaxes(0, 1).reshape(shards, count * size, *stacked.shape[3:])
    if rest:
        out = jnp.concatenate([out, run(tail)], axis=1)
    return out.reshape(batch, *out.shape[2:])


def _walk_alone(
    function: Callable[..., Any], arrays: tuple[jax.Array, ...], size: int, reduce: bool
) -> Any:
    """The same for one device, whose batch need not be seen as `[shards, ...]`."""
    count, rest = divmod(arrays[0].shape[0], size)
    head = [a[: count * size].reshape(count, size, *a.shape[1:]) for a in arrays]
    tail = [a[count * size :] for a in arrays]
    if reduce:
        total, _ = lax.scan(
            lambda carry, pieces: (carry + function(*pieces), None), _zeros(function, arrays), head
        )
        return total + function(*tail) if rest else total
    _, stacked = lax.scan(lambda carry, pieces: (carry, function(*pieces)), (), head)
    out = stacked.reshape(count * size, *stacked.shape[2:])
    return jnp.concatenate([out, function(*tail)]) if rest else out


def _zeros(function: Callable[..., Any], arrays: tuple[jax.Array, ...]) -> jax.Array:
    """Zeros like the result of `function(*arrays)`, varying over the same axes of a `shard_map`."""
    shape = jax.eval_shape(function, *arrays)
    zeros = jnp.zeros(shape.shape, shape.dtype)
    axes = frozenset[Any]().union(*(jax.typeof(a).manual_axis_type.varying for a in arrays))
    return lax.pcast(zeros, tuple(sorted(axes)), to="varying") if axes else zeros
