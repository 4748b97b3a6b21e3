"""Grouped, dilated, transposed, 1-D and 3-D convolutions on the CPU, by 2-D ones that are fast.

Each step of `_on_cpu` takes one generality away and leaves an equal convolution of the rest, until
`primitives.convolution` can do it. The gradients are the transposes of the same steps. Every other
platform gets the stock operation and its gradients. Figures: docs/performance.md.
"""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxcnn.ops.conv import primitives, reference
from jaxcnn.ops.conv.conv_vjp import define_joint
from jaxcnn.ops.spec import ConvSpec

# Groups are put side by side, with zeros between them, until a block has so many channels: thinner
# convolutions leave the vector units idle, wider ones multiply more zeros.
_BLOCK_CHANNELS = 64

# With fewer channels, laying out a dilated convolution's images costs what the products save.
_DILATED_CHANNELS = 32

# Parts of a dilated convolution's images that are shorter consist mostly of padding.
_DILATED_PART = 4


@dataclasses.dataclass(frozen=True)
class GeneralSpec:
    """The static description of a convolution of `[N, ..., C]` by `[..., C / groups, F]`.

    Attributes:
        sizes: Of the images, along each spatial axis, of which there are one to three.
        kernel_size: Of the kernel, along the same axes.
        strides: Step of the window.
        padding: Zeros put before and after; negative numbers crop.
        dilation: Distance between the kernel's entries.
        spread: Distance that the images' pixels are moved apart, zeros between them: above 1, the
            convolution is the transpose of one with that stride.
        groups: Of channels; group g of the results depends on group g of the images alone.
        precision: As in `lax.conv_general_dilated`; only accelerators use it.
    """

    sizes: tuple[int, ...]
    kernel_size: tuple[int, ...]
    strides: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    spread: tuple[int, ...]
    groups: int
    precision: Any = None

    @property
    def output_size(self) -> tuple[int, ...]:
        """Size of the result along each spatial axis."""
        return tuple(
            ((n - 1) * spread + sum(pads) - (k - 1) * dilation) // s + 1
            for n, k, s, pads, dilation, spread in zip(
                self.sizes, self.kernel_size, self.strides, self.padding, self.dilation,
                self.spread, strict=True,
            )
        )  # fmt: skip


def _is_faster(spec: GeneralSpec, channels: int, features: int) -> bool:
    """Whether `_on_cpu` knows a way, and the stock operation is not as fast."""
    is_strided, is_dilated, is_spread = (
        any(n > 1 for n in numbers) for numbers in (spec.strides, spec.dilation, spec.spread)
    )
    if is_strided + is_dilated + is_spread > 1:
        return False
    rank = len(spec.sizes)
    if rank == 1:
        return spec.groups > 1 or is_spread
    if rank == 3:
        return spec.groups == 1 and not is_dilated and not is_spread
    if not is_dilated:
        return True
    shortest = min(n // d for n, d in zip(spec.sizes, spec.dilation, strict=True))
    is_wide = spec.groups > 1 or min(channels, features) >= _DILATED_CHANNELS
    return is_wide and shortest >= _DILATED_PART


def _stock(x: jax.Array, kernel: jax.Array, spec: GeneralSpec) -> jax.Array:
    spatial = "DHW"[-len(spec.sizes) :]
    return lax.conv_general_dilated(
        x,
        kernel,
        spec.strides,
        spec.padding,
        spec.spread,
        spec.dilation,
        (f"N{spatial}C", f"{spatial}IO", f"N{spatial}C"),
        spec.groups,
        precision=spec.precision,
    )


def _on_cpu(x: jax.Array, kernel: jax.Array, spec: GeneralSpec) -> jax.Array:
    if len(spec.sizes) == 1:
        return _from_1d(x, kernel, spec)
    if len(spec.sizes) == 3:
        return _from_3d(x, kernel, spec)
    if max(spec.spread) > 1:
        return _from_spread(x, kernel, spec)
    if max(spec.dilation) > 1:
        return _from_dilated(x, kernel, spec)
    if spec.groups > 1 and not _is_depthwise(x, kernel, spec):
        return _from_grouped(x, kernel, spec)
    (height, width), (h, w) = spec.sizes, spec.kernel_size
    plain = ConvSpec(
        input_size=(height, width),
        kernel_size=(h, w),
        strides=(spec.strides[0], spec.strides[1]),
        padding=(spec.padding[0], spec.padding[1]),
        depthwise=spec.groups > 1,
        precision=spec.precision,
    )
    y: jax.Array = primitives.convolution.bind(x, kernel, spec=plain)
    return y


def _is_depthwise(x: jax.Array, kernel: jax.Array, spec: GeneralSpec) -> bool:
    return spec.groups == x.shape[-1] == kernel.shape[-1]


def _from_1d(x: jax.Array, kernel: jax.Array, spec: GeneralSpec) -> jax.Array:
    """Rows are images of height 1."""
    higher = dataclasses.replace(
        spec,
        sizes=(1, *spec.sizes),
        kernel_size=(1, *spec.kernel_size),
        strides=(1, *spec.strides),
        padding=((0, 0), *spec.padding),
        dilation=(1, *spec.dilation),
        spread=(1, *spec.spread),
    )
    return _on_cpu(x[:, None], kernel[None], higher)[:, 0]


def _seen_along_first(x: jax.Array, spec: GeneralSpec) -> jax.Array:
    """For each window along the first spatial axis what it sees, one after the other in channels.

    `[N, D, ..., C]` to `[N, D', ..., d C]`.
    """
    rest = [(0, 0, 0)] * (x.ndim - 2)
    x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), (*spec.padding[0], 0), *rest])
    step, distance = spec.strides[0], spec.dilation[0]
    span = step * (spec.output_size[0] - 1) + 1
    starts = range(0, spec.kernel_size[0] * distance, distance)
    return jnp.concatenate(
        [lax.slice_in_dim(x, start, start + span, step, axis=1) for start in starts], -1
    )


def _from_3d(x: jax.Array, kernel: jax.Array, spec: GeneralSpec) -> jax.Array:
    """Every depth of the result is an image of its own, from the depths that its window sees."""
    batch, depths, features = x.shape[0], spec.output_size[0], kernel.shape[-1]
    seen = _seen_along_first(x, spec)
    images = seen.reshape(batch * depths, *seen.shape[2:])
    weights = jnp.moveaxis(kernel, 0, 2).reshape(*kernel.shape[1:3], seen.shape[-1], features)
    flat = dataclasses.replace(
        spec,
        **{
            field: getattr(spec, field)[1:]
            for field in ("sizes", "kernel_size", "strides", "padding", "dilation", "spread")
        },
    )
    y = _on_cpu(images, weights, flat)
    return y.reshape(batch, depths, *y.shape[1:])


def _from_spread(x: jax.Array, kernel: jax.Array, spec: GeneralSpec) -> jax.Array:
    """Of every `spread` results in a row each sees other entries of the kernel, none of them zeros.

    So each is a convolution by a part of the kernel (Shi et al. 2016, arXiv:1609.07009). Parts
    that see the same pixels are one convolution with more features.
    """
    counts = [-(-n // s) for n, s in zip(spec.output_size, spec.spread, strict=True)]
    alike: dict[Any, list[tuple[tuple[int, ...], jax.Array]]] = {}
    for place in itertools.product(*map(range, spec.spread)):
        part, size, padding = kernel, [], []
        for axis, (p, s, (low, _)) in enumerate(zip(place, spec.spread, spec.padding, strict=True)):
            first = (low - p) % s
            part = lax.slice_in_dim(part, min(first, part.shape[axis]), None, s, axis)
            before = (low - p - first) // s
            size.append(part.shape[axis])
            padding.append((before, counts[axis] + size[-1] - 1 - spec.sizes[axis] - before))
        alike.setdefault((tuple(size), tuple(padding)), []).append((place, part))
    results: dict[tuple[int, ...], jax.Array] = {}
    for (size, padding), parts in alike.items():
        places = [place for place, _ in parts]
        if 0 in size:
            zeros = jnp.zeros((x.shape[0], *counts, kernel.shape[-1]), x.dtype)
            results |= dict.fromkeys(places, zeros)
            continue
        step = dataclasses.replace(spec, kernel_size=size, padding=padding, spread=(1, 1))
        weights = _side_by_side([part for _, part in parts], spec.groups)
        y = _on_cpu(x, weights, step)
        y = y.reshape(*y.shape[:-1], spec.groups, len(parts), -1)
        for i, place in enumerate(places):
            results[place] = y[..., i, :].reshape(*y.shape[:-3], -1)
    return _interleaved([results[place] for place in sorted(results)], spec)


def _side_by_side(kernels: list[jax.Array], groups: int) -> jax.Array:
    """Kernels as one with as many times the features, group by group."""
    parts = [kernel.reshape(*kernel.shape[:-1], groups, -1) for kernel in kernels]
    return jnp.stack(parts, -2).reshape(*kernels[0].shape[:-1], -1)


def _interleaved(results: list[jax.Array], spec: GeneralSpec) -> jax.Array:
    """Puts the results of all places, `[N, n, m, F]`, between each other along height and width."""
    (rows, columns), (height, width) = _steps(spec), spec.output_size
    batch, n, m, features = results[0].shape
    y = jnp.stack(results).reshape(rows, columns, batch, n, m, features)
    y = y.transpose(2, 3, 0, 4, 1, 5).reshape(batch, n * rows, m * columns, features)
    return y[:, :height, :width]


def _steps(spec: GeneralSpec) -> tuple[int, int]:
    rows, columns = (max(pair) for pair in zip(spec.spread, spec.dilation, strict=True))
    return rows, columns


def _from_dilated(x: jax.Array, kernel: jax.Array, spec: GeneralSpec) -> jax.Array:
    """Pixels at the dilation's distance are images of their own, whose kernel has no gaps."""
    batch, channels = x.shape[0], x.shape[-1]
    rows, columns = spec.dilation
    sizes, config, padding = [], [(0, 0, 0)], []
    for n, out, k, d, (low, _) in zip(
        spec.sizes, spec.output_size, spec.kernel_size, spec.dilation, spec.padding, strict=True
    ):
        # Most of the padding is left to the convolution of the parts, which need not store it.
        before, first = divmod(low, d)
        sizes.append(-(-(first + n) // d))
        config.append((first, sizes[-1] * d - n - first, 0))
        padding.append((before, -(-out // d) + k - 1 - before - sizes[-1]))
    x = lax.pad(x, jnp.zeros((), x.dtype), [*config, (0, 0, 0)])
    x = x.reshape(batch, sizes[0], rows, sizes[1], columns, channels)
    images = x.transpose(2, 4, 0, 1, 3, 5).reshape(-1, *sizes, channels)
    dense = dataclasses.replace(spec, sizes=tuple(sizes), padding=tuple(padding), dilation=(1, 1))
    y = _on_cpu(images, kernel, dense)
    return _interleaved(list(y.reshape(rows * columns, batch, *y.shape[1:])), spec)


def _from_grouped(x: jax.Array, kernel: jax.Array, spec: GeneralSpec) -> jax.Array:
    """A few groups at a time, by a kernel that is zero between them.

    An infinite pixel therefore makes the results of the groups beside it NaN.
    """
    channels, features = kernel.shape[2], kernel.shape[3] // spec.groups
    if channels == 1:
        return _from_multiplied(x, kernel, spec)
    together = max(
        n
        for n in range(1, spec.groups + 1)
        if spec.groups % n == 0 and (n == 1 or n * channels <= _BLOCK_CHANNELS)
    )
    blocks = spec.groups // together
    kernels = kernel.reshape(*kernel.shape[:2], 1, channels, blocks, together, features)
    own = jnp.eye(together, dtype=bool)[:, None, None, :, None]
    kernels = jnp.where(own, kernels, jnp.zeros((), kernel.dtype))
    kernels = kernels.reshape(*kernel.shape[:2], together * channels, blocks, together * features)
    dense = dataclasses.replace(spec, groups=1)
    if blocks == 1:
        return _on_cpu(x, kernels[..., 0, :], dense)
    images = jnp.moveaxis(x.reshape(*x.shape[:-1], blocks, -1), -2, 0)
    # A loop, which is compiled once for all blocks.
    results = lax.map(
        lambda block: _on_cpu(block[0], block[1], dense), (images, jnp.moveaxis(kernels, 3, 0))
    )
    return jnp.moveaxis(results, 0, -2).reshape(*results.shape[1:-1], -1)


def _from_multiplied(x: jax.Array, kernel: jax.Array, spec: GeneralSpec) -> jax.Array:
    """Several filters for each channel are as many depthwise convolutions."""
    filters = kernel.reshape(*kernel.shape[:-1], spec.groups, -1)
    results = [_on_cpu(x, filters[..., i], spec) for i in range(filters.shape[-1])]
    return jnp.stack(results, -1).reshape(*results[0].shape[:-1], -1)


def _by_transposition(forward: Any) -> tuple[Any, Any]:
    """Returns the gradients of `forward(x, kernel, spec)` by the images and by the kernel."""

    def input_grad(dy: jax.Array, kernel: jax.Array, spec: GeneralSpec) -> jax.Array:
        x = jax.typeof(dy).update(shape=_input_shape(dy.shape, kernel.shape, spec))
        return jax.linear_transpose(lambda x: forward(x, kernel, spec), x)(dy)[0]

    def kernel_grad(x: jax.Array, dy: jax.Array, spec: GeneralSpec) -> jax.Array:
        kernel = jax.typeof(x).update(shape=_kernel_shape(x.shape, dy.shape, spec))
        return jax.linear_transpose(lambda k: forward(x, k, spec), kernel)(dy)[0]

    return input_grad, kernel_grad


def _output_shape(x: reference.Shape, kernel: reference.Shape, spec: GeneralSpec) -> Any:
    return (x[0], *spec.output_size, kernel[-1])


def _input_shape(dy: reference.Shape, kernel: reference.Shape, spec: GeneralSpec) -> Any:
    return (dy[0], *spec.sizes, kernel[-2] * spec.groups)


def _kernel_shape(x: reference.Shape, dy: reference.Shape, spec: GeneralSpec) -> Any:
    return (*spec.kernel_size, x[-1] // spec.groups, dy[-1])


convolution, input_grad, kernel_grad = (
    primitives.define(
        f"cnn_general_{name}",
        shape,
        lambda a, b, spec, shards, cpu=cpu: cpu(a, b, spec),
        cpu,
        elsewhere,
        batched,
    )
    for name, shape, cpu, elsewhere, batched in zip(
        ("convolution", "input_gradient", "kernel_gradient"),
        (_output_shape, _input_shape, _kernel_shape),
        (_on_cpu, *_by_transposition(_on_cpu)),
        (_stock, *_by_transposition(_stock)),
        ((True, False), (True, False), (True, True)),
        strict=True,
    )
)
primitives.declare_bilinear(convolution, input_grad, kernel_grad)


def _vjp_on_cpu(
    x: jax.Array, kernel: jax.Array, dy: jax.Array, spec: GeneralSpec, shards: int = 1
) -> list[jax.Array]:
    return list(jax.vjp(lambda x, kernel: _on_cpu(x, kernel, spec), x, kernel)[1](dy))


define_joint(
    "cnn_general", convolution, input_grad, kernel_grad, _output_shape, _vjp_on_cpu, _vjp_on_cpu
)


def spec_of(
    lhs: jax.Array,
    rhs: jax.Array,
    steps: tuple[Sequence[int], Sequence[int] | None, Sequence[int] | None],
    padding: str | Sequence[tuple[int, int]],
    groups: int,
    precision: Any,
) -> GeneralSpec | None:
    """Returns the description of a convolution, channels last; None for one that is passed on.

    Args:
        lhs: Images.
        rhs: Kernel.
        steps: Strides, dilation of the kernel and of the images, as `lax` takes them.
        padding: As `lax` takes it.
        groups: Of channels.
        precision: As `lax` takes it.
    """
    rank = lhs.ndim - 2
    ones = (1,) * rank
    sizes, kernel_size = lhs.shape[1:-1], rhs.shape[:-2]
    strides, dilation, spread = (tuple(step or ones) for step in steps)
    numbers = (strides, dilation, spread)
    if rank not in (1, 2, 3) or any(len(n) != rank for n in numbers):
        return None
    if not all(isinstance(n, int) and n > 0 for n in (*itertools.chain(*numbers), groups)):
        return None
    if rhs.shape[-2] * groups != lhs.shape[-1] or rhs.shape[-1] % groups:
        return None
    if isinstance(padding, str):
        if padding.upper() not in ("SAME", "SAME_LOWER", "VALID") or max(spread) > 1:
            return None
        reach = [(k - 1) * d + 1 for k, d in zip(kernel_size, dilation, strict=True)]
        padding = lax.padtype_to_pads(sizes, reach, strides, padding)
    if len(padding) != rank:
        return None
    spec = GeneralSpec(
        sizes=tuple(sizes),
        kernel_size=tuple(kernel_size),
        strides=strides,
        padding=tuple((int(low), int(high)) for low, high in padding),
        dilation=dilation,
        spread=spread,
        groups=groups,
        # Hashable, as every parameter of a primitive has to be.
        precision=tuple(precision) if isinstance(precision, list) else precision,
    )
    # An empty result, or a kernel larger than the padded image, is left to `lax`.
    is_plain = min(spec.output_size) > 0
    return spec if is_plain and _is_faster(spec, lhs.shape[-1], rhs.shape[-1]) else None
