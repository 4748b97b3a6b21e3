"""Networks: shapes, parameter counts, gradients, norms, options, errors."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import FAMILIES, SMALL, all_variants, init
from flax import linen as nn

from jaxcnn import models
from jaxcnn.errors import UserError
from jaxcnn.models import layers
from jaxcnn.models.densenet import DenseNet
from jaxcnn.runtime.compilation import compiler_options
from jaxcnn.train import metrics


def _init(model, shape, *, train=False):
    """Returns abstract variables for float32 images of `shape`, without computing anything."""
    images = jax.ShapeDtypeStruct(shape, jnp.float32)
    return jax.eval_shape(lambda k, x: model.init(k, x, train=train), jax.random.key(0), images)


def _count(tree):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def _cifar_resnet_parameters(depth):
    """Closed form for section 4.2's networks: all convolutions, two numbers per norm channel."""
    n = (depth - 2) // 6
    conv = lambda c, f: 9 * c * f + 2 * f  # noqa: E731 (kernel, scale and bias)
    total = conv(3, 16) + 2 * n * conv(16, 16)
    for c, f in ((16, 32), (32, 64)):
        total += conv(c, f) + (2 * n - 1) * conv(f, f)
    return total + 64 * 10 + 10


def _speedrun_parameters(*widths, convolutions):
    """Closed form: a whitening bias, kernels, a bias per norm channel, a head without bias."""
    total, channels = 24 + widths[-1] * 10, 24
    for width in widths:
        total += 9 * channels * width + width + (convolutions - 1) * (9 * width + 1) * width
        channels = width
    return total


PUBLISHED = {
    "lenet": 62_006,
    "resnet18": 11_173_962,
    "resnet34": 21_282_122,
    "resnet50": 23_520_842,
    "resnet101": 42_512_970,
    "resnet152": 58_156_618,
    "resnet20": 269_722,
    "resnet32": _cifar_resnet_parameters(32),
    "resnet44": _cifar_resnet_parameters(44),
    "resnet56": _cifar_resnet_parameters(56),
    "resnet110": 1_727_962,
    # Option B: two 1x1 convolutions, each with a norm, in place of nothing.
    "resnet20b": 269_722 + 16 * 32 + 2 * 32 + 32 * 64 + 2 * 64,
    "resnet56b": _cifar_resnet_parameters(56) + 16 * 32 + 2 * 32 + 32 * 64 + 2 * 64,
    # Option A shortcuts have no parameters, so a plain network has those of its residual twin.
    "plain20": 269_722,
    "plain32": _cifar_resnet_parameters(32),
    "plain44": _cifar_resnet_parameters(44),
    "plain56": _cifar_resnet_parameters(56),
    "plain110": 1_727_962,
    "densenet121": 6_956_298,
    "densenet161": 26_482_378,
    "densenet169": 12_493_322,
    "densenet201": 18_104_330,
    "densenet_bc100_k12": 769_162,
    "densenet40_k12": 1_019_722,
    "mobilenet": 544_490,
    "mobilenet_v1": 3_217_226,
    "speedrun": _speedrun_parameters(64, 256, 256, convolutions=2),
    "speedrun96": _speedrun_parameters(128, 384, 512, convolutions=3),
}
_ANY_SIZE = [name for name in models.FAMILY if models.FAMILY[name] not in ("lenet", "speedrun")]


def test_every_variant_has_a_published_count():
    assert set(PUBLISHED) == set(models.FAMILY)


@pytest.mark.parametrize("name", all_variants(*PUBLISHED))
def test_parameter_count_is_the_published_one(name):
    assert _count(_init(models.create(name), (2, 32, 32, 3))["params"]) == PUBLISHED[name]


def test_closed_form_agrees_with_published_counts():
    assert _cifar_resnet_parameters(20) == PUBLISHED["resnet20"]
    assert _cifar_resnet_parameters(110) == PUBLISHED["resnet110"]


@pytest.mark.parametrize("name", all_variants(*models.FAMILY))
def test_logits_have_a_row_per_image_and_a_float32_column_per_class(name):
    model = models.create(name, num_classes=7, dtype=jnp.bfloat16)
    images = jax.ShapeDtypeStruct((3, 32, 32, 3), jnp.float32)
    variables = _init(model, images.shape)
    logits = jax.eval_shape(lambda v, x: model.apply(v, x, train=False), variables, images)
    assert (logits.shape, logits.dtype) == ((3, 7), jnp.float32)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}


SIZES = {"odd": (2, 33, 47, 1), "MNIST": (2, 28, 28, 1), "large": (2, 64, 64, 3)}


@pytest.mark.parametrize("name", all_variants(*_ANY_SIZE))
@pytest.mark.parametrize(
    "shape",
    [
        SIZES["odd"],
        *(pytest.param(SIZES[size], marks=pytest.mark.slow) for size in ("MNIST", "large")),
    ],
)
def test_fully_convolutional_networks_take_other_sizes_with_the_same_layers(name, shape):
    params = _init(models.create(name), shape)["params"]
    stem = 9 * (3 - shape[-1]) * params["stem_conv"]["kernel"].shape[-1]
    assert _count(params) + stem == PUBLISHED[name]


@pytest.mark.parametrize(
    ("name", "size"),
    [("lenet", 15), ("densenet121", 7), ("resnet18", 7), ("resnet20", 3), ("speedrun", 8)],
)
def test_too_small_images_are_refused_in_words(name, size):
    with pytest.raises(UserError, match=f"{size}x{size} pixels.* at least"):
        _init(models.create(name), (1, size, size, 3))
    _init(models.create(name), (1, size + 1, size + 1, 3))


def test_images_without_a_batch_axis_are_refused():
    with pytest.raises(UserError, match=r"\[B, H, W, C\]"):
        _init(models.create("resnet20"), (32, 32, 3))


def test_unknown_network_and_foreign_option_are_refused():
    with pytest.raises(UserError, match="resnet19.*known networks: lenet, resnet18"):
        models.create("resnet19")
    with pytest.raises(UserError, match="width is no option of resnet18; its options: plain"):
        models.create("resnet18", width=0.5)


def _random(shape, seed=0):
    return jax.random.normal(jax.random.key(seed), shape)


# Their kinds of block stand in the others.
_ALIKE = ("resnet_padded", "resnet_plain", "densenet_without_bottleneck")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow, pytest.mark.ci] if name in _ALIKE else [])
        for name in SMALL
    ],
)
def test_every_parameter_has_a_finite_gradient_that_is_not_zero(name):
    model, images, labels = SMALL[name], _random((16, 16, 16, 3)), jnp.arange(16) % 10
    variables = init(model, images, 1)

    @jax.jit
    def gradient(params):
        def loss(params):
            logits, _ = model.apply(
                {**variables, "params": params}, images, train=True, mutable=["batch_stats"]
            )
            return metrics.cross_entropy(logits, labels).mean()

        return jax.grad(loss)(params)

    grads = gradient(variables["params"])
    for path, grad in jax.tree_util.tree_leaves_with_path(grads):
        where = jax.tree_util.keystr(path)
        grad = np.asarray(grad)
        assert np.isfinite(grad).all(), where
        assert (grad != 0).any(), where


def test_norm_uses_the_batch_in_training_and_the_running_statistics_in_evaluation():
    class Norm(nn.Module):
        @nn.compact
        def __call__(self, x, *, train):
            return layers.BatchNorm(dtype=jnp.float32, name="norm")(x, train=train)

    x = 3.0 + 2.0 * _random((8, 4, 4, 5))
    variables = Norm().init(jax.random.key(0), x, train=False)
    y, updated = Norm().apply(variables, x, train=True, mutable=["batch_stats"])
    mean, var = np.mean(x, (0, 1, 2)), np.var(x, (0, 1, 2))
    expected = (x - mean.reshape(1, 1, 1, 5)) / np.sqrt(var + 1e-5).reshape(1, 1, 1, 5)
    np.testing.assert_allclose(y, expected, atol=1e-5)
    running = updated["batch_stats"]["norm"]
    np.testing.assert_allclose(running["mean"], 0.1 * mean, rtol=1e-5)
    np.testing.assert_allclose(running["var"], 0.9 + 0.1 * var, rtol=1e-5)
    unchanged = Norm().apply(variables, x, train=False)
    np.testing.assert_allclose(unchanged, x / np.sqrt(1 + 1e-5), rtol=1e-6)


@pytest.mark.parametrize("name", SMALL)
def test_an_image_is_classified_alike_alone_and_in_a_batch(name):
    model, images = SMALL[name], _random((4, 16, 16, 3))
    variables = init(model, images)
    apply = jax.jit(lambda x: model.apply(variables, x, train=False))
    np.testing.assert_allclose(apply(images)[:1], apply(images[:1]), rtol=1e-4, atol=1e-5)


def test_plain_leaves_out_the_shortcuts_and_nothing_else():
    residual, plain = models.create("resnet18"), models.create("resnet18", plain=True)
    residual, plain = (_init(m, (1, 32, 32, 3))["params"] for m in (residual, plain))
    assert "shortcut_conv" in residual["stage2_block1"]
    shortcuts = sum(64 * 2**i * 128 * 2**i + 2 * 128 * 2**i for i in range(3))
    assert _count(residual) - _count(plain) == shortcuts
    padded = SMALL["resnet_padded"]
    images = _random((2, 16, 16, 3))
    variables = init(padded, images)
    with_shortcuts, without = (
        jax.jit(lambda v, m=m: m.apply(v, images, train=False))(variables)
        for m in (padded, padded.clone(plain=True))
    )
    assert not np.allclose(with_shortcuts, without)


def test_a_plain_variant_is_the_residual_one_without_shortcuts():
    images = _random((2, 32, 32, 3))
    named = models.create("plain20", ops="stock")
    option = models.create("resnet20", plain=True, ops="stock")
    variables = init(named, images)
    apply = lambda m: jax.jit(lambda v: m.apply(v, images, train=False))(variables)  # noqa: E731
    np.testing.assert_array_equal(apply(named), apply(option))
    assert not np.allclose(apply(named), apply(models.create("resnet20", ops="stock")))
    # With the last norm of a block at zero, a residual block passes its input on, a plain one 0.
    params = dict(variables["params"])
    block = params["stage3_block3"]
    params["stage3_block3"] = {**block, "norm2": jax.tree.map(jnp.zeros_like, block["norm2"])}
    silenced = {**variables, "params": params}
    bias = params["classifier"]["bias"]
    np.testing.assert_array_equal(
        jax.jit(lambda v: named.apply(v, images, train=False))(silenced),
        jnp.broadcast_to(bias, (2, 10)),
    )


def test_width_scales_every_layer():
    params = _init(models.create("mobilenet_v1", width=0.5), (1, 32, 32, 3))["params"]
    assert params["stem_conv"]["kernel"].shape == (3, 3, 3, 16)
    assert params["block13"]["pointwise_conv"]["kernel"].shape == (1, 1, 512, 512)


def test_densenet_appends_new_channels_after_the_old_ones():
    model = DenseNet(blocks=(1,), growth_rate=4, ops="stock")
    params = _init(model, (1, 8, 8, 3))["params"]
    assert params["final_norm"]["scale"].shape == (8 + 4,)
    images = _random((2, 8, 8, 3))
    variables = init(model, images)
    options = dict(capture_intermediates=True, mutable=["intermediates"])
    _, state = jax.jit(lambda v: model.apply(v, images, train=False, **options))(variables)
    seen = state["intermediates"]
    stem, new = seen["stem_conv"]["__call__"][0], seen["block1_layer1"]["__call__"][0]
    joined = jnp.concatenate([stem, new], -1)
    expected = nn.relu(joined / np.sqrt(1 + 1e-5))
    np.testing.assert_allclose(seen["final_norm"]["__call__"][0], expected, rtol=1e-5, atol=1e-6)


def test_dropout_acts_in_training_only():
    model = DenseNet(blocks=(2,), growth_rate=4, drop_rate=0.5, ops="stock")
    images = _random((2, 8, 8, 3))
    variables = init(model, images)

    @jax.jit
    def train(seed):
        rngs = {"dropout": jax.random.key(seed)}
        return model.apply(variables, images, train=True, mutable=["batch_stats"], rngs=rngs)[0]

    assert not np.allclose(train(1), train(2))
    np.testing.assert_array_equal(train(1), train(1))


class _LayerByLayer(DenseNet):
    """Whose blocks are never one operation."""

    def is_fused(self, train):
        return False


def _densenet_gradient(network, remat):
    model = network(blocks=(8,), growth_rate=8, remat=remat, dtype=jnp.float64)
    images, labels = _random((64, 16, 16, 3)), jnp.arange(64) % 10
    variables = init(model, images)

    def loss(params):
        logits, _ = model.apply(
            {**variables, "params": params}, images, train=True, mutable=["batch_stats"]
        )
        return metrics.cross_entropy(logits, labels).mean()

    compiled = jax.jit(jax.grad(loss)).lower(variables["params"]).compile(compiler_options())
    return compiled(variables["params"]), compiled.memory_analysis().temp_size_in_bytes


@pytest.mark.slow
def test_a_recomputed_densenet_gives_the_same_gradients_with_less_memory():
    """Layer by layer; a block that is one operation needs less still, with or without."""
    with jax.enable_x64(True):
        plain, plain_bytes = _densenet_gradient(_LayerByLayer, False)
        efficient, efficient_bytes = _densenet_gradient(_LayerByLayer, True)
        as_one, least_bytes = _densenet_gradient(DenseNet, True)
    assert jax.tree.structure(plain) == jax.tree.structure(efficient)
    for a, b, c in zip(*map(jax.tree.leaves, (plain, efficient, as_one)), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-6)
        np.testing.assert_allclose(a, c, rtol=2e-4, atol=1e-6)
    assert efficient_bytes < 0.8 * plain_bytes
    assert least_bytes < efficient_bytes


@pytest.mark.parametrize(
    ("groups", "shape", "fan_out"), [(1, (3, 3, 16, 64), 9 * 64), (64, (3, 3, 1, 64), 9)]
)
def test_initial_kernels_have_variance_two_over_fan_out(groups, shape, fan_out):
    kernels = layers.he_fan_out(groups)(jax.random.key(0), shape)
    assert np.var(kernels) == pytest.approx(2 / fan_out, rel=0.15)


def test_each_family_has_a_small_network():
    assert set(FAMILIES) <= set(SMALL)
