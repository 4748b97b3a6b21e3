"""Configurations: every file loads, every mistake is named."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from jaxcnn import models
from jaxcnn.config import compat, schema
from jaxcnn.config.settings import Settings
from jaxcnn.data import Split
from jaxcnn.errors import UserError

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.py"))


def _load(path, *dataset):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(*dataset)


def test_there_is_a_configuration_for_each_family():
    names = {path.stem: _load(path).model.name for path in CONFIGS}
    assert names == {
        "lenet": "lenet",
        "resnet": "resnet18",
        "densenet": "densenet_bc100_k12",
        "mobilenet": "mobilenet",
        "speedrun": "speedrun",
    }


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
@pytest.mark.parametrize("dataset", ["cifar10", "digits", "mnist"])
def test_every_configuration_is_valid_on_every_data_set(path, dataset):
    loaded = _load(path, dataset)
    schema.validate(loaded)
    assert loaded.dataset.name == dataset
    assert loaded.augment.flip is None  # the data set decides
    assert schema.is_mirrored(dataset) == (dataset == "cifar10")
    models.create(loaded.model.name)


def test_a_typo_fails_and_names_the_right_key():
    loaded = schema.default_config()
    with pytest.raises(AttributeError, match='Did you mean "peak_lr"'):
        loaded.optim.peak_rl = 0.1


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("train", "epochs", 0),
        ("train", "label_smoothing", 1.0),
        ("optim", "peak_lr", 0.0),
        ("optim", "peak_lr", float("nan")),
        ("optim", "momentum", -0.1),
        ("optim", "schedule", "exponential"),
        ("optim", "milestones", (0.75, 0.5)),
        ("optim", "milestones", ("a",)),
        ("optim", "peak_at", 1.0),
        ("optim", "weight_decay_head", -1.0),
        ("augment", "crop_mode", "mirror"),
        ("augment", "brightness", 1.5),
        ("augment", "randaugment", (2,)),
        ("augment", "randaugment", (2, 11)),
        ("augment", "randaugment", (True, 9)),
        ("model", "dtype", "float16"),
        ("model", "width", -1.0),
        ("dataset", "train_split", ""),
    ],
)
def test_a_value_out_of_range_is_named_with_what_is_allowed(section, key, value):
    changed = schema.default_config()
    changed[section][key] = value
    with pytest.raises(UserError) as raised:
        schema.validate(changed)
    message = str(raised.value)
    assert message.startswith(f"{section}.{key}={value!r} is not allowed")
    assert schema.describe(f"{section}.{key}") in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("name", "given", "images", "expected"),
    [
        ("mobilenet", None, 9_999, False),
        ("mobilenet", None, 10_000, True),
        ("mobilenet", False, 10_000, False),
        ("densenet40_k12", None, 10_000, False),
        ("densenet40_k12", True, 1, True),
    ],
)
def test_onednn_is_for_trainings_that_are_longer_than_a_start(
    dataset, name, given, images, expected
):
    changed = schema.default_config()
    changed.model.name, changed.train.onednn = name, given
    size = dataset.train.images.shape[1:]
    train = Split(np.zeros((images, *size), np.uint8), np.zeros(images, np.int32))
    settings = Settings.resolve(changed, dataset._replace(train=train))
    assert settings.train.onednn is expected
    assert settings.to_json()["train"]["onednn"] is expected


def test_a_warmup_longer_than_the_training_is_shortened_and_says_so(dataset, caplog):
    changed = schema.default_config()
    changed.train.epochs = 3
    changed.optim.warmup_epochs = 3.0
    assert Settings.resolve(changed, dataset).optim.warmup_epochs == 3.0 and not caplog.records
    changed.optim.warmup_epochs = 3.5
    # What is kept is what was asked for: with more epochs the run goes on with that warm-up.
    assert Settings.resolve(changed, dataset).optim.warmup_epochs == 3.5
    (record,) = caplog.records
    assert record.getMessage() == (
        "optim.warmup_epochs=3.5 is longer than the training: shortened to 3.0"
    )


def test_a_run_whose_warmup_was_shortened_goes_on_to_more_epochs(dataset):
    changed, contents = schema.default_config(), []
    changed.optim.warmup_epochs = 3.5
    for changed.train.epochs in (1, 5):
        contents.append(Settings.resolve(changed, dataset).to_json())
    assert compat.refusals(*contents) == []
    assert compat.fingerprint(contents[0]) == compat.fingerprint(contents[1])
    # Earlier versions kept the shortened one: which value continues such a run is named.
    contents[0]["optim"]["warmup_epochs"] = 1.0
    assert compat.refusals(*contents) == ["optim.warmup_epochs was 1.0, is 3.5"]


def test_all_values_that_are_not_allowed_are_told_at_once():
    changed = schema.default_config()
    changed.train.epochs, changed.optim.momentum = 0, 2.0
    with pytest.raises(UserError, match="momentum=2.0 is not allowed: .*; train.epochs=0 is not"):
        schema.validate(changed)


def test_a_configuration_made_by_hand_lacks_keys():
    partial = schema.default_config().unlock()
    del partial.train["epochs"]
    partial.train.epoch = 3
    with pytest.raises(UserError, match="train.epoch, train.epochs"):
        schema.validate(partial)


def test_to_dict_has_every_key_and_only_what_json_knows():
    tree = schema.to_dict(schema.default_config())
    assert tree["optim"]["milestones"] == [0.5, 0.75]
    assert tree["model"]["width"] is None
    keys = [f"{s}.{k}" for s, v in tree.items() if isinstance(v, dict) for k in v] + ["seed"]
    assert sorted(keys) == sorted(key for key, _ in schema.walk())
