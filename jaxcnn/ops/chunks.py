"""Functions of a batch, computed chunk by chunk so that intermediates stay in the cache."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

# Bytes of intermediates (patches, normalized features; Winograd's tiles have a budget of their
# own) that one chunk may create: fewer stay nearer to the core, more need fewer kernels, each of
# which has to be started on all cores.
CHUNK_BYTES = 10 << 20


class Chunk(NamedTuple):
    """A chunk of an array that is not sliced yet.

    A slice that is the operand of a call which is not inlined would be copied first. A loop inside
    the call that slices for itself reads the array once.

    Attributes:
        array: Of the whole batch, or of the chunk alone.
        start: The chunk's first image; None if the array is the chunk.
        images: In the chunk.
        function: Applied to each pixel of the slice.
    """

    array: jax.Array
    start: jax.Array | None
    images: int
    function: Callable[[jax.Array], jax.Array] = lambda pixels: pixels

    @classmethod
    def of(cls, array: jax.Array) -> "Chunk":
        """All of an array."""
        return cls(array, None, array.shape[0])

    def sliced(self) -> jax.Array:
        """The chunk as an array, `[images, ...]`."""
        return self.function(self._sliced())

    def _sliced(self) -> jax.Array:
        if self.start is None:
            return self.array
        return lax.dynamic_slice_in_dim(self.array, self.start, self.images)

    def strided(self, axis: int, begin: int, step: int, count: int, spare: int = 0) -> jax.Array:
        """The entries `begin`, `begin + step` and so on along an axis other than the first.

        Every call slices the array again: XLA makes of a slice with several uses a function that is
        called for every number. Of two equal slices it makes one, so they have to differ in what
        they leave out: `spare` entries behind the last, which have to exist.
        """
        return self.function(self._strided(axis, begin, step, count, spare))

    def _strided(self, axis: int, begin: int, step: int, count: int, spare: int) -> jax.Array:
        # All tiles may lie outside the image, and no slice has a negative span.
        if not count:
            return self._sliced()[(slice(None),) * axis + (slice(0),)]
        span = step * (count - 1) + 1 + spare
        if self.start is None:
            return lax.slice_in_dim(self.array, begin, begin + span, step, axis)
        # `dynamic_slice` takes no stride: it takes the span, of which every `step`th entry is kept.
        starts = [self.start, *([jnp.int32(0)] * (self.array.ndim - 1))]
        starts[axis] = jnp.int32(begin)
        sizes = [self.images, *self.array.shape[1:]]
        sizes[axis] = span
        part = lax.dynamic_slice(self.array, starts, sizes)
        return lax.slice_in_dim(part, 0, span, step, axis)


def chunk_size(batch: int, bytes_per_image: int, budget: int = CHUNK_BYTES) -> int:
    """Images in a chunk: as many as the budget allows, preferring a divisor of the batch."""
    most = max(1, min(batch, budget // max(1, bytes_per_image)))
    # A divisor leaves no rest, a second body to compile; for that a chunk may be half as large.
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
    """`function(*arrays)`, computed `size` images at a time and concatenated.

    Args:
        function: Takes arrays of `[n, ...]` and returns one array of `[n, ...]`.
        arrays: Each `[batch, ...]`.
        size: Images of each shard in a chunk; need not divide the batch.
        shards: Devices over which the batch may be sharded.
        lazy: Whether the function takes `Chunk`s instead of arrays.
    """
    function = function if lazy else _of_slices(function)
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
    function = function if lazy else _of_slices(function)
    return map_and_sum_chunks(lambda *c: (None, function(*c)), arrays, size, shards)[1]


def _of_slices(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *chunks: function(*(chunk.sliced() for chunk in chunks))


def map_and_sum_chunks(
    function: Callable[..., tuple[Any, Any]],
    arrays: tuple[jax.Array, ...],
    size: int,
    shards: int = 1,
) -> tuple[Any, Any]:
    """`map_chunks` and `sum_chunks` in one loop, of a function of `Chunk`s that returns both parts.

    A batch sharded over devices must not be sliced along the sharded axis, or XLA would gather it:
    it is reshaped to `[shards, chunks, n, ...]` and scanned along `chunks`, which is not sharded.
    """
    batch = arrays[0].shape[0]
    if batch % shards:
        shards = 1  # Such a batch cannot be sharded evenly, so it is on every device.
    local = batch // shards
    size = min(size, local)
    count, rest = divmod(local, size)
    # One chunk: no loop, and nothing to concatenate.
    if count == 1 and not rest:
        return function(*map(Chunk.of, arrays))
    # Without the barrier XLA computes what comes before the loop a second time for it.
    arrays = lax.optimization_barrier(arrays)
    if shards == 1:
        return _scan_one_device(function, arrays, size)
    # The batch is stored device by device, so each keeps its own images under the new axis.
    per_shard = [a.reshape(shards, local, *a.shape[1:]) for a in arrays]

    def run(pieces: list[jax.Array]) -> tuple[Any, Any]:
        n = pieces[0].shape[1]
        # The function sees the chunks of all devices as one batch, still divided among them; a sum
        # over that batch is one over all devices.
        out, part = function(*[Chunk.of(p.reshape(shards * n, *p.shape[2:])) for p in pieces])
        return jax.tree.map(lambda a: a.reshape(shards, n, *a.shape[1:]), out), part

    def step(total: Any, pieces: Any) -> tuple[Any, Any]:
        out, part = run(list(pieces))
        return _tree_add(total, part), out

    # `scan` takes the first axis: [S, local, ...] to [count, S, size, ...].
    head = tuple(
        p[:, : count * size].reshape(shards, count, size, *p.shape[2:]).swapaxes(0, 1)
        for p in per_shard
    )
    total, stacked = lax.scan(step, _zeros(function, arrays), head)
    # And back: [count, S, size, ...] to [S, count * size, ...].
    outs = [
        jax.tree.map(
            lambda a: a.swapaxes(0, 1).reshape(shards, count * size, *a.shape[3:]), stacked
        )
    ]
    # Other shapes than in the loop, so a body of its own.
    if rest:
        out, part = run([p[:, count * size :] for p in per_shard])
        outs.append(out)
        total = _tree_add(total, part)
    whole = jax.tree.map(lambda *a: jnp.concatenate(a, axis=1), *outs)
    return jax.tree.map(lambda a: a.reshape(batch, *a.shape[2:]), whole), total


def _scan_one_device(
    function: Callable[..., tuple[Any, Any]], arrays: tuple[jax.Array, ...], size: int
) -> tuple[Any, Any]:
    """The same for one device, whose batch need not be reshaped to `[shards, ...]`."""
    count, rest = divmod(arrays[0].shape[0], size)

    def run(start: jax.Array, images: int = size) -> tuple[Any, Any]:
        return function(*(Chunk(array, start, images) for array in arrays))

    def step(total: Any, start: jax.Array) -> tuple[Any, Any]:
        out, part = run(start)
        return _tree_add(total, part), out

    # Offsets are scanned over, not slices, so that the function can slice for itself.
    total, stacked = lax.scan(
        step, _zeros(function, arrays), size * jnp.arange(count, dtype=jnp.int32)
    )
    outs = [jax.tree.map(lambda a: a.reshape(count * size, *a.shape[2:]), stacked)]
    if rest:
        out, part = run(jnp.int32(count * size), rest)
        outs.append(out)
        total = _tree_add(total, part)
    return jax.tree.map(lambda *a: jnp.concatenate(a), *outs), total


def _tree_add(a: Any, b: Any) -> Any:
    return jax.tree.map(jnp.add, a, b)


def _zeros(function: Callable[..., tuple[Any, Any]], arrays: tuple[jax.Array, ...]) -> Any:
    """Zeros like the sum for `arrays`, varying over the same axes of a `shard_map`."""
    # Sums have the same shape for every number of images, so that for the whole batch will do.
    _, shapes = jax.eval_shape(lambda *arrays: function(*map(Chunk.of, arrays)), *arrays)
    axes = frozenset[Any]().union(*(jax.typeof(a).manual_axis_type.varying for a in arrays))

    def zeros(shape: jax.ShapeDtypeStruct) -> jax.Array:
        array = jnp.zeros(shape.shape, shape.dtype)
        return lax.pcast(array, tuple(sorted(axes)), to="varying") if axes else array

    return jax.tree.map(zeros, shapes)
