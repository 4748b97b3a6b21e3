"""The forward and the backward pass of a dense block on the CPU; see `arithmetic` for the method.

A layer is one stage or two: a 3x3 convolution, with a bottleneck a 1x1 convolution before it.

Layers whose input channels differ by little are the turns of one loop: their kernels and norms are
padded with zeros to the width of the last, so that one compiled body serves all of them.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxcnn.ops.dense_block.arithmetic import (
    VECTOR,
    DeferredGrad,
    Moments,
    Norm,
    Saved,
    View,
    Weights,
    flat_kernel,
    square_kernel,
    wide,
)
from jaxcnn.ops.dense_block.stages import Output, Stage, moments, power_sums
from jaxcnn.ops.norm import along

# Input channels of a loop's last layer over those of its first, at most, by whether there are
# bottlenecks. More is less to compile, and more zeros to multiply.
_WIDEST = {False: 1.12, True: 3.0}

Gradients = tuple[jax.Array, jax.Array, jax.Array]


class LayerGroup(NamedTuple):
    """Layers of one loop.

    Attributes:
        layers: Their weights.
        numbers: Each layer's place in the block, from 0 on, `[G]`.
        channels: Input channels of the last.
    """

    layers: Weights
    numbers: jax.Array
    channels: int

    def stacked(self, dtype: Any, channels: int) -> dict[str, Any]:
        """The weights of all layers, padded with zeros to `channels`, with a leading axis G."""

        def flat(layer: dict[str, dict[str, jax.Array]]) -> dict[str, Any]:
            named = {**layer, "conv2": flat_kernel(layer["conv2"]["kernel"], dtype)}
            if "conv1" in layer:
                named["conv1"] = layer["conv1"]["kernel"][0, 0].astype(dtype)
            # Only the convolution that reads the features differs in width from layer to layer.
            first = "1" if "conv1" in layer else "2"
            for name in (f"norm{first}", f"conv{first}"):
                named[name] = jax.tree.map(padded, named[name])
            return named

        def padded(array: jax.Array) -> jax.Array:
            # With scale, bias and kernel zero, channels that a layer does not have add nothing, and
            # get no gradient: they may hold whatever the array holds there, if it is finite.
            missing = channels - array.shape[0]
            return jnp.pad(array, [(0, missing)] + [(0, 0)] * (array.ndim - 1))

        return jax.tree.map(lambda *each: jnp.stack(each), *map(flat, self.layers))


def layer_groups(channels: int, weights: Weights) -> Iterator[LayerGroup]:
    """The block's layers, in order, in as few groups as `_WIDEST` allows."""
    widest = _WIDEST["conv1" in weights[0]]
    k = weights[0]["conv2"]["kernel"].shape[3]
    begin = 0
    while begin < len(weights):
        most = int(widest * (channels + begin * k))
        # Each layer reads k channels more than the one before, the group's last at most `most`.
        end = min(len(weights), begin + (most - channels - begin * k) // k + 1)
        yield LayerGroup(weights[begin:end], jnp.arange(begin, end), channels + (end - 1) * k)
        begin = end


def forward(
    x: jax.Array, weights: Weights, epsilon: float, shards: int = 1, by_onednn: bool = False
) -> tuple[jax.Array, Saved]:
    """Returns the block's features, `[B, H, W, C + L * k]`, and what is to be saved."""
    channels, count = x.shape[3], len(weights)
    k = weights[0]["conv2"]["kernel"].shape[3]
    split = _split(x, shards)
    images = split.shape[-4]
    known = moments(*power_sums(split.astype(wide(x.dtype))), x.size // channels)
    # Padded layers also read moments of channels that are still to come: zeros, which are finite.
    known = Moments(*(jnp.pad(array, (0, count * k)) for array in known))
    # The array of the whole block from the start: layers write into it, nothing is concatenated.
    features = lax.pad(
        split, jnp.zeros((), x.dtype), [(0, 0, 0)] * (split.ndim - 1) + [(0, count * k, 0)]
    )
    bottlenecks = None
    if "conv1" in weights[0]:
        *lead, _, height, width, _ = split.shape
        inner_channels = weights[0]["conv1"]["kernel"].shape[3]
        bottlenecks = jnp.zeros((*lead, count * images, height, width, inner_channels), x.dtype)

    def layer(carry: Any, turn: Any) -> Any:
        features, known, bottlenecks = carry
        layer, number = turn
        # `number` is traced, so that one compiled body serves all layers of a group.
        at = channels + number * k
        # None for `Stage`: without a bottleneck a layer reads from the array that it writes to.
        source, inner = None, known
        if bottlenecks is not None:
            source = View(bottlenecks, number * images)
            stage = _stage(layer, 1, known, epsilon, images, by_onednn)
            bottlenecks, inner = stage.forward(View(features), source)
            source = source.of(bottlenecks)
        stage = _stage(layer, 2, inner, epsilon, images, by_onednn)
        features, added = stage.forward(source, View(features, channel=at))
        # Every later layer normalizes these channels by the same moments, so they are taken once.
        known = Moments(
            *(lax.dynamic_update_slice(*pair, (at,)) for pair in zip(known, added, strict=True))
        )
        return (features, known, bottlenecks), None if bottlenecks is None else inner

    carry, found = (features, known, bottlenecks), []
    # Loop after loop; features, moments and bottlenecks go on from one to the next.
    for group in layer_groups(channels, weights):
        carry, inner = lax.scan(
            layer, carry, (group.stacked(known.mean.dtype, group.channels), group.numbers)
        )
        found.append(inner)
    features, known, bottlenecks = carry
    inner = None
    if bottlenecks is not None:
        inner = jax.tree.map(lambda *each: jnp.concatenate(each), *found)
        # As `layerwise` has them: what a primitive returns must not depend on the platform.
        bottlenecks = _layers_first(bottlenecks, count, images)
    return features.reshape(*x.shape[:3], -1), Saved(known, bottlenecks, inner)


def forward_shapes(x: Any, weights: Weights) -> Any:
    """Shapes and dtypes of what `forward` returns."""
    count, k = len(weights), weights[0]["conv2"]["kernel"].shape[3]
    channels = x.shape[3] + count * k

    def array(*shape: int, dtype: Any = x.dtype) -> Any:
        return jax.ShapeDtypeStruct(shape, dtype)

    def moments_of(*shape: int) -> Moments:
        each = array(*shape, dtype=wide(x.dtype))
        return Moments(each, each)

    bottlenecks = inner = None
    if "conv1" in weights[0]:
        width = weights[0]["conv1"]["kernel"].shape[3]
        bottlenecks, inner = array(count, *x.shape[:3], width), moments_of(count, width)
    return array(*x.shape[:3], channels), Saved(moments_of(channels), bottlenecks, inner)


def backward(
    features: jax.Array,
    saved: Saved,
    weights: Weights,
    gradient: jax.Array,
    epsilon: float,
    shards: int = 1,
    by_onednn: bool = False,
) -> tuple[jax.Array, Weights]:
    """Returns the gradients of the block's input and of the weights, from that of `features`."""
    values, into = _split(features, shards), _split(gradient, shards)
    mean, images = saved.features.mean, values.shape[-4]
    k = weights[0]["conv2"]["kernel"].shape[3]
    channels = features.shape[3] - len(weights) * k
    bottlenecks = saved.bottlenecks
    dz = None
    if bottlenecks is not None:
        bottlenecks = _images_first(bottlenecks, images)
        # One array for all layers: each writes the gradient of its bottleneck over the last one's.
        dz = jnp.zeros((*values.shape[:-1], bottlenecks.shape[-1]), features.dtype)

    def layer(carry: Any, turn: Any) -> Any:
        into, dz, deferred = carry
        layer, number, inner = turn
        at = channels + number * k
        # Layers run from last to first, so all readers of the channels that this one has made have
        # left their part, and it can be added in full.
        own = DeferredGrad(*(lax.dynamic_slice(array, (at,), (k,)) for array in deferred))
        own_mean = lax.dynamic_slice(mean, (at,), (k,))
        output = Output(View(values, channel=at), None, own, own_mean)
        if bottlenecks is None:
            stage = _stage(layer, 2, saved.features, epsilon, images, by_onednn)
            into, spatial, left = stage.gradient(output, View(values), into, True)
            return (into, dz, deferred.add(left)), (spatial,)
        z = View(bottlenecks, number * images)
        # What this stage leaves is used up below: nothing else reads the bottleneck's output.
        stage = _stage(layer, 2, inner, epsilon, images, by_onednn)
        output = output._replace(gradient=output.values.of(into))
        dz, spatial, left = stage.gradient(output, z, dz, False)
        stage = _stage(layer, 1, saved.features, epsilon, images, by_onednn)
        output = Output(z, View(dz), left, inner.mean)
        into, pointwise, left = stage.gradient(output, View(values), into, True)
        return (into, dz, deferred.add(left)), (spatial, pointwise)

    carry = (into, dz, DeferredGrad(jnp.zeros_like(mean), jnp.zeros_like(mean)))
    gradients: list[dict[str, dict[str, jax.Array]]] = []
    for group in reversed(list(layer_groups(channels, weights))):
        inner = jax.tree.map(lambda array, n=group.numbers: array[n], saved.inner)
        # Whole vectors, which oneDNN prefers (see VECTOR), but no channel beyond the array.
        width = min(values.shape[-1], VECTOR * -(-group.channels // VECTOR))
        turns = (group.stacked(mean.dtype, width), group.numbers, inner)
        carry, found = lax.scan(layer, carry, turns, reverse=True)
        # Loops come last to first; within one, `scan` returns each turn's results at its own place.
        gradients = [
            _named(jax.tree.map(lambda array, i=i: array[i], found), weights)
            for i, weights in enumerate(group.layers)
        ] + gradients
    into, _, deferred = carry
    # No layer has made the block's input, so nobody has yet added what was deferred for it.
    pixels = values[..., :channels].astype(mean.dtype)
    constant, factor, centre = (along(pixels, array[:channels]) for array in (*deferred, mean))
    dx = (into[..., :channels] + constant + factor * (pixels - centre)).astype(into.dtype)
    return dx.reshape(*features.shape[:3], channels), gradients


def backward_shapes(features: Any, saved: Saved, weights: Weights, gradient: Any) -> Any:
    """Shapes and dtypes of what `backward` returns."""
    channels = features.shape[3] - len(weights) * weights[0]["conv2"]["kernel"].shape[3]
    dx = jax.ShapeDtypeStruct((*features.shape[:3], channels), gradient.dtype)
    return dx, jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), list(weights))


def _split(array: jax.Array, shards: int) -> jax.Array:
    """`[B, ...]` as `[S, B / S, ...]`; a batch that S does not divide is on every device."""
    # `shards` counts the devices of the program, whether or not this batch is divided among them.
    if shards == 1 or array.shape[0] % shards:
        return array
    return array.reshape(shards, -1, *array.shape[1:])


def _layers_first(array: jax.Array, count: int, images: int) -> jax.Array:
    """`[S, L * N, ...]` as `[L, S * N, ...]`."""
    *shards, _, height, width, channels = array.shape
    split = array.reshape(-1, count, images, height, width, channels)
    return split.swapaxes(0, 1).reshape(count, -1, height, width, channels)


def _images_first(array: jax.Array, images: int) -> jax.Array:
    """The inverse of `_layers_first`; without the axis S if there is one device."""
    count, batch, *rest = array.shape
    split = array.reshape(count, -1, images, *rest).swapaxes(0, 1)
    return split.reshape(*([] if batch == images else [batch // images]), count * images, *rest)


def _stage(
    layer: dict[str, Any],
    number: int,
    known: Moments,
    epsilon: float,
    images: int,
    by_onednn: bool,
) -> Stage:
    """Stage 1 (bottleneck) or 2 (3x3) of a layer from `LayerGroup.stacked`."""
    kernel = layer[f"conv{number}"]
    norm = Norm.create(layer[f"norm{number}"], known.first(kernel.shape[0]), epsilon)
    return Stage(norm, kernel, number == 2, images, by_onednn)


def _named(
    found: tuple[Gradients, ...], layer: dict[str, dict[str, jax.Array]]
) -> dict[str, dict[str, jax.Array]]:
    """A layer's gradients under the names, and in the shapes and dtypes, of its weights."""
    named = {}
    # Without a bottleneck there is the 3x3 convolution alone.
    for number, (kernel, scale, bias) in zip((2, 1), found, strict=False):
        like = layer[f"conv{number}"]["kernel"]
        c = like.shape[2]
        # Without the channels that `LayerGroup.stacked` has added.
        kernel = kernel[:c]
        kernel = square_kernel(kernel, like) if number == 2 else kernel.reshape(like.shape)
        named[f"norm{number}"] = {"scale": scale[:c], "bias": bias[:c]}
        named[f"conv{number}"] = {"kernel": kernel}
    return jax.tree.map(lambda new, old: new.astype(old.dtype), named, layer)
