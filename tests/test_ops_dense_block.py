"""The dense block as one operation against the same block layer by layer."""

import contextlib
import functools
import subprocess
import sys
import textwrap
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import init
from flax import linen as nn

from jaxcnn import ops
from jaxcnn.models.densenet import DenseNet
from jaxcnn.ops.dense_block import layerwise, passes, stages
from jaxcnn.ops.dense_block.arithmetic import patches, shifted_sum
from jaxcnn.runtime import launch

EPSILON = 1e-5
CI = [pytest.mark.slow, pytest.mark.ci]


def make(channels: int, layers: int, k: int, bottleneck: int, dtype: Any = np.float64) -> Any:
    """Random weights of a block, as they lie in a network's parameters."""
    rng = np.random.default_rng(0)

    def norm(c: int) -> dict[str, Any]:
        return {"scale": 1 + 0.2 * rng.normal(size=c), "bias": 0.2 * rng.normal(size=c)}

    weights = []
    for _ in range(layers):
        inputs, layer = channels, {}
        if bottleneck:
            kernel = rng.normal(size=(1, 1, channels, bottleneck)) / channels**0.5
            layer = {"norm1": norm(channels), "conv1": {"kernel": kernel}}
            inputs = bottleneck
        kernel = rng.normal(size=(3, 3, inputs, k)) / (9 * inputs) ** 0.5
        weights.append({**layer, "norm2": norm(inputs), "conv2": {"kernel": kernel}})
        channels += k
    return jax.tree.map(lambda a: jnp.asarray(a, dtype), weights)


def layer_by_layer(x: Any, weights: Any) -> Any:
    """The definition: batch norm, ReLU, convolution, concatenation, in stock operations."""

    def norm_relu(x: Any, norm: Any) -> Any:
        mean, var = jnp.mean(x, (0, 1, 2)), jnp.var(x, (0, 1, 2))
        with jax.numpy_rank_promotion("allow"):
            y = (x - mean) / jnp.sqrt(var + EPSILON) * norm["scale"] + norm["bias"]
        return jax.nn.relu(y), (mean, var)

    def conv(x: Any, kernel: Any) -> Any:
        numbers = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=numbers)

    statistics = []
    for layer in weights:
        h, now = x, {}
        if "conv1" in layer:
            h, now["norm1"] = norm_relu(h, layer["norm1"])
            h = conv(h, layer["conv1"]["kernel"])
        h, now["norm2"] = norm_relu(h, layer["norm2"])
        statistics.append(now)
        x = jnp.concatenate([x, conv(h, layer["conv2"]["kernel"])], -1)
    return x, statistics


def pixels(*shape: int, dtype: Any = np.float64, seed: int = 1) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def assert_close(ours: Any, theirs: Any, tolerance: float) -> None:
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        assert np.linalg.norm(a - b) <= tolerance * np.linalg.norm(b)


def values_and_gradients(block: Any, x: Any, weights: Any) -> Any:
    """Features, statistics and the gradients of a random sum of the features."""

    def loss(x: Any, weights: Any) -> Any:
        features, statistics = block(x, weights)
        statistics = [{name: tuple(s) for name, s in layer.items()} for layer in statistics]
        direction = pixels(*features.shape, dtype=features.dtype, seed=2)
        return jnp.sum(features * direction), (features, statistics)

    return jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(x, weights)


one_operation = functools.partial(ops.dense_block, epsilon=EPSILON)


@pytest.mark.parametrize(
    ("batch", "height", "width", "widest", "bottleneck"),  # Loops of 1 + 1 + 1, 2 + 1, 3 layers.
    [
        *((6, 8, 8, 1.0, 8), (6, 8, 8, 2.0, 0), (7, 5, 6, 9.0, 8), (1, 3, 1, 2.0, 0)),
        *(
            pytest.param(*case, marks=CI)
            for case in ((6, 8, 8, 1.0, 0), (6, 8, 8, 2.0, 8), (7, 5, 6, 9.0, 0), (1, 3, 1, 2.0, 8))
        ),
    ],
)
def test_it_is_the_block_layer_by_layer(
    batch: int,
    height: int,
    width: int,
    widest: float,
    bottleneck: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stages, "images_in_chunk", lambda *_: 2)  # Some batches leave a rest.
    monkeypatch.setattr(passes, "_WIDEST", dict.fromkeys((False, True), widest))
    with jax.enable_x64(True):
        x, weights = pixels(batch, height, width, 5), make(5, 3, 4, bottleneck)
        ours = values_and_gradients(one_operation, x, weights)
        assert_close(ours, values_and_gradients(layer_by_layer, x, weights), 1e-9)


@pytest.mark.parametrize(("widest", "sizes"), [(1.0, [1, 1, 1]), (2.0, [2, 1]), (9.0, [3])])
def test_layers_of_like_width_share_a_loop(
    widest: float, sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passes, "_WIDEST", dict.fromkeys((False, True), widest))
    groups = list(passes.layer_groups(5, make(5, 3, 4, 0, np.float32)))
    assert [len(group.layers) for group in groups] == sizes
    assert [group.channels for group in groups] == [5 + 4 * (n - 1) for n in np.cumsum(sizes)]


def relative_errors(ours: Any, exact: Any) -> np.ndarray:
    leaves = (map(np.asarray, jax.tree.leaves(tree)) for tree in (ours, exact))
    pairs = zip(*leaves, strict=True)
    return np.array([np.linalg.norm(a.astype("d") - b) / np.linalg.norm(b) for a, b in pairs])


def program_text(x: Any, weights: Any) -> str:
    """The program of the block and its gradients, as it is given to the compiler."""

    def loss(x: Any, weights: Any) -> Any:
        return jnp.sum(one_operation(x, weights)[0] ** 2)

    return jax.jit(jax.grad(loss, (0, 1))).lower(x, weights).as_text()


@pytest.mark.parametrize(
    ("dtype", "bottleneck", "by_onednn"),
    [
        (jnp.float32, 8, False),
        *(
            pytest.param(*case, marks=CI)
            for case in (
                *((jnp.float32, 0, False), (jnp.bfloat16, 0, False), (jnp.bfloat16, 8, False)),
                *((jnp.float32, 0, True), (jnp.float32, 8, True)),
                *((jnp.bfloat16, 0, True), (jnp.bfloat16, 8, True)),
            )
        ),
    ],
)
def test_it_is_at_least_as_exact_as_layer_by_layer(
    dtype: Any, bottleneck: int, by_onednn: bool
) -> None:
    if by_onednn and not ops.has_onednn():
        pytest.skip("this jaxlib has no oneDNN that was tested")
    x = pixels(8, 8, 8, 5, dtype=dtype)
    weights = make(5, 3, 4, bottleneck, np.float32)
    jax.clear_caches()
    with ops.uncached() if by_onednn else contextlib.nullcontext():
        assert ("__onednn$matmul" in program_text(x, weights)) == by_onednn
        ours = values_and_gradients(one_operation, x, weights)
    jax.clear_caches()
    assert ours[1][0].dtype == ours[0][1][0].dtype == dtype
    rounded = jax.tree.map(lambda a: jnp.asarray(a, dtype), weights)
    stock = values_and_gradients(layer_by_layer, x, rounded)
    with jax.enable_x64(True):
        x, weights = jax.tree.map(lambda a: a.astype(jnp.float64), (x, weights))
        exact = values_and_gradients(layer_by_layer, x, weights)
    errors = relative_errors(ours, exact)
    if dtype == jnp.float32:
        assert np.all(errors < 2e-5)
    else:
        assert np.all(errors < 1.2 * relative_errors(stock, exact) + 1e-3)


@pytest.mark.parametrize("bottleneck", [0, 8])
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_the_shapes_are_said_without_tracing(dtype: Any, bottleneck: int) -> None:
    weights = make(6, 3, 4, bottleneck, np.float32)
    x = jax.ShapeDtypeStruct((2, 5, 7, 6), dtype)
    forward = functools.partial(passes.forward, epsilon=EPSILON)
    said = passes.forward_shapes(x, weights)
    assert said == jax.eval_shape(forward, x, weights)
    backward = functools.partial(passes.backward, epsilon=EPSILON)
    operands = (*said, weights, said[0])
    assert passes.backward_shapes(*operands) == jax.eval_shape(backward, *operands)


@pytest.mark.parametrize("bottleneck", [pytest.param(0, marks=CI), 8])
def test_other_platforms_compute_it_layer_by_layer(bottleneck: int) -> None:
    """Their two passes, run here on the CPU, against the definition differentiated by JAX."""
    with jax.enable_x64(True):
        x, weights = pixels(3, 6, 7, 5), make(5, 3, 4, bottleneck)
        direction = pixels(3, 6, 7, 5 + 3 * 4, seed=2)

        def loss(x: Any, weights: Any) -> Any:
            features, statistics = layer_by_layer(x, weights)
            return jnp.sum(features * direction), features

        grads, expected = jax.jit(jax.grad(loss, (0, 1), has_aux=True))(x, weights)
        features, saved = jax.jit(functools.partial(layerwise.forward, epsilon=EPSILON))(x, weights)
        backward = jax.jit(functools.partial(layerwise.backward, epsilon=EPSILON))
        assert_close(features, expected, 1e-12)
        assert_close(backward(features, saved, weights, direction), grads, 1e-11)
        ours = passes.forward(x, weights, EPSILON)[1]
        assert_close(saved, ours, 1e-10)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
@pytest.mark.parametrize("bottleneck", [0, 8])
def test_both_ways_have_the_same_shapes(dtype: Any, bottleneck: int) -> None:
    weights = make(6, 3, 4, bottleneck, np.float32)
    x = jax.ShapeDtypeStruct((2, 5, 7, 6), dtype)
    shapes = passes.forward_shapes(x, weights)
    forward = functools.partial(layerwise.forward, epsilon=EPSILON)
    assert jax.eval_shape(forward, x, weights) == shapes
    backward = functools.partial(layerwise.backward, epsilon=EPSILON)
    operands = (*shapes, weights, shapes[0])
    assert jax.eval_shape(backward, *operands) == passes.backward_shapes(*operands)


def test_an_exported_program_may_be_for_several_platforms() -> None:
    def gradient(x: Any, weights: Any) -> Any:
        return jax.grad(lambda *a: jnp.sum(one_operation(*a)[0] ** 2), (0, 1))(x, weights)

    with jax.enable_x64(True):
        x, weights = pixels(2, 4, 4, 5), make(5, 2, 4, 8)
        exported = jax.export.export(jax.jit(gradient), platforms=["cpu", "cuda"])(x, weights)
        assert_close(exported.call(x, weights), jax.jit(gradient)(x, weights), 1e-12)


@pytest.mark.slow
@pytest.mark.ci
def test_vmap_runs_each_member() -> None:
    x, weights = pixels(2, 4, 6, 6, 5, dtype=np.float32), make(5, 2, 4, 8, np.float32)
    ours = jax.jit(jax.vmap(lambda x: values_and_gradients(one_operation, x, weights)))(x)
    each = [values_and_gradients(one_operation, member, weights) for member in x]
    assert_close(ours, jax.tree.map(lambda *a: jnp.stack(a), *each), 1e-6)


def test_patches_are_the_transpose_of_the_shifted_sum() -> None:
    with jax.enable_x64(True):
        x, y = pixels(60, 32), pixels(60, 3, seed=2)  # Behind 9 * 3 columns there may be more.
        left = jnp.sum(shifted_sum(x, (5, 6), 3) * y)
        np.testing.assert_allclose(left, jnp.sum(x[:, :27] * patches(y, (5, 6))), rtol=1e-9)


def gradient_program(model: nn.Module, x: jax.Array) -> Any:
    variables = init(model, x)

    def loss(params: Any) -> Any:
        logits, updated = model.apply(
            {**variables, "params": params},
            x,
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": jax.random.key(3)},
        )
        return jnp.sum(jnp.square(logits)), updated

    return jax.value_and_grad(loss, has_aux=True), variables["params"]


@pytest.mark.parametrize("bn_size", [pytest.param(0, marks=[pytest.mark.slow, pytest.mark.ci]), 4])
def test_densenet_trains_the_same_either_way(bn_size: int) -> None:
    model = DenseNet(blocks=(2,), growth_rate=4, bn_size=bn_size)
    x = pixels(6, 8, 8, 3, dtype="f")
    program, params = gradient_program(model, x)
    assert str(jax.make_jaxpr(program)(params)).count("cnn_dense_block_gradient") == 1
    ours = jax.jit(program)(params)
    program, _ = gradient_program(model.clone(ops="stock"), x)
    assert "cnn_dense_block" not in str(jax.make_jaxpr(program)(params))
    assert_close(ours, jax.jit(program)(params), 1e-4)


@pytest.mark.parametrize(
    ("fields", "is_fused"),
    [({"drop_rate": 0.2}, False), ({"norm_groups": 2}, False), ({"remat": True}, True)],
)
def test_what_the_block_cannot_do_goes_layer_by_layer(
    fields: dict[str, Any], is_fused: bool
) -> None:
    model = DenseNet(blocks=(2,), growth_rate=4, **fields)
    program, params = gradient_program(model, pixels(4, 8, 8, 3, dtype="f"))
    assert ("cnn_dense_block" in str(jax.make_jaxpr(program)(params))) == is_fused


@pytest.mark.slow
@pytest.mark.ci
def test_a_sharded_batch_is_not_gathered_and_reduced_once_a_stage() -> None:
    """In a child process, which alone can have 8 devices."""
    program = """
    import sys; sys.path.insert(0, "tests")
    import jax, jax.numpy as jnp, numpy as np, re
    from jax.sharding import NamedSharding, PartitionSpec as P
    from jaxcnn.ops.dense_block import passes, stages
    from test_ops_dense_block import make, one_operation, pixels
    stages.images_in_chunk = lambda *_: 2
    passes._WIDEST = {True: 1}  # No loop over layers: what is left are those over chunks.
    x, weights = pixels(40, 8, 8, 5, dtype="f"), make(5, 2, 4, 8, "f")
    loss = lambda weights, x: jnp.sum(one_operation(x, weights)[0] ** 2)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    whole, split = NamedSharding(mesh, P()), NamedSharding(mesh, P("data"))
    step = jax.jit(jax.grad(loss), in_shardings=(whole, split), out_shardings=whole)
    text = step.lower(weights, x).compile().as_text()
    for collective in ("all-gather", "all-to-all", "collective-permute"):
        assert not re.search(rf"{collective}(-start)?[(]", text), collective
    assert "while" in text
    entry = text[text.index("ENTRY"):]
    reduced = r"all-reduce(-start)?[(]"
    assert len(re.findall(reduced, text)) == len(re.findall(reduced, entry)) > 0  # not in a loop
    alone = jax.jit(jax.grad(loss))(weights, x)
    for a, b in zip(*map(jax.tree.leaves, (step(weights, x), alone)), strict=True):
        assert np.linalg.norm(a - b) < 1e-4 * np.linalg.norm(b)
    print("passed")
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        env=launch.environment(0, 8, False),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.stdout.strip() == "passed", result.stderr[-3000:]
