"""The drop-in for `jax.lax.conv_general_dilated`: which calls are sped up, which passed on."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxcnn.ops.conv import (
    conv_vjp,  # noqa: F401  gives the primitive its gradients
    general,
    primitives,
)
from jaxcnn.ops.spec import ConvSpec

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
    NHWC) in float32, bfloat16 or float64, with strides, dilated, or transposed (`lhs_dilation`),
    not two of these at once; the same in 1-D; and in 3-D, neither in groups nor dilated.
    Everything else, and every other platform, gets the stock operation.

    Where jaxlib has oneDNN (see `onednn_calls.py`), it computes float32 and bfloat16, unless the
    program is for JAX's compilation cache: leave that off, or compile inside `ops.uncached()`.

    Args:
        lhs: Images, `[N, H, W, C]` for the fast path.
        rhs: Kernel, `[h, w, C / groups, F]` for the fast path.
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
    y: jax.Array
    spec = conv_spec_of(*args, **others)
    if spec is not None:
        y = primitives.convolution.bind(*same_varying_axes(lhs, rhs), spec=spec)
        return y
    of_kind = (lhs, rhs, dimension_numbers, batch_group_count, precision, preferred_element_type)
    if _is_usual(*of_kind, others):
        steps = (window_strides, rhs_dilation, lhs_dilation)
        wider = general.spec_of(lhs, rhs, steps, padding, feature_group_count, precision)
        if wider is not None:
            y = general.convolution.bind(*same_varying_axes(lhs, rhs), spec=wider)
            return y
    return lax.conv_general_dilated(*args, **others)


def conv_spec_of(
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
) -> ConvSpec | None:
    """Returns the description of a convolution that is sped up; None for one that is passed on."""
    args = (lhs, rhs, dimension_numbers, batch_group_count, precision, preferred_element_type)
    is_flat = lhs.ndim == 4 and _is_undilated(lhs_dilation) and _is_undilated(rhs_dilation)
    if not is_flat or not _is_usual(*args, others):
        return None
    return _conv_spec(lhs, rhs, window_strides, padding, feature_group_count, precision)


def _is_usual(
    lhs: jax.Array,
    rhs: jax.Array,
    numbers: Any,
    batch_groups: int,
    precision: Any,
    element_type: Any,
    others: dict[str, Any],
) -> bool:
    """Whether dtypes, layout and the rest are such as the fast paths take."""
    return (
        lhs.ndim == rhs.ndim
        and lhs.dtype == rhs.dtype
        and lhs.dtype in _FAST_DTYPES
        and element_type in (None, lhs.dtype)
        and batch_groups == 1
        and not any(value is not None for value in others.values())
        and _is_ordinary(precision)
        and _are_channels_last(lhs, rhs, numbers)
        and _is_static(lhs, rhs)
    )


def _is_undilated(dilation: Sequence[int] | None) -> bool:
    return dilation is None or all(d == 1 for d in dilation)


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
    if not all(isinstance(n, int) and n > 0 for n in (*lhs.shape, *rhs.shape)):
        return False
    # Under an explicit mesh a result's type holds its sharding, which the primitives do not derive.
    for operand in (lhs, rhs):
        mesh = jax.typeof(operand).sharding.mesh
        if any(kind == jax.sharding.AxisType.Explicit for kind in mesh.axis_types):
            return False
    return True


def _conv_spec(
    lhs: jax.Array,
    rhs: jax.Array,
    strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    groups: int,
    precision: Any,
) -> ConvSpec | None:
    """`conv_spec_of` for arguments whose kinds and layout are those of the fast path."""
    channels, features = lhs.shape[3], rhs.shape[3]
    # One filter for each channel; several (a channel multiplier) or wider groups are passed on.
    depthwise = groups > 1 and groups == channels == features and rhs.shape[2] == 1
    if not depthwise and (groups != 1 or rhs.shape[2] != channels):
        return None
    if len(strides) != 2 or not all(isinstance(s, int) and s > 0 for s in strides):
        return None
    if isinstance(padding, str):
        if padding.upper() not in ("SAME", "SAME_LOWER", "VALID"):
            return None
        padding = lax.padtype_to_pads(lhs.shape[1:3], rhs.shape[:2], strides, padding)
    if len(padding) != 2:
        return None
    pads = [(int(low), int(high)) for low, high in padding]
    if isinstance(precision, list):
        # Hashable, as every parameter of a primitive has to be.
        precision = tuple(precision)
    spec = ConvSpec(
        input_size=(lhs.shape[1], lhs.shape[2]),
        kernel_size=(rhs.shape[0], rhs.shape[1]),
        strides=(strides[0], strides[1]),
        padding=(pads[0], pads[1]),
        depthwise=depthwise,
        precision=precision,
    )
    # An empty result, or a kernel larger than the padded image, is left to `lax`.
    return spec if min(spec.output_size) > 0 else None


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
