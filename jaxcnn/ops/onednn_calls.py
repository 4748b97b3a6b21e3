"""Convolutions and matrix products by oneDNN, the library that PyTorch computes with.

jaxlib for Linux on x86-64 contains it, and XLA's CPU runtime has custom calls for it, but XLA's
compiler does not emit them: the flag that should (`xla_cpu_experimental_onednn_custom_call`) does
nothing in such a build. So the calls are written here. XLA does not promise to keep them, and
oneDNN ends the process when asked for an unsupported operation; therefore they are made only with
versions of jaxlib that the tests have passed with. Everywhere else `conv/xla.py` does the work.

A program that contains such calls can neither be kept in JAX's compilation cache (XLA reads memory
that is not its own when it writes one there, with both versions) nor be exported.
"""

import contextlib
import contextvars
import json
import math
import platform
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jaxlib
from jax import lax

from jaxcnn.ops.spec import Pads, Pair

VERIFIED_JAXLIB = ("0.10.2", "0.12.0.1")

_is_wanted = contextvars.ContextVar("onednn_is_wanted", default=True)

_LEGACY_API = 2  # The calling convention whose configuration is JSON.


def is_present() -> bool:
    """Whether this jaxlib is one whose oneDNN has been tested."""
    machine = (sys.platform, platform.machine())
    return machine == ("linux", "x86_64") and jaxlib.__version__ in VERIFIED_JAXLIB


def is_usable() -> bool:
    """Whether a program lowered now may call oneDNN: present, wanted, and no cache keeps it."""
    return is_present() and _is_wanted.get() and not _is_cached()


def _is_cached() -> bool:
    config: Any = jax.config
    enabled = config.jax_enable_compilation_cache and config.jax_compilation_cache_dir
    # JAX keeps programs that took at least so long to compile: with infinity (`uncached`) none.
    return bool(enabled) and config.jax_persistent_cache_min_compile_time_secs < math.inf


@contextlib.contextmanager
def uncached() -> Iterator[None]:
    """Keeps programs that are lowered and compiled inside out of the compilation cache."""
    config: Any = jax.config
    before = config.jax_persistent_cache_min_compile_time_secs
    jax.config.update("jax_persistent_cache_min_compile_time_secs", math.inf)
    try:
        yield
    finally:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", before)


@contextlib.contextmanager
def without() -> Iterator[None]:
    """Has programs that are lowered inside computed without oneDNN, so that a cache keeps them."""
    before = _is_wanted.set(False)
    try:
        yield
    finally:
        _is_wanted.reset(before)


def are_in(lowered: Any) -> bool:
    """Whether a program from `jax.jit(...).lower(...)` calls oneDNN."""
    return "__onednn$" in lowered.as_text()


class Window(NamedTuple):
    """How the kernel of a convolution goes over the images.

    Attributes:
        strides: In pixels, along height and width.
        padding: Zeros before and after, along height and width.
        output_size: Height and width of the result.
        dilation: Distance between the kernel's entries, in pixels.
    """

    strides: Pair
    padding: Pads
    output_size: Pair
    dilation: Pair = (1, 1)


def convolution(
    x: jax.Array,
    kernel: jax.Array,
    window: Window,
    *,
    groups: int = 1,
    is_transposed: bool = False,
) -> jax.Array:
    """The convolution of float32 `[N, H, W, C]` to `[N, H', W', F]`.

    Args:
        x: Images.
        kernel: `[h, w, C / groups, F]`, or `[h, w, F, C]` if `is_transposed`.
        window: How the kernel goes over the images.
        groups: Of channels.
        is_transposed: Whether the kernel's last axis is that of the input channels.
    """
    # The names are those of XLA's protocol buffers, from which oneDNN's description is built.
    inner, outer = (3, 2) if is_transposed else (2, 3)
    filters = {"input_feature_dim": inner, "output_feature_dim": outer, "spatial_dims": [0, 1]}
    images = {"batch_dim": 0, "feature_dim": 3, "spatial_dims": [1, 2]}
    config = {
        "dims": 4,
        "input": {"dims": 4, "data": images},
        "kernel": {"dims": 4, "filter": filters},
        "output": {"dims": 4, "data": images},
        "window": {
            "pad_left": [low for low, _ in window.padding],
            "pad_right": [high for _, high in window.padding],
            "strides": list(window.strides),
            "window_dilations": list(window.dilation),
        },
        "feature_groups": groups,
    }
    shape = (x.shape[0], *window.output_size, kernel.shape[outer])
    return _call("__onednn$convolution", {"onednn_conv_config": config}, shape, x, kernel)


def matmul(a: jax.Array, b: jax.Array) -> jax.Array:
    """Products of float32 matrices, `[..., P, C]` and `[..., C, F]`."""
    shape = (*a.shape[:-1], b.shape[-1])
    return _call("__onednn$matmul", {"onednn_matmul_config": {}}, shape, a, b)


def matmul_nt(a: jax.Array, b: jax.Array) -> jax.Array:
    """Products a b^T of float32 matrices, `[..., P, F]` and `[..., C, F]`."""
    config = {"onednn_matmul_config": {"transpose_b": True}}
    shape = (*a.shape[:-1], b.shape[-2])
    return _call("__onednn$matmul", config, shape, a, b)


def matmul_tn(a: jax.Array, b: jax.Array) -> jax.Array:
    """The sum over pixels of a b^T: float32 `[..., P, C]` and `[..., P, F]` to `[..., C, F]`."""
    config = {"onednn_matmul_config": {"transpose_a": True}}
    shape = (*a.shape[:-2], a.shape[-1], b.shape[-1])
    return _call("__onednn$matmul", config, shape, a, b)


def _call(target: str, config: Any, shape: tuple[int, ...], *operands: jax.Array) -> jax.Array:
    # Opaque to XLA: it neither fuses this call with others nor divides it among devices.
    call = jax.ffi.ffi_call(
        target,
        jax.ShapeDtypeStruct(shape, jnp.float32),
        custom_call_api_version=_LEGACY_API,
        legacy_backend_config=json.dumps(config),
    )
    result: jax.Array = call(*operands)
    # Inside `shard_map` the result varies over every axis that an operand varies over.
    axes = frozenset[Any]().union(*(jax.typeof(a).manual_axis_type.varying for a in operands))
    return lax.pcast(result, tuple(sorted(axes)), to="varying") if axes else result
