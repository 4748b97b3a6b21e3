"""The drop-in for `jax.lax.conv_general_dilated`: which calls are sped up, which passed on."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxcnn.ops.conv import (
    decompose,
    general,
    primitives,
)
from jaxcnn.ops.spec import ConvSpec, GeneralSpec

_FAST_DTYPES = (jnp.float32, jnp.bfloat16, jnp.float64)


def conv_general_dilated(
    lhs: Any,
    rhs: Any,
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    batch_group_count: int = 1,
    precision: Any = None,
    preferred_element_type: Any = None,
    **others: Any,
) -> jax.Array:
    """`jax.lax.conv_general_dilated`, several times faster to train through on a CPU.

    Takes the same arguments and gives the same result up to rounding, as do its derivatives of any
    order. Use it in any Flax model: `nn.Conv(..., conv_general_dilated=conv_general_dilated)`.

    Sped up on the CPU: images of `[N, H, W, C]` and kernels of `[h, w, C / groups, F]` (NHWC, HWIO,
    NHWC) in float32, bfloat16 or float64, also with strides, in groups, dilated (at least 32
    channels and features, or in groups) or transposed (`lhs_dilation`); in 1-D, in groups or
    transposed; in 3-D, in one group and undilated. Two of strides and the dilations at once,
    everything else, and every other platform get the stock operation.

    Where jaxlib has oneDNN (see `onednn_calls.py`), it computes float32 and bfloat16, unless the
    program is for JAX's compilation cache: leave that off, or compile inside `ops.uncached()`.

    Args:
        lhs: Images, `[N, H, W, C]` for the fast path, or of another rank, channels last.
        rhs: Kernel, `[h, w, C / groups, F]` for the fast path, or of the same rank.
        window_strides: As in `lax`.
        padding: As in `lax`: "SAME", "SAME_LOWER", "VALID", or pairs of pixels.
        lhs_dilation: As in `lax`.
        rhs_dilation: As in `lax`.
        dimension_numbers: As in `lax`; None means NCHW, which is passed on.
        feature_group_count: As in `lax`.
        batch_group_count: As in `lax`.
        precision: As in `lax`. On the CPU products are in float32 or better in any case.
        preferred_element_type: As in `lax`.
        **others: What later versions of `lax` add (`out_sharding`); passed on.

    Returns:
        The convolution; `[N, H', W', F]` for the fast path.

    Raises:
        TypeError: As `lax` does, for operands and arguments that do not fit.
        ValueError: As `lax` does.
    """
    lhs, rhs = jnp.asarray(lhs), jnp.asarray(rhs)
    window = (window_strides, padding, lhs_dilation, rhs_dilation)
    groups = (feature_group_count, batch_group_count)
    args = (lhs, rhs, *window, dimension_numbers, *groups, precision, preferred_element_type)
    spec = _general_spec_of(*args, **others)
    if spec is None:
        return lax.conv_general_dilated(*args, **others)
    channels, features = lhs.shape[-1], rhs.shape[-1]
    y: jax.Array
    if (plain := spec.as_conv(channels, features)) is not None:
        y = primitives.convolution.bind(*same_varying_axes(lhs, rhs), spec=plain)
    elif decompose.is_faster(spec, channels, features):
        y = general.convolution.bind(*same_varying_axes(lhs, rhs), spec=spec)
    else:
        y = lax.conv_general_dilated(*args, **others)
    return y


def conv_spec_of(lhs: jax.Array, rhs: jax.Array, *args: Any) -> ConvSpec | None:
    """The description of a 2-D convolution without groups or dilation; None for any other."""
    spec = _general_spec_of(lhs, rhs, *args)
    return None if spec is None else spec.as_conv(lhs.shape[-1], rhs.shape[-1])


def _general_spec_of(
    lhs: jax.Array,
    rhs: jax.Array,
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    batch_group_count: int = 1,
    precision: Any = None,
    preferred_element_type: Any = None,
    **others: Any,
) -> GeneralSpec | None:
    """Returns the description of a convolution; None for one that has to be passed on."""
    usual = (
        lhs.ndim == rhs.ndim
        and lhs.ndim in (3, 4, 5)
        and lhs.dtype == rhs.dtype
        and lhs.dtype in _FAST_DTYPES
        and preferred_element_type in (None, lhs.dtype)
        and batch_group_count == 1
        and not any(value is not None for value in others.values())
        and _is_ordinary(precision)
        and _are_channels_last(lhs, rhs, dimension_numbers)
        and _is_static(lhs, rhs)
    )
    if not usual or rhs.shape[-2] * feature_group_count != lhs.shape[-1]:
        return None
    ones = (1,) * (lhs.ndim - 2)
    steps = [tuple(given or ones) for given in (window_strides, rhs_dilation, lhs_dilation)]
    if not all(len(step) == len(ones) and _are_counts(step) for step in steps):
        return None
    strides, kernel_dilation, input_dilation = steps
    if not _are_counts([feature_group_count]) or rhs.shape[-1] % feature_group_count:
        return None
    if isinstance(padding, str):
        if padding.upper() not in ("SAME", "SAME_LOWER", "VALID") or input_dilation != ones:
            return None
        window = [(k - 1) * d + 1 for k, d in zip(rhs.shape[:-2], kernel_dilation, strict=True)]
        padding = lax.padtype_to_pads(lhs.shape[1:-1], window, strides, padding)
    if len(padding) != len(ones):
        return None
    spec = GeneralSpec(
        input_size=lhs.shape[1:-1],
        kernel_size=rhs.shape[:-2],
        strides=strides,
        padding=tuple((int(low), int(high)) for low, high in padding),
        kernel_dilation=kernel_dilation,
        input_dilation=input_dilation,
        groups=feature_group_count,
        # Hashable, as every parameter of a primitive has to be.
        precision=tuple(precision) if isinstance(precision, list) else precision,
    )
    # An empty result, or a kernel larger than the padded image, is left to `lax`.
    return spec if min(spec.output_size) > 0 else None


def _are_counts(numbers: Sequence[Any]) -> bool:
    return all(isinstance(number, int) and number > 0 for number in numbers)


def _is_ordinary(precision: Any) -> bool:
    """True for what means "float32 or better" on a CPU; named dot algorithms mean themselves."""
    parts = precision if isinstance(precision, tuple | list) else (precision,)
    return all(p is None or isinstance(p, lax.Precision) for p in parts) or (
        isinstance(precision, str) and precision in ("default", "high", "highest", "float32")
    )


def _are_channels_last(lhs: jax.Array, rhs: jax.Array, numbers: Any) -> bool:
    """Whether the layout is NHWC, HWIO, NHWC; an illegal one is left to `lax` to refuse."""
    if numbers is None:
        return False
    try:
        numbers = lax.conv_dimension_numbers(lhs.shape, rhs.shape, numbers)
    except (TypeError, ValueError):
        return False
    last, spatial = lhs.ndim - 1, tuple(range(lhs.ndim - 2))
    images = (0, last, *(axis + 1 for axis in spatial))
    return (
        tuple(numbers.lhs_spec) == images
        and tuple(numbers.rhs_spec) == (last, last - 1, *spatial)
        and tuple(numbers.out_spec) == images
    )


def _is_static(lhs: jax.Array, rhs: jax.Array) -> bool:
    """Whether sizes are plain positive numbers and no mesh axis is in explicit mode."""
    if not _are_counts((*lhs.shape, *rhs.shape)):
        return False
    # Under an explicit mesh a result's type holds its sharding, which the primitives do not derive.
    for operand in (lhs, rhs):
        mesh = jax.typeof(operand).sharding.mesh
        if any(kind == jax.sharding.AxisType.Explicit for kind in mesh.axis_types):
            return False
    return True


def same_varying_axes(lhs: jax.Array, rhs: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Inside `shard_map`, marks both operands as varying over the axes that either varies over."""
    # A primitive's rules want both operands alike; `lax` would insert the same casts by itself.
    axes = [jax.typeof(operand).manual_axis_type.varying for operand in (lhs, rhs)]
    both = axes[0] | axes[1]
    if not both:
        return lhs, rhs
    lhs, rhs = (
        lax.pcast(operand, tuple(sorted(both - own)), to="varying") if both - own else operand
        for operand, own in zip((lhs, rhs), axes, strict=True)
    )
    return lhs, rhs
