"""The speedrun network: whitening by the training images, initial values, norms; and its runs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import init, random_dataset, random_images, small_settings
from test_loop import StopAt, _assert_same_run, _config, _final_arrays

from jaxcnn.data import Dataset
from jaxcnn.errors import UserError
from jaxcnn.evaluate import run_plots
from jaxcnn.evaluate.run import Run
from jaxcnn.exchange import exporting, subject
from jaxcnn.exchange import weights as weights_file
from jaxcnn.exchange.network import describe
from jaxcnn.models import layers, pretrained, speedrun, whitening
from jaxcnn.ops.pixels import PixelStats
from jaxcnn.runtime.sharding import data_mesh
from jaxcnn.runtime.signals import Interrupted
from jaxcnn.train import fit, optim
from jaxcnn.train.programs import Programs

ONE_GROUP = speedrun.Speedrun(widths=(8,), ops="stock")
STATS = PixelStats((0.4, 0.5, 0.6), (0.25, 0.2, 0.3))


def _photographs(count, size=16, seed=0):
    """Noise whose neighbours are alike, as those of photographs are; uint8."""
    rng = np.random.default_rng(seed)
    images = rng.normal(size=(count, size + 2, size + 2, 3)).cumsum(1).cumsum(2)[:, 2:, 2:]
    images += images.mean(-1, keepdims=True)
    return (128 + 30 * images / images.std()).clip(0, 255).astype(np.uint8)


def _filtered(images, kernel, stats=STATS):
    """Each patch's values, float64 `[patches, filters]`, by the convolution."""
    with jax.enable_x64(True):
        x = np.asarray(images / 255 - np.array(stats.mean)) / np.array(stats.std)
        y = jax.lax.conv_general_dilated(
            x, kernel.astype(np.float64), (1, 1), "VALID",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )  # fmt: skip
        return np.asarray(y).reshape(-1, y.shape[-1])


def test_whitened_patches_have_covariance_1():
    images = _photographs(40)
    kernel = whitening.kernel_of(images, STATS)
    assert kernel.shape == (2, 2, 3, 24) and kernel.dtype == np.float32
    y = _filtered(images, kernel)
    np.testing.assert_allclose(y[:, 12:], -y[:, :12])
    covariance = y[:, :12].T @ y[:, :12] / len(y)
    # An eigenvalue v becomes v / (v + epsilon), which is 1 for all but the weakest patterns.
    x = _filtered(images, np.eye(12).reshape(2, 2, 3, 12))
    values = np.linalg.eigvalsh(x.T @ x / len(x))[::-1]
    expected = np.diag(values / (values + whitening.EPSILON))
    np.testing.assert_allclose(covariance, expected, atol=1e-5)
    assert covariance[0, 0] > 0.999


def test_the_whitening_kernel_is_the_same_however_its_sums_are_cut(monkeypatch):
    images = _photographs(40)
    once = whitening.kernel_of(images, STATS)
    monkeypatch.setattr(whitening, "_ROWS", 300)
    assert whitening.kernel_of(images, STATS).tobytes() == once.tobytes()
    assert whitening.kernel_of(images[::-1], STATS).tobytes() == once.tobytes()
    largest = np.take_along_axis(f := once.reshape(12, 24), np.abs(f).argmax(0)[None], 0)[0]
    assert (largest[:12] > 0).all() and (largest[12:] < 0).all()


def test_patterns_that_do_not_occur_give_way_to_those_that_do():
    grey = _photographs(40)[..., :1].repeat(3, -1)
    alike = PixelStats((0.5,) * 3, (0.25,) * 3)
    kernel = whitening.kernel_of(grey, alike).reshape(12, 24)
    # Of grey patches of 2x2 pixels there are four patterns.
    np.testing.assert_array_equal(kernel[:, :12], np.tile(kernel[:, :4], 3))
    assert np.linalg.matrix_rank(kernel) == 4
    y = _filtered(grey, kernel.reshape(2, 2, 3, 24), alike)
    assert (y.std(0) > 0.1).all()


def test_images_of_one_color_have_a_finite_kernel():
    images = np.full((3, 9, 9, 3), 200, np.uint8)
    assert np.isfinite(whitening.kernel_of(images, PixelStats((0.78,) * 3, (1.0,) * 3))).all()


def test_the_first_images_of_the_training_split_decide_the_kernel(monkeypatch):
    monkeypatch.setattr(whitening, "IMAGES", 6)
    images = random_images(10)
    found = ONE_GROUP.data_statistics(images, STATS)
    assert list(found) == ["whitening/kernel"]
    expected = whitening.kernel_of(images[:6], STATS)
    np.testing.assert_array_equal(found["whitening/kernel"], expected)


@pytest.mark.parametrize("channels", [5, 12])
def test_a_kernel_begins_as_the_identity_of_its_first_channels(channels):
    conv = speedrun.DiracConv(8, 3, 1, "SAME", 1, False, jnp.float32, "stock")
    x = jax.random.normal(jax.random.key(0), (2, 6, 6, channels))
    y, variables = jax.jit(conv.init_with_output)(jax.random.key(1), x)
    passed = min(channels, 8)
    np.testing.assert_array_equal(y[..., :passed], x[..., :passed])
    others = np.asarray(variables["params"]["kernel"])[..., passed:]
    if others.size:
        bound = (9 * channels) ** -0.5
        assert 0.9 * bound < np.abs(others).max() <= bound
        assert np.std(others) == pytest.approx(bound / 3**0.5, rel=0.1)


def test_the_classifier_has_deviation_1_and_logits_are_divided_by_its_features():
    model, images = ONE_GROUP, random_images(3).astype(np.float32) / 255
    variables = init(model, images)
    (kernel,) = variables["params"]["classifier"].values()
    assert np.std(np.asarray(kernel), ddof=1) == pytest.approx(1)
    apply = jax.jit(lambda v: model.apply(v, images, train=False, capture_intermediates=True))
    logits, state = apply(variables)
    (dense,) = state["intermediates"]["classifier"]["__call__"]
    np.testing.assert_allclose(logits, dense / 8, rtol=1e-6)


def test_a_norm_without_scale_is_one_whose_scale_is_1():
    x = jax.random.normal(jax.random.key(0), (8, 3, 3, 4))
    bias, running = {"bias": np.arange(4.0)}, {"mean": np.ones(4), "var": np.full(4, 2.0)}
    ones = {"params": {"scale": np.ones(4), **bias}, "batch_stats": running}
    without = {"params": bias, "batch_stats": running}

    @jax.jit
    def applied():
        return [
            layers.BatchNorm(jnp.float32, ops=ops, use_scale="scale" in v["params"]).apply(
                v, x, train=train, mutable=["batch_stats"]
            )
            for v in (without, ones)
            for ops in ("stock", "fast")
            for train in (False, True)
        ]

    found = applied()
    jax.tree.map(np.testing.assert_array_equal, found[:4], found[4:])


@pytest.mark.parametrize(("height", "width", "channels"), [(28, 28, 1), (33, 47, 1), (64, 64, 3)])
def test_other_images_take_the_same_layers(height, width, channels):
    model, images = speedrun.Speedrun((64, 256, 256)), jnp.zeros((1, height, width, channels))
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))
    assert shapes["params"]["group1"]["conv1"]["kernel"].shape == (3, 3, 8 * channels, 64)
    assert shapes["params"]["classifier"]["kernel"].shape == (256, 10)


@pytest.mark.slow
def test_fast_and_stock_operations_give_the_same_step():
    images = random_images(8).astype(np.float32) / 64 - 2
    variables = init(ONE_GROUP, images)

    def gradient(ops):
        model = ONE_GROUP.clone(ops=ops)

        def loss(params):
            logits, new = model.apply(
                {**variables, "params": params}, images, train=True, mutable=["batch_stats"]
            )
            return jnp.sum(logits**2), new

        return jax.jit(jax.grad(loss, has_aux=True))(variables["params"])

    for a, b in zip(*map(jax.tree.leaves, (gradient("fast"), gradient("stock"))), strict=True):
        scale = np.abs(b).max()
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-3 * scale)


@pytest.fixture(scope="module")
def photographs() -> Dataset:
    """A data set whose patches are not white."""
    noise = random_dataset()
    train = noise.train._replace(images=_photographs(48))
    return noise._replace(train=train)


def test_steps_keep_the_whitening_kernel_to_the_bit(photographs):
    settings = small_settings(photographs, batch_size=12, grad_accum_steps=3, ema_decay=0.9)
    programs = Programs(settings, ONE_GROUP, optim.constant_sgd(0.1), photographs, data_mesh())
    state = programs.init()
    expected = whitening.kernel_of(photographs.train.images, settings.pixel_stats).tobytes()
    before = np.asarray(state.params["whitening"]["bias"])
    for call in programs.calls(np.arange(24, dtype=np.int32).reshape(2, 12)):
        state = programs.train(state, call)
    assert int(state.step) == 2
    for statistics in (state.batch_stats, state.ema["batch_stats"]):
        assert np.asarray(statistics["whitening"]["kernel"]).tobytes() == expected
        assert not np.array_equal(statistics["group1"]["norm1"]["mean"], np.zeros(8))
    assert not np.array_equal(state.params["whitening"]["bias"], before)


@pytest.fixture(scope="module")
def quick_to_compile():
    """Makes speedrun a network of one group with stock operations."""
    small = speedrun.Speedrun, {"widths": (8,), "ops": "stock"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(speedrun.VARIANTS, "speedrun", small)
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory, photographs, quick_to_compile):
    """A run of two epochs of 3 steps."""
    folder = tmp_path_factory.mktemp("speedrun") / "run"
    fit.fit(_speedrun(), photographs, folder)
    return folder


def _speedrun(**changes):
    config = _config(model__name="speedrun", model__bn_momentum=0.6, train__epochs=2, **changes)
    config.optim.peak_lr = 0.1
    return config


def test_a_run_that_is_continued_has_the_same_bytes_and_asks_no_image_again(
    finished, photographs, tmp_path, monkeypatch
):
    with pytest.raises(Interrupted):
        fit.fit(_speedrun(), photographs, tmp_path / "run", StopAt(4))
    monkeypatch.setattr(whitening, "kernel_of", lambda *_: pytest.fail("computed again"))
    fit.fit(_speedrun(), photographs, tmp_path / "run")
    _assert_same_run(finished, tmp_path / "run")


@pytest.mark.slow
@pytest.mark.ci
def test_whatever_reads_a_run_has_its_whitening_kernel(finished, tmp_path):
    run = Run(finished)
    path = "batch_stats/whitening/kernel"
    kernel = _final_arrays(finished)[path]
    step, variables = run.trained
    file = tmp_path / "weights.safetensors"
    weights_file.write(
        file, weights_file.as_float16(variables), weights_file.card(run, "weights", step)
    )
    loaded = pretrained.load_pretrained(str(file))
    np.testing.assert_array_equal(loaded.variables["batch_stats"]["whitening"]["kernel"], kernel)
    of_run = subject.of_run(run, lambda _: None)
    images = random_images(5)
    logits = of_run.logits(images)
    assert np.isfinite(logits).all()
    found = jax.nn.softmax(logits)
    np.testing.assert_allclose(loaded.predict(images), found, atol=0.01)  # parameters of 16 bits
    exporting.export_weights(of_run, "safetensors", tmp_path / "net.safetensors")
    # A run that begins with these weights has their kernel, not that of its own images.
    other = random_dataset()
    fit.fit(_speedrun(train__init_from=str(finished)), other, tmp_path / "run")
    assert _final_arrays(tmp_path / "run")[path].tobytes() == kernel.tobytes()


@pytest.mark.parametrize("is_residual", [False, True])
def test_an_onnx_file_computes_the_same(finished, tmp_path, is_residual):
    pytest.importorskip("onnxruntime")
    of_run = subject.of_run(Run(finished), lambda _: None)
    if is_residual:
        module = of_run.network.module.clone(is_residual=True)
        network = describe("speedrun", module, (16, 16, 3))
        rng = np.random.default_rng(0)
        arrays = {
            path: rng.uniform(0.5, 1, shape).astype(np.float32)
            for path, shape in network.shapes.items()
        }
        of_run = of_run._replace(network=network, arrays=arrays)
    found = exporting.export_program(of_run, "onnx", tmp_path / "net.onnx", random_images(5))
    assert found.difference < 1e-5


def test_a_state_dict_has_no_names_for_it(finished, tmp_path):
    of_run = subject.of_run(Run(finished), lambda _: None)
    with pytest.raises(UserError, match="no known PyTorch code has speedrun"):
        exporting.export_weights(of_run, "torch", tmp_path / "net.pt")
    assert not list(tmp_path.iterdir())


def test_the_filters_that_are_drawn_are_those_of_the_whitening_layer(finished):
    variables = Run(finished).trained[1]
    first = run_plots._first_kernel(variables)
    np.testing.assert_array_equal(first, variables["batch_stats"]["whitening"]["kernel"])
