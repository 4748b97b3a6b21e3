"""The convolution by oneDNN: its numbers, when it is called, and when it is not."""

import functools
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import export, lax
from test_ops_convolution import (
    KINDS,
    LAYOUT,
    assert_close,
    computed,
    definition,
    pair,
    random_case,
)

from jaxcnn import ops
from jaxcnn.models.resnet import ResNet
from jaxcnn.ops import onednn_calls
from jaxcnn.ops.conv import onednn_kernel_grad
from jaxcnn.ops.winograd import stride1, stride2
from jaxcnn.runtime.compilation import compiled

pytestmark = [
    pytest.mark.skipif(
        not onednn_calls.is_present(), reason="this jaxlib has no oneDNN that was tested"
    ),
    pytest.mark.usefixtures("winograd_for_few_images"),
]


@pytest.fixture(autouse=True)
def uncached() -> Any:
    """Programs may call oneDNN, as they may wherever no compilation cache was asked for."""
    jax.clear_caches()
    with ops.uncached():
        yield
    jax.clear_caches()


def calls(function: Any, *arguments: Any) -> list[str]:
    """What of oneDNN the program of a function calls."""
    return re.findall(r"__onednn\$\w+", jax.jit(function).lower(*arguments).as_text())


@settings(max_examples=10, deadline=None, derandomize=True)
@given(data=st.data())
def test_a_few_shapes_agree_with_the_definition(data: st.DataObject) -> None:
    assert_agrees(data.draw)


@pytest.mark.slow
@pytest.mark.ci
@settings(max_examples=50, deadline=None, derandomize=True)
@given(data=st.data())
def test_any_shape_agrees_with_the_definition(data: st.DataObject) -> None:
    assert_agrees(data.draw)


def assert_agrees(draw: Any) -> None:
    """Compares value and gradients of a convolution of any shape that `draw` gives."""
    kernel = draw(st.sampled_from([1, 2, 3, 5]), "kernel")
    stride = draw(st.sampled_from([1, 2, 3]), "stride")
    pad = st.integers(0, kernel)
    pads = ((draw(pad), draw(pad)), (draw(pad), draw(pad)))
    size = (draw(st.integers(kernel, 11), "height"), draw(st.integers(kernel, 11), "width"))
    depthwise = draw(st.booleans(), "depthwise")
    channels = draw(st.sampled_from([1, 2, 3, 6, 16, 33, 64]), "channels")
    if depthwise and channels == 1:
        channels = 8
    features = channels if depthwise else draw(st.sampled_from([1, 6, 12, 16, 40, 64]), "features")
    batch = draw(st.integers(1, 5), "batch")
    case = random_case(batch, size, channels, features, kernel, stride, pads, depthwise)
    assert_close(computed(*case, stride, pads), definition(*case, stride, pads), 2e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_that_chunks_do_not_divide(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (onednn_kernel_grad, stride1, stride2):
        monkeypatch.setattr(module, "chunk_size", lambda *_: 3)
    channels, features, kernel, stride, depthwise = KINDS[kind]
    pads = ((kernel // 2,) * 2,) * 2
    case = random_case(7, (7, 8), channels, features, kernel, stride, pads, depthwise)
    assert_close(computed(*case, stride, pads), definition(*case, stride, pads), 2e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_value_and_both_gradients_call_it(kind: str) -> None:
    ours, stock, x, kernel = pair(kind)
    found = calls(lambda x, k: jax.vjp(ours, x, k)[1](ours(x, k)), x, kernel)
    without = kind == "column_packing"  # Its kernel's gradient is computed without oneDNN.
    assert len(found) >= (2 if without else 3)
    assert not calls(lambda x, k: jax.vjp(stock, x, k)[1](stock(x, k)), x, kernel)


def test_bfloat16_is_computed_in_float32() -> None:
    ours, _, x, kernel = pair("dense")
    small = [a.astype(jnp.bfloat16) for a in (x, kernel)]
    exact = jax.jit(ours)(*(a.astype(jnp.float32) for a in small))
    assert calls(ours, *small)
    np.testing.assert_array_equal(jax.jit(ours)(*small), exact.astype(jnp.bfloat16))


def test_the_same_bits_every_time() -> None:
    for kind in ("winograd", "dense", "depthwise", "winograd_strided"):
        ours, _, x, kernel = pair(kind)
        program = jax.jit(jax.grad(lambda x, k, f=ours: jnp.sum(f(x, k) ** 2), (0, 1)))
        first = program(x, kernel)
        for _ in range(10):
            for a, b in zip(program(x, kernel), first, strict=True):
                np.testing.assert_array_equal(a, b)


def test_many_convolutions_at_a_time() -> None:
    """Independent calls, which XLA runs side by side, wait for each other's threads and go on."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(8, 16, 16, 16)), jnp.float32)
    kernels = jnp.asarray(rng.normal(size=(32, 3, 3, 16, 16)), jnp.float32)

    def all_of_them(convolve: Any, x: Any, kernels: Any) -> Any:
        return [convolve(x, k, (1, 1), "SAME", None, None, LAYOUT) for k in kernels]

    ours = jax.jit(functools.partial(all_of_them, ops.conv_general_dilated))
    stock = jax.jit(functools.partial(all_of_them, lax.conv_general_dilated))
    expected = stock(x, kernels)
    for _ in range(20):
        for a, b in zip(ours(x, kernels), expected, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-3)


@pytest.fixture
def cached(uncached: None) -> Any:
    """The session's compilation cache keeps every program, as in tests elsewhere."""
    before = jax.config.jax_persistent_cache_min_compile_time_secs  # type: ignore[attr-defined]
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    yield
    jax.config.update("jax_persistent_cache_min_compile_time_secs", before)


@pytest.mark.usefixtures("cached")
def test_a_program_for_the_cache_does_without() -> None:
    ours, _, x, kernel = pair("dense")
    assert not calls(lambda x, k: ours(x, k) + 1, x, kernel)
    with ops.uncached():
        assert calls(lambda x, k: ours(x, k) + 2, x, kernel)
    assert not calls(lambda x, k: ours(x, k) + 3, x, kernel)


def test_a_program_whose_author_does_not_want_it_does_without() -> None:
    ours, _, x, kernel = pair("dense")
    with ops.without_onednn():
        assert not calls(lambda x, k: ours(x, k) + 1, x, kernel)
        with ops.uncached(), ops.without_onednn():
            assert not calls(lambda x, k: ours(x, k) + 2, x, kernel)
        assert not calls(lambda x, k: ours(x, k) + 3, x, kernel)
    assert calls(lambda x, k: ours(x, k) + 4, x, kernel)


@pytest.mark.usefixtures("cached")
def test_a_run_calls_it_even_if_there_is_a_cache_unless_it_shall_not() -> None:
    model = ResNet(blocks=(1,), widths=(8,))
    images = jnp.zeros((2, 8, 8, 3))
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))

    def text(onednn: bool) -> str:
        program = jax.jit(lambda variables, x: model.apply(variables, x, train=False))
        return str(compiled(program, (variables, images), onednn=onednn).as_text())

    assert "__onednn$" in text(True)
    assert "__onednn$" not in text(False)


def test_nothing_that_calls_it_is_written_to_the_cache(tmp_path: Path) -> None:
    """In a child process, whose cache is its own."""
    program = """
    import jax, jax.numpy as jnp, os, sys
    from jaxcnn import ops
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_compilation_cache_dir", sys.argv[1])
    x, k = jnp.ones((2, 8, 8, 4)), jnp.ones((3, 3, 4, 4))
    def convolve(x, k):
        return ops.conv_general_dilated(x, k, (1, 1), "SAME", None, None, ("NHWC", "HWIO", "NHWC"))
    def kept():
        return sum("convolve" in name for name in os.listdir(sys.argv[1]))
    with ops.uncached():
        jax.jit(convolve).lower(x, k).compile()
    alone = kept()
    jax.jit(lambda x, k: convolve(x, k)).lower(x, k).compile()
    jax.jit(convolve)(x[:1], k)
    print(alone, kept() > 0)
    """
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(program), str(tmp_path)],
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.stdout.split() == ["0", "True"], result.stderr[-3000:]


def test_an_exported_program_does_without() -> None:
    ours, _, x, kernel = pair("dense")
    exported = export.export(jax.jit(ours), platforms=["cpu"])(x, kernel)
    assert "__onednn$" not in exported.mlir_module()
    np.testing.assert_allclose(exported.call(x, kernel), jax.jit(ours)(x, kernel), atol=1e-4)


@pytest.mark.parametrize(
    ("name", "value"),
    [("jaxlib.__version__", "0.10.3"), ("sys.platform", "darwin"), ("platform.machine", None)],
)
def test_only_what_was_tested_is_called(
    name: str, value: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, _, x, kernel = pair("dense")
    with_it = jax.jit(ours)(x, kernel)
    monkeypatch.setattr(f"jaxcnn.ops.onednn_calls.{name}", value or (lambda: "aarch64"))
    assert not ops.has_onednn()
    jax.clear_caches()
    assert not calls(ours, x, kernel)
    np.testing.assert_allclose(jax.jit(ours)(x, kernel), with_it, atol=1e-4)
