"""What the compiled programs contain: no stock gradient on the CPU, nothing but stock elsewhere."""

import re
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import pytest
from test_ops_convolution import KINDS, pair

from jaxcnn import ops
from jaxcnn.runtime import launch

pytestmark = pytest.mark.usefixtures("winograd_for_few_images")


def lowered(function: object, *arguments: jax.Array, platform: str) -> str:
    """The StableHLO of a function for a platform, which need not be present."""
    return jax.jit(function).trace(*arguments).lower(lowering_platforms=(platform,)).as_text()


def slow_convolutions(text: str) -> list[str]:
    """Convolutions that XLA's CPU compiler has no fast path for: all but plain NHWC ones."""
    fast = re.compile(
        r"dim_numbers = \[b, 0, 1, f\]x\[0, 1, i, o\]->\[b, 0, 1, f\]"
        r"(?!.*(?:lhs_dilate = \[2|rhs_dilate = \[2|reverse = \[true)).*feature_group_count = 1 "
    )
    lines = [line for line in text.splitlines() if "stablehlo.convolution" in line]
    return [line for line in lines if not fast.search(line)]


def gradients(convolve: object) -> object:
    return jax.grad(lambda x, k: jnp.sum(convolve(x, k) ** 2), (0, 1))


@pytest.mark.parametrize("kind", KINDS)
def test_the_cpu_never_falls_back_to_a_stock_gradient(kind: str) -> None:
    ours, stock, x, kernel = pair(kind)
    assert not slow_convolutions(lowered(gradients(ours), x, kernel, platform="cpu"))
    # The detector works: the stock gradient is found.
    if not kind.startswith("pointwise"):
        assert slow_convolutions(lowered(gradients(stock), x, kernel, platform="cpu"))


def test_winograd_and_pointwise_and_depthwise_use_no_convolution_at_all() -> None:
    for kind in ("winograd", "pointwise", "pointwise_strided", "depthwise", "depthwise_strided"):
        ours, _, x, kernel = pair(kind)
        assert "stablehlo.convolution" not in lowered(gradients(ours), x, kernel, platform="cpu")


def test_a_strided_kernel_s_gradient_is_winograd_s() -> None:
    for kind, expected in (("winograd_strided", True), ("strided", False)):
        ours, _, x, kernel = pair(kind)
        assert ("tensor<25x" in lowered(gradients(ours), x, kernel, platform="cpu")) == expected


@pytest.mark.parametrize(("channels", "in_both_passes"), [(192, 1), (64, 2)])
def test_only_a_large_kernel_is_transformed_once_for_both_passes(
    channels: int, in_both_passes: int
) -> None:
    """XLA finds that forward pass and gradient of the images ask for the same, if they do."""
    x, kernel = jnp.ones((8, 16, 16, channels)), jnp.ones((3, 3, channels, channels))

    def loss(x: jax.Array, kernel: jax.Array) -> jax.Array:
        dimensions = ("NHWC", "HWIO", "NHWC")
        y = ops.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=dimensions)
        return jnp.sum(y**2)

    transform = rf"= f32\[6,6,{channels},{channels}\]\S* call\("
    for function, expected in ((loss, 1), (jax.grad(loss), in_both_passes)):
        with ops.uncached():
            compiled = jax.jit(function).lower(x, kernel).compile(ops.CPU_COMPILER_OPTIONS)
        assert len(re.findall(transform, compiled.as_text())) == expected


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
@pytest.mark.parametrize("kind", ["winograd", "depthwise_strided", "strided"])
def test_accelerators_get_the_stock_convolutions(kind: str, platform: str) -> None:
    ours, stock, x, kernel = pair(kind)
    convolutions = [
        sorted(
            line.split(" = ", 1)[1].partition("(")[0] + line.partition(") ")[2].partition(" loc")[0]
            for line in lowered(gradients(f), x, kernel, platform=platform).splitlines()
            if "stablehlo.convolution" in line
        )
        for f in (ours, stock)
    ]
    assert convolutions[0] == convolutions[1] != []


def test_pooling_scatters_on_accelerators_only() -> None:
    def gradient(x: jax.Array) -> jax.Array:
        return jax.grad(lambda x: jnp.sum(ops.max_pool(x, (2, 2), (2, 2)) ** 2))(x)

    x = jnp.ones((2, 8, 8, 4))
    assert "select_and_scatter" not in lowered(gradient, x, platform="cpu")
    assert "select_and_scatter" in lowered(gradient, x, platform="tpu")


@pytest.mark.slow
@pytest.mark.ci
@pytest.mark.parametrize("winograd_channels", [16, 128])
def test_a_sharded_batch_is_not_gathered(winograd_channels: int) -> None:
    """In a child process, which alone can have 8 devices."""
    program = """
    import jax, jax.numpy as jnp, numpy as np, re, sys
    from jax.sharding import NamedSharding, PartitionSpec as P
    from jaxcnn import ops
    from jaxcnn.ops.conv import conditions, xla
    from jaxcnn.ops.winograd import stride1, stride2
    # Several chunks on each device, and not of equal size.
    xla.chunk_size = stride2.chunk_size = stride1.chunk_size = lambda *_: 2
    conditions.WINOGRAD_CHANNELS = conditions.WINOGRAD_KERNEL_GRAD_CHANNELS = int(sys.argv[1])
    conditions.WINOGRAD_GRAD_CHANNELS = int(sys.argv[1])
    conditions.WINOGRAD_LEAST_SAVED = 0

    def loss(kernels, x):
        plan = ((1, 1), (1, 1), (2, 1), (1, 32), (1, 1))
        for kernel, (stride, groups) in zip(kernels, plan, strict=True):
            x = ops.conv_general_dilated(x, kernel, (stride, stride), "SAME", None, None,
                                         ("NHWC", "HWIO", "NHWC"), groups)
        return jnp.sum(ops.max_pool(x, (2, 2), (2, 2)))

    rng = np.random.default_rng(0)
    shapes = [(3, 3, 3, 32), (3, 3, 32, 32), (3, 3, 32, 32), (3, 3, 1, 32), (1, 1, 32, 32)]
    kernels = [jnp.asarray(0.1 * rng.normal(size=s), jnp.float32) for s in shapes]
    x = jnp.asarray(rng.normal(size=(40, 8, 8, 3)), jnp.float32)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    whole, split = NamedSharding(mesh, P()), NamedSharding(mesh, P("data"))
    step = jax.jit(jax.grad(loss), in_shardings=(whole, split), out_shardings=whole)
    text = step.lower(kernels, x).compile().as_text()
    for collective in ("all-gather", "all-to-all", "collective-permute"):
        assert not re.search(rf"{collective}(-start)?[(]", text), collective
    assert "while" in text and re.search(r"all-reduce(-start)?[(]", text)
    alone = jax.jit(jax.grad(loss))(kernels, x)
    shard = jax.shard_map(jax.grad(loss), mesh=mesh, in_specs=(P(), P("data")), out_specs=P())
    for sharded in (step(kernels, x), jax.jit(shard)(kernels, x)):
        for a, b in zip(sharded, alone, strict=True):
            assert np.linalg.norm(a - b) < 1e-4 * np.linalg.norm(b)

    def normed(scale, kernel, x):
        moments = ops.moments(x)
        y = ops.norm_relu_conv(x, scale, 1 - scale, *moments, kernel, (1, 1), "SAME", epsilon=1e-5)
        return jnp.sum(ops.relu(y) ** 2)

    inner = jnp.asarray(rng.normal(size=(40, 8, 8, 32)), jnp.float32)
    arguments = (jnp.linspace(-1, 1, 32), kernels[1], inner)
    gradients = jax.grad(normed, (0, 1, 2))
    is_one = "cnn_norm_relu_conv_gradients" in str(jax.make_jaxpr(gradients)(*arguments))
    assert is_one == (conditions.WINOGRAD_CHANNELS <= 32)
    places = (whole, whole, split)
    step = jax.jit(gradients, in_shardings=places, out_shardings=places)
    text = step.lower(*arguments).compile().as_text()
    for collective in ("all-gather", "all-to-all", "collective-permute"):
        assert not re.search(rf"{collective}(-start)?[(]", text), collective
    for a, b in zip(step(*arguments), jax.jit(gradients)(*arguments), strict=True):
        assert np.linalg.norm(a - b) < 1e-4 * np.linalg.norm(b)
    print("passed")
    """
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(program), str(winograd_channels)],
        env=launch.environment(0, 8, False),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.stdout.strip() == "passed", result.stderr[-3000:]


def test_winograd_s_loops_stay_apart_whatever_the_compiler_options() -> None:
    ours, _, x, kernel = pair("winograd")
    program = jax.jit(ours).lower(x, kernel)
    kept = program.compile(dict(ops.CPU_COMPILER_OPTIONS)).as_text()
    default = program.compile().as_text()
    assert "opt-barrier" in kept
    assert "opt-barrier" not in default
    # XLA merges loops into those that use their results, and computes them once for each use.
    loops = re.compile(r" fusion\(.*kind=kLoop")
    assert len(loops.findall(default)) >= 6  # Two transforms of each of images, kernel and result.
