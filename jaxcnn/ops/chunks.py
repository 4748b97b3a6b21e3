"""How a batch is walked in chunks whose intermediates stay in the cache."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

# Bytes of intermediates (patches, normalized features; Winograd's tiles have a budget of their
# own) that one chunk may create: less is kept nearer to the core, more needs fewer kernels, each of
# which has to be started on all cores. Steps at 8, 10, 12 and 16 MB: densenet_bc100_k12 2,231,
# 2,253, 2,424 and 2,447 ms; densenet40_k12 1,588, 1,546, 1,512 and 1,565 (batch 128, 2 cores of an
# EPYC with AVX-512 and 32 MB of third-level cache, jax 0.10.2, noisy; the quickest of 5 rounds or
# more, not all of one run).
CHUNK_BYTES = 10 << 20


class Chunk(NamedTuple):
    """A chunk of an array, not cut out of it yet.

    What a call that XLA cannot look into is given would be copied first. If a loop inside the call
    cuts it out, it is read once (32x32, 64 channels, the first loop of `tiles`: 2.3 ms in place
    of 4.5; 2 cores of an EPYC with AVX-512, jax 0.10.2, medians of 40).

    Attributes:
      array: of the whole batch, or of the chunk alone.
      start: the chunk's first image; None if the array is the chunk.
      images: in the chunk.
      function: of each pixel, applied to what is cut out.
    """

    array: jax.Array
    start: jax.Array | None
    images: int
    function: Callable[[jax.Array], jax.Array] = lambda pixels: pixels

    @classmethod
    def of(cls, array: jax.Array) -> "Chunk":
        """All of an array."""
        return cls(array, None, array.shape[0])

    def cut(self) -> jax.Array:
        """The chunk, `[images, ...]`."""
        return self.function(self._cut())

    def _cut(self) -> jax.Array:
        if self.start is None:
            return self.array
        return lax.dynamic_slice_in_dim(self.array, self.start, self.images)

    def every(self, axis: int, begin: int, step: int, count: int) -> jax.Array:
        """Of an axis but the first, the entries `begin`, `begin + step` and so on.

        A slice of its own from the array each time: of one that has several uses XLA makes a
        function, called for every number (32x32, 64 channels 9.5 in place of 2.3 ms).
        """
        return self.function(self._every(axis, begin, step, count))

    def _every(self, axis: int, begin: int, step: int, count: int) -> jax.Array:
        if not count:
            return self._cut()[(slice(None),) * axis + (slice(0),)]
        span = step * (count - 1) + 1
        if self.start is None:
            return lax.slice_in_dim(self.array, begin, begin + span, step, axis)
        starts = [self.start, *([jnp.int32(0)] * (self.array.ndim - 1))]
        starts[axis] = jnp.int32(begin)
        sizes = [self.images, *self.array.shape[1:]]
        sizes[axis] = span
        part = lax.dynamic_slice(self.array, starts, sizes)
        return lax.slice_in_dim(part, 0, span, step, axis)


def chunk_size(batch: int, bytes_per_image: int, budget: int = CHUNK_BYTES) -> int:
    """Images in a chunk: as many as the budget allows, preferring a divisor of the batch."""
    most = max(1, min(batch, budget // max(1, bytes_per_image)))
    for size in range(most, most // 2, -1):
        if batch % size == 0:
            return size
    return most


def map_chunks(
    function: Callable[..., Any],
    arrays: tuple[jax.Array, ...],
    size: int,
    shards: int = 1,
    *,
    lazy: bool = False,
) -> Any:
    """`function(*arrays)`, computed `size` images at a time and put together again.

    Args:
      function: takes arrays of `[n, ...]` and returns one array of `[n, ...]`.
      arrays: each `[batch, ...]`.
      size: images of each shard in a chunk; need not divide the batch.
      shards: devices over which the batch may be sharded.
      lazy: whether the function takes `Chunk`s in place of arrays.
    """
    function = function if lazy else _of_cut(function)
    return map_and_sum_chunks(lambda *c: (function(*c), None), arrays, size, shards)[0]


def sum_chunks(
    function: Callable[..., Any],
    arrays: tuple[jax.Array, ...],
    size: int,
    shards: int = 1,
    *,
    lazy: bool = False,
) -> Any:
    """The sum of `function(*chunk)` over the chunks of the arrays; otherwise as `map_chunks`."""
    function = function if lazy else _of_cut(function)
    return map_and_sum_chunks(lambda *c: (None, function(*c)), arrays, size, shards)[1]


def _of_cut(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *chunks: function(*(chunk.cut() for chunk in chunks))


def map_and_sum_chunks(
    function: Callable[..., tuple[Any, Any]],
    arrays: tuple[jax.Array, ...],
    size: int,
    shards: int = 1,
) -> tuple[Any, Any]:
    """`map_chunks` and `sum_chunks` in one loop, of a function of `Chunk`s that returns both parts.

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
        return function(*map(Chunk.of, arrays))
    # Without the barrier XLA computes what comes before the loop a second time for it.
    arrays = lax.optimization_barrier(arrays)
    if shards == 1:
        return _walk_alone(function, arrays, size)
    per_shard = [a.reshape(shards, local, *a.shape[1:]) for a in arrays]

    def run(pieces: list[jax.Array]) -> tuple[Any, Any]:
        n = pieces[0].shape[1]
        out, part = function(*[Chunk.of(p.reshape(shards * n, *p.shape[2:])) for p in pieces])
        return jax.tree.map(lambda a: a.reshape(shards, n, *a.shape[1:]), out), part

    def step(total: Any, pieces: Any) -> tuple[Any, Any]:
        out, part = run(list(pieces))
        return _added(total, part), out

    head = tuple(
        p[:, : count * size].reshape(shards, count, size, *p.shape[2:]).swapaxes(0, 1)
        for p in per_shard
    )
    total, stacked = lax.scan(step, _zeros(function, arrays), head)
    outs = [
        jax.tree.map(
            lambda a: a.swapaxes(0, 1).reshape(shards, count * size, *a.shape[3:]), stacked
        )
    ]
    if rest:
        out, part = run([p[:, count * size :] for p in per_shard])
        outs.append(out)
        total = _added(total, part)
    whole = jax.tree.map(lambda *a: jnp.concatenate(a, axis=1), *outs)
    return jax.tree.map(lambda a: a.reshape(batch, *a.shape[2:]), whole), total


def _walk_alone(
    function: Callable[..., tuple[Any, Any]], arrays: tuple[jax.Array, ...], size: int
) -> tuple[Any, Any]:
    """The same for one device, whose batch need not be seen as `[shards, ...]`."""
    count, rest = divmod(arrays[0].shape[0], size)

    def run(start: jax.Array, images: int = size) -> tuple[Any, Any]:
        return function(*(Chunk(array, start, images) for array in arrays))

    def step(total: Any, start: jax.Array) -> tuple[Any, Any]:
        out, part = run(start)
        return _added(total, part), out

    total, stacked = lax.scan(
        step, _zeros(function, arrays), size * jnp.arange(count, dtype=jnp.int32)
    )
    outs = [jax.tree.map(lambda a: a.reshape(count * size, *a.shape[2:]), stacked)]
    if rest:
        out, part = run(jnp.int32(count * size), rest)
        outs.append(out)
        total = _added(total, part)
    return jax.tree.map(lambda *a: jnp.concatenate(a), *outs), total


def _added(a: Any, b: Any) -> Any:
    return jax.tree.map(jnp.add, a, b)


def _zeros(function: Callable[..., tuple[Any, Any]], arrays: tuple[jax.Array, ...]) -> Any:
    """Zeros like the sum for `arrays`, varying over the same axes of a `shard_map`."""
    _, shapes = jax.eval_shape(lambda *arrays: function(*map(Chunk.of, arrays)), *arrays)
    axes = frozenset[Any]().union(*(jax.typeof(a).manual_axis_type.varying for a in arrays))

    def zeros(shape: jax.ShapeDtypeStruct) -> jax.Array:
        array = jnp.zeros(shape.shape, shape.dtype)
        return lax.pcast(array, tuple(sorted(axes)), to="varying") if axes else array

    return jax.tree.map(zeros, shapes)
