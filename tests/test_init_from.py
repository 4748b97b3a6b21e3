"""Trainings that begin with trained weights: what they take, continue to, and refuse."""

import json
import shutil

import jax
import numpy as np
import pytest
from conftest import random_dataset
from flax import traverse_util
from test_loop import StopAt, _assert_same_run, _config

from jaxcnn import models
from jaxcnn.data import Split
from jaxcnn.errors import UserError
from jaxcnn.evaluate import weights as weights_of
from jaxcnn.evaluate.run import Run
from jaxcnn.exchange import weights
from jaxcnn.models import lenet, pretrained, resnet, safetensors
from jaxcnn.run.folder import RunDir
from jaxcnn.run.observers import WarningKeeper
from jaxcnn.runtime.signals import Interrupted
from jaxcnn.study import lr_range
from jaxcnn.train import fit, initial, plan, start
from jaxcnn.train.capacity import compile_programs


@pytest.fixture(scope="module", autouse=True)
def quick_to_compile():
    """Makes resnet20 a network of one block; both have stock operations."""
    with pytest.MonkeyPatch.context() as patch:
        small = {"blocks": (1,), "widths": (8,), "ops": "stock"}
        patch.setitem(resnet.VARIANTS, "resnet20", (resnet.ResNet, small))
        patch.setitem(lenet.VARIANTS, "lenet", (lenet.LeNet, {"ops": "stock"}))
        yield


def _dataset(classes=10, **changes):
    """Noise; with fewer classes than 10, the labels are those modulo their number."""
    noise = random_dataset(**changes)
    splits = [Split(split.images, split.labels % classes) for split in noise[:2]]
    return noise._replace(
        train=splits[0], eval=splits[1], class_names=tuple("abcdefghij"[:classes])
    )


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A run of two epochs on noise."""
    folder = tmp_path_factory.mktemp("source") / "run"
    fit.fit(_config(train__epochs=2), _dataset(), folder)
    return folder


@pytest.fixture(scope="module")
def source_file(source):
    """The weights of that run in 16 bits, with a card."""
    path = source.parent / "weights.safetensors"
    run = Run(source)
    step, variables = run.trained
    weights.write(path, weights.as_float16(variables), weights.card(run, "weights", step))
    return path


def _of(source):
    """The variables of a run by their paths."""
    return traverse_util.flatten_dict(Run(source).trained[1], sep="/")


def _flat(**trees):
    return traverse_util.flatten_dict(jax.device_get(trees), sep="/")


def _assert_equal(found, expected):
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].tobytes() == array.tobytes(), name


@pytest.fixture(scope="module")
def begun(source):
    """Weights, lines said of them, and programs of a run with other classes that begins so."""
    options = {"optim__lookahead_steps": 2, "train__ema_decay": 0.9}
    config, said = _config(train__init_from=str(source), **options), []
    settings, mesh, _ = fit.prepare(config, _dataset(4))
    loaded = initial.load(settings, said.append)
    return loaded, said, compile_programs(settings, _dataset(4), mesh)


def test_the_state_holds_the_weights_wherever_parameters_are_and_a_new_head(source, begun):
    loaded, said, programs = begun
    assert said == [
        f"begins with the weights of the run {source}, {len(loaded.arrays)} arrays; "
        "the head is new, 4 classes in place of 10"
    ]
    state, fresh = initial.state(programs, loaded), programs.init()
    own = {k: v for k, v in _flat(params=fresh.params).items() if "classifier" in k}
    expected = {**_of(source), **own}
    assert len(own) == 2
    _assert_equal(_flat(params=state.params, batch_stats=state.batch_stats), expected)
    _assert_equal(_flat(**state.ema), expected)
    # All else is as at any beginning; what the optimizer remembers of parameters is these.
    other = jax.device_get(programs.optimizer.tx.init(state.params))
    for one, two in zip(*map(jax.tree.leaves, (state.opt_state, other)), strict=True):
        np.testing.assert_array_equal(one, two)
    assert int(state.step) == 0
    # The step takes over the memory of its state: nothing else may lie there.
    (call,) = programs.calls(np.arange(16, dtype=np.int32)[None])
    assert int(programs.train(state, call).step) == 1
    again = initial.state(programs, loaded)
    _assert_equal(_flat(params=again.params, batch_stats=again.batch_stats), expected)


def test_a_head_of_the_same_number_of_classes_is_kept(source):
    settings, _, _ = fit.prepare(_config(train__init_from=str(source)), _dataset())
    loaded = initial.load(settings)
    assert loaded.head == "kept"
    _assert_equal(loaded.arrays, _of(source))


def test_a_file_gives_the_same_weights_up_to_its_16_bits(source, source_file):
    settings, _, _ = fit.prepare(_config(train__init_from=str(source_file)), _dataset())
    for name, array in initial.load(settings).arrays.items():
        np.testing.assert_allclose(array, _of(source)[name], rtol=2**-11, atol=2**-24)


def test_a_file_without_a_card_and_a_name_of_the_package_are_taken(
    source, source_file, tmp_path, monkeypatch
):
    arrays = safetensors.read(source_file).arrays
    safetensors.write(tmp_path / "bare.safetensors", arrays)
    bare = weights_of.read(str(tmp_path / "bare.safetensors"))
    assert (bare.kind, bare.network) == ("the file", None)
    monkeypatch.setattr(pretrained, "WEIGHTS", source_file.parent)
    named = weights_of.read("weights")
    assert (named.kind, named.network) == ("the package's", "resnet20")
    assert named.image_shape == (16, 16, 3)
    assert named.fingerprint == "noise" and named.train_split == "train"
    assert initial._digest(bare.arrays) == initial._digest(named.arrays)


def test_a_continued_run_ends_in_the_same_bytes_without_its_source(source, tmp_path):
    given = tmp_path / "given"
    shutil.copytree(source, given)
    changes = {"train__epochs": 2, "train__init_from": str(given)}
    fit.fit(_config(**changes), _dataset(), tmp_path / "whole")
    with pytest.raises(Interrupted):
        fit.fit(_config(**changes), _dataset(), tmp_path / "cut", StopAt(2))
    shutil.rmtree(given)
    fit.fit(_config(**changes), _dataset(), tmp_path / "cut")
    _assert_same_run(tmp_path / "whole", tmp_path / "cut")
    starts = json.loads((tmp_path / "cut" / "environment.json").read_text())["starts"]
    noted = starts[0]["init_from"]
    assert (
        noted
        == json.loads((tmp_path / "whole" / "environment.json").read_text())["starts"][0][
            "init_from"
        ]
    )
    assert noted["source"] == f"the run {given}" and len(noted["sha256"]) == 64
    assert noted["head"] == "kept" and noted["data"] == "noise"
    assert "init_from" not in starts[1]
    # Which weights they were matters: the run belongs to this value.
    with pytest.raises(UserError, match="train.init_from was .*given.*, is ''"):
        fit.fit(_config(train__epochs=2), _dataset(), tmp_path / "cut")


def test_a_source_that_changes_before_anything_was_saved_is_refused(source_file, tmp_path):
    path = tmp_path / "weights.safetensors"
    shutil.copy(source_file, path)
    settings, _, _ = fit.prepare(_config(train__init_from=str(path)), _dataset())
    run = RunDir(tmp_path / "run")
    before = initial.of_run(settings, run, print)
    with start.noted(run, settings, WarningKeeper(), before):
        pass
    assert initial.of_run(settings, run, print).sha256 == before.sha256
    arrays, metadata = safetensors.read(path)
    changed = {**arrays, "params/classifier/bias": arrays["params/classifier/bias"] + 1}
    safetensors.write(path, changed, metadata)
    with pytest.raises(UserError, match="has changed since .* was begun .*: put it back, or"):
        initial.of_run(settings, run, print)


def test_a_range_test_begins_with_the_weights(source, begun, monkeypatch):
    states = []
    monkeypatch.setattr(lr_range, "compile_programs", lambda *_: begun[2])
    monkeypatch.setattr(
        lr_range, "_losses", lambda _, state, steps, say: states.append(state) or np.ones(steps)
    )
    lr_range.run(_config(train__init_from=str(source)), _dataset(4), low=0.1, high=1.0, steps=20)
    (state,) = states
    found = _flat(params=state.params)
    expected = {name: array for name, array in _of(source).items() if name in begun[0].arrays}
    _assert_equal(
        {name: found[name] for name in found if name in expected},
        {name: array for name, array in expected.items() if name.startswith("params/")},
    )


def test_a_dry_run_checks_the_weights_and_writes_nothing(source, tmp_path):
    config = _config(train__init_from=str(tmp_path / "none.safetensors"))
    with pytest.raises(UserError, match="train.init_from: cannot read"):
        plan.dry_run(config, _dataset(), tmp_path / "run", StopAt(None))
    assert list(tmp_path.iterdir()) == []


def _refusal(init_from, dataset, tmp_path, **changes):
    """Returns the line with which a training is refused before it writes anything."""
    config = _config(train__init_from=str(init_from), **changes)
    with pytest.raises(UserError) as error:
        fit.fit(config, dataset, tmp_path / "new")
    assert not (tmp_path / "new").exists() and "\n" not in str(error.value)
    return str(error.value)


def test_what_is_no_source_is_refused_with_what_is(tmp_path):
    line = _refusal("lenett", _dataset(), tmp_path)
    assert line.startswith(
        "train.init_from: 'lenett' is neither the name of weights that come with"
    )
    (tmp_path / "empty").mkdir()
    assert "is no run folder" in _refusal(tmp_path / "empty", _dataset(), tmp_path)


def test_damaged_sources_are_refused(source, source_file, tmp_path):
    path = tmp_path / "cut.safetensors"
    path.write_bytes(source_file.read_bytes()[:-1])
    assert "damaged or no safetensors file" in _refusal(path, _dataset(), tmp_path)
    safetensors.write(path, safetensors.read(source_file).arrays, {"card": '{"network": 1}'})
    assert "is not one that this version reads" in _refusal(path, _dataset(), tmp_path)
    folder = tmp_path / "damaged"
    shutil.copytree(source, folder)
    newest = max((folder / "checkpoints").iterdir(), key=lambda path: int(path.name))
    (newest / "manifest.json").write_text("{}")
    line = _refusal(folder, _dataset(), tmp_path)
    assert "is damaged" in line and "restore it" in line


def test_numbers_that_are_not_finite_are_refused(source_file, tmp_path):
    arrays = dict(safetensors.read(source_file).arrays)
    arrays["params/classifier/bias"] = np.full(10, np.nan, np.float16)
    safetensors.write(tmp_path / "nan.safetensors", arrays)
    line = _refusal(tmp_path / "nan.safetensors", _dataset(), tmp_path)
    assert "not finite, in params/classifier/bias" in line


def test_another_network_is_refused_with_the_arrays_that_do_not_fit(source, tmp_path):
    line = _refusal(source, _dataset(), tmp_path, model__name="lenet")
    assert "is of resnet20, not of lenet (params/" in line and "is missing" in line


def test_another_option_of_the_network_is_refused_with_the_arrays(source, tmp_path, monkeypatch):
    wide = {"blocks": (1,), "widths": (16,), "ops": "stock"}
    monkeypatch.setitem(resnet.VARIANTS, "resnet20", (resnet.ResNet, wide))
    line = _refusal(source, _dataset(), tmp_path)
    assert "norm1/mean is [8] in place of [16], " in line and "with the same options" in line


def test_images_of_other_channels_or_a_size_that_does_not_fit_are_refused(source, tmp_path):
    noise = _dataset()
    grey = [Split(split.images[..., :1], split.labels) for split in noise[:2]]
    line = _refusal(source, noise._replace(train=grey[0], eval=grey[1]), tmp_path)
    assert "takes images of 3 channels, those of noise have 1" in line
    # A network that takes the mean over all positions fits any size, LeNet one.
    settings, _, _ = fit.prepare(_config(train__init_from=str(source)), _dataset(size=20))
    assert initial.load(settings).head == "kept"
    shapes = pretrained.shapes(models.create("lenet"), (16, 16, 3))
    card = weights.card(Run(source), "lenet", 3)
    card["network"]["name"] = "lenet"
    path = tmp_path / "lenet.safetensors"
    weights.write(path, {name: np.zeros(shape) for name, shape in shapes.items()}, card)
    line = _refusal(path, _dataset(size=20), tmp_path, model__name="lenet")
    assert "takes images of 16 x 16 pixels, those of noise have 20 x 20" in line
    assert "params/dense1/kernel is [16, 120] in place of [64, 120]" in line


def test_weights_that_may_know_the_evaluated_images_are_named(source):
    def said(train_split, eval_split):
        changes = {"dataset__train_split": train_split, "dataset__eval_split": eval_split}
        config = _config(train__init_from=str(source), **changes)
        settings, _, _ = fit.prepare(config, _dataset())
        lines = []
        initial.load(settings, lines.append)
        return " ".join(lines)

    assert "warning: the weights" in said("train[:90%]", "train[90%:]")
    assert "warning" not in said("train[:90%]", "test")
