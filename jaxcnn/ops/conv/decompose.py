"""Grouped, dilated, transposed, 1-D and 3-D convolutions as 2-D ones that are fast on the CPU.

Each step takes one generality away and leaves an equal convolution of the rest, until
`primitives.convolution` computes it.
"""

import dataclasses
import itertools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxcnn.ops.conv import primitives
from jaxcnn.ops.spec import GeneralSpec

# The measurements behind these are in docs/algorithm-measurements.md.

# Groups are put side by side, with zeros between them, until a block has so many channels: thinner
# convolutions leave the vector units idle, wider ones multiply more zeros.
_BLOCK_CHANNELS = 64

# With fewer channels, laying out a dilated convolution's images costs what the products save.
_DILATED_CHANNELS = 32

# Parts of a dilated convolution's images that are shorter consist mostly of padding.
_DILATED_PART = 4


def is_faster(spec: GeneralSpec, channels: int, features: int) -> bool:
    """Whether `conv_forward` knows a way, and the stock operation is not as fast."""
    is_strided, is_dilated, is_transposed = (
        any(n > 1 for n in numbers)
        for numbers in (spec.strides, spec.kernel_dilation, spec.input_dilation)
    )
    if is_strided + is_dilated + is_transposed > 1:
        return False
    rank = len(spec.input_size)
    if rank == 1:
        return spec.groups > 1 or is_transposed
    if rank == 3:
        return spec.groups == 1 and not is_dilated and not is_transposed
    if not is_dilated:
        return True
    shortest = min(n // d for n, d in zip(spec.input_size, spec.kernel_dilation, strict=True))
    is_wide = spec.groups > 1 or min(channels, features) >= _DILATED_CHANNELS
    return is_wide and shortest >= _DILATED_PART


def conv_forward(x: jax.Array, kernel: jax.Array, spec: GeneralSpec) -> jax.Array:
    """The convolution, for the CPU.

    Args:
        x: Images, `[N, ..., C]`.
        kernel: `[..., C / groups, F]`.
        spec: A convolution that `is_faster` holds for, or any of the 2-D ones that it leads to.

    Returns:
        `[N, ..., F]`, of the dtype of `x`.
    """
    plain = spec.as_conv(x.shape[-1], kernel.shape[-1])
    if plain is not None:
        y: jax.Array = primitives.convolution.bind(x, kernel, spec=plain)
        return y
    if len(spec.input_size) == 1:
        return _from_1d(x, kernel, spec)
    if len(spec.input_size) == 3:
        return _from_3d(x, kernel, spec)
    if max(spec.input_dilation) > 1:
        return _from_transposed(x, kernel, spec)
    if max(spec.kernel_dilation) > 1:
        return _from_dilated(x, kernel, spec)
    return _from_grouped(x, kernel, spec)


def _from_1d(x: jax.Array, kernel: jax.Array, spec: GeneralSpec) -> jax.Array:
    """Rows are images of height 1."""
    higher = dataclasses.replace(
        spec,
        input_size=(1, *spec.input_size),
        kernel_size=(1, *spec.kernel_size),
        strides=(1, *spec.strides),
        padding=((0, 0), *spec.padding),
        kernel_dilation=(1, *spec.kernel_dilation),
        input_dilation=(1, *spec.input_dilation),
    )
    return conv_forward(x[:, None], kernel[None], higher)[:, 0]


def _from_3d(x: jax.Array, kernel: jax.Array, spec: GeneralSpec) -> jax.Array:
    """Each depth of the result is an image, whose channels are all depths that its window sees."""
    batch, depths, step = x.shape[0], spec.output_size[0], spec.strides[0]
    padded = lax.pad(
        x, jnp.zeros((), x.dtype), [(0, 0, 0), (*spec.padding[0], 0), *[(0, 0, 0)] * 3]
    )
    span = step * (depths - 1) + 1
    seen = [
        lax.slice_in_dim(padded, first, first + span, step, axis=1)
        for first in range(spec.kernel_size[0])
    ]
    images = jnp.concatenate(seen, -1).reshape(batch * depths, *spec.input_size[1:], -1)
    weights = jnp.moveaxis(kernel, 0, 2)
    weights = weights.reshape(*weights.shape[:2], -1, weights.shape[-1])
    flat = dataclasses.replace(
        spec,
        input_size=spec.input_size[1:],
        kernel_size=spec.kernel_size[1:],
        strides=spec.strides[1:],
        padding=spec.padding[1:],
        kernel_dilation=spec.kernel_dilation[1:],
        input_dilation=spec.input_dilation[1:],
    )
    y = conv_forward(images, weights, flat)
    return y.reshape(batch, depths, *y.shape[1:])


def _from_transposed(x: jax.Array, kernel: jax.Array, spec: GeneralSpec) -> jax.Array:
    """One convolution for each phase of the output, by the part of the kernel that meets no zeros.

    A phase is the output's row and column modulo the input's dilation (sub-pixel convolution, Shi
    et al. 2016, arXiv:1609.07009). Phases that see the same pixels are one convolution with more
    features.
    """
    counts = [-(-n // s) for n, s in zip(spec.output_size, spec.input_dilation, strict=True)]
    alike: dict[Any, list[tuple[tuple[int, ...], jax.Array]]] = {}
    for place in itertools.product(*map(range, spec.input_dilation)):
        part, size, padding = kernel, [], []
        for axis, (p, s, (low, _)) in enumerate(
            zip(place, spec.input_dilation, spec.padding, strict=True)
        ):
            first = (low - p) % s
            part = lax.slice_in_dim(part, min(first, part.shape[axis]), None, s, axis)
            before = (low - p - first) // s
            size.append(part.shape[axis])
            padding.append((before, counts[axis] + size[-1] - 1 - spec.input_size[axis] - before))
        alike.setdefault((tuple(size), tuple(padding)), []).append((place, part))
    results: dict[tuple[int, ...], jax.Array] = {}
    for (size, padding), parts in alike.items():
        places = [place for place, _ in parts]
        if 0 in size:
            zeros = jnp.zeros((x.shape[0], *counts, kernel.shape[-1]), x.dtype)
            results |= dict.fromkeys(places, zeros)
            continue
        step = dataclasses.replace(spec, kernel_size=size, padding=padding, input_dilation=(1, 1))
        weights = _side_by_side([part for _, part in parts], spec.groups)
        y = conv_forward(x, weights, step)
        y = y.reshape(*y.shape[:-1], spec.groups, len(parts), -1)
        for i, place in enumerate(places):
            results[place] = y[..., i, :].reshape(*y.shape[:-3], -1)
    phases = jnp.stack([results[place] for place in sorted(results)], 1)
    return _interleaved(phases, spec.input_dilation, spec.output_size)


def _side_by_side(kernels: list[jax.Array], groups: int) -> jax.Array:
    """Kernels as one with as many times the features, group by group."""
    parts = [kernel.reshape(*kernel.shape[:-1], groups, -1) for kernel in kernels]
    return jnp.stack(parts, -2).reshape(*kernels[0].shape[:-1], -1)


def _interleaved(
    phases: jax.Array, steps: tuple[int, ...], output_size: tuple[int, ...]
) -> jax.Array:
    """Interleaves the phases, `[N, phases, n, m, F]`, along height and width."""
    (rows, columns), (height, width) = steps, output_size
    batch, _, n, m, features = phases.shape
    y = phases.reshape(batch, rows, columns, n, m, features)
    y = y.transpose(0, 3, 1, 4, 2, 5).reshape(batch, n * rows, m * columns, features)
    return y[:, :height, :width]


def _from_dilated(x: jax.Array, kernel: jax.Array, spec: GeneralSpec) -> jax.Array:
    """Each phase of the images, rows and columns modulo the dilation, is an image of its own.

    The kernel meets it without gaps. The phases of an image follow one another in the batch, which
    may be divided among devices.
    """
    batch, channels = x.shape[0], x.shape[-1]
    rows, columns = spec.kernel_dilation
    sizes, config, padding = [], [(0, 0, 0)], []
    for n, out, k, d, (low, _) in zip(
        spec.input_size,
        spec.output_size,
        spec.kernel_size,
        spec.kernel_dilation,
        spec.padding,
        strict=True,
    ):
        # Most of the padding is left to the convolution of the parts, which need not store it.
        before, first = divmod(low, d)
        sizes.append(-(-(first + n) // d))
        config.append((first, sizes[-1] * d - n - first, 0))
        padding.append((before, -(-out // d) + k - 1 - before - sizes[-1]))
    x = lax.pad(x, jnp.zeros((), x.dtype), [*config, (0, 0, 0)])
    x = x.reshape(batch, sizes[0], rows, sizes[1], columns, channels)
    images = x.transpose(0, 2, 4, 1, 3, 5).reshape(-1, *sizes, channels)
    dense = dataclasses.replace(
        spec, input_size=tuple(sizes), padding=tuple(padding), kernel_dilation=(1, 1)
    )
    y = conv_forward(images, kernel, dense)
    phases = y.reshape(batch, rows * columns, *y.shape[1:])
    return _interleaved(phases, spec.kernel_dilation, spec.output_size)


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
        return conv_forward(x, kernels[..., 0, :], dense)
    images = jnp.moveaxis(x.reshape(*x.shape[:-1], blocks, -1), -2, 0)
    # A loop, which is compiled once for all blocks.
    results = lax.map(
        lambda block: conv_forward(block[0], block[1], dense), (images, jnp.moveaxis(kernels, 3, 0))
    )
    return jnp.moveaxis(results, 0, -2).reshape(*results.shape[1:-1], -1)


def _from_multiplied(x: jax.Array, kernel: jax.Array, spec: GeneralSpec) -> jax.Array:
    """Several filters for each channel are as many depthwise convolutions."""
    filters = kernel.reshape(*kernel.shape[:-1], spec.groups, -1)
    results = [conv_forward(x, filters[..., i], spec) for i in range(filters.shape[-1])]
    return jnp.stack(results, -1).reshape(*results[0].shape[:-1], -1)
