"""Configurations of older versions: read, recognized, continued."""

import copy
import json
from pathlib import Path

import pytest
from absl import flags

from jaxcnn.commands import config_flag
from jaxcnn.config import compat, schema
from jaxcnn.config.settings import Settings

# config.json as a version without any of today's renamed keys wrote it, and what the manifests of
# that run's checkpoints carry.
OLD = json.loads((Path(__file__).parent / "data" / "old_config.json").read_text())
OLD_FINGERPRINT = "56e73af4de6c174bcee7f68b75945d35786dc94c72cf75de69e2429055af5b54"


def _changed(config, key, value):
    """Returns `config` with one dotted key at another value."""
    result = copy.deepcopy(config)
    section, name = key.split(".")
    result[section][name] = value
    return result


def test_an_old_configuration_is_read_under_todays_names():
    assert "accumulate" in OLD["train"] and "log_steps" in OLD["train"]
    settings = Settings.from_json(_changed(OLD, "train.accumulate", 4))
    assert settings.train.grad_accum_steps == 4
    assert settings.train.log_every_steps == OLD["train"]["log_steps"]
    assert settings.optim.milestones == (0.5, 0.75)
    written = settings.to_json()
    assert "accumulate" not in written["train"]
    assert Settings.from_json(json.loads(json.dumps(written))) == settings


def test_the_fingerprint_is_what_old_checkpoints_carry():
    assert compat.fingerprint(OLD) == OLD_FINGERPRINT
    assert compat.fingerprint(Settings.from_json(OLD).to_json()) == OLD_FINGERPRINT
    assert compat.fingerprint(_changed(OLD, "train.accumulate", 2)) != OLD_FINGERPRINT
    assert compat.fingerprint(_changed(OLD, "train.log_steps", 2)) == OLD_FINGERPRINT


def test_an_old_run_is_continued_by_the_same_settings_alone():
    today = Settings.from_json(OLD).to_json()
    assert compat.refusals(OLD, today) == []
    assert compat.refusals(OLD, _changed(today, "train.log_every_steps", 1)) == []
    assert compat.refusals(OLD, _changed(today, "train.grad_accum_steps", 2)) == [
        "train.grad_accum_steps was 1, is 2"
    ]


def test_a_key_that_is_added_later_has_the_value_that_was_in_force_before(monkeypatch):
    monkeypatch.setitem(compat.ADDED, "augment.mixup", 0.0)
    without, with_it = (_changed(OLD, "augment.mixup", value) for value in (0.0, 0.2))
    assert compat.upgrade(OLD)["augment"]["mixup"] == 0.0
    assert compat.fingerprint(OLD) == compat.fingerprint(without) == OLD_FINGERPRINT
    assert compat.fingerprint(with_it) != OLD_FINGERPRINT
    assert compat.refusals(OLD, without) == []
    assert compat.refusals(OLD, with_it) == ["augment.mixup was 0.0, is 0.2"]
    assert compat.upgrade(with_it)["augment"]["mixup"] == 0.2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tree: tree["dataset"].pop("mean"), "dataset.mean is missing"),
        (lambda tree: tree["optim"].pop("peak_lr"), "optim.peak_lr is missing"),
        (lambda tree: tree.pop("seed"), "seed is missing"),
        (lambda tree: tree.pop("train"), "train.* is missing"),
        (lambda tree: tree["train"].update(speed=2), "train.speed is unknown"),
        (lambda tree: tree.update(other=2), "other"),
    ],
)
def test_what_no_version_writes_is_named(change, message):
    tree = copy.deepcopy(OLD)
    change(tree)
    with pytest.raises(ValueError, match=message):
        Settings.from_json(tree)


@pytest.mark.parametrize(("old", "current"), compat.RENAMED.items())
def test_a_configuration_file_may_use_an_old_name_and_is_warned(old, current, caplog):
    config = schema.default_config()
    section, name = old.split(".")
    setattr(config[section], name, 7)
    said = {(r.name, r.levelname, r.getMessage()) for r in caplog.records}
    assert said == {("jaxcnn.config.schema", "WARNING", f"{old} is now called {current}")}
    assert config[section][current.split(".")[1]] == 7
    schema.validate(config)


# ml_collections executes configuration files so.
@pytest.mark.filterwarnings(r"ignore:the load_module\(\) method:DeprecationWarning")
@pytest.mark.parametrize("flag", ["--config.train.accumulate", "--train.accumulate"])
@pytest.mark.parametrize("value", [["=4"], ["", "4"]])
def test_a_command_line_may_use_an_old_name_and_is_told_the_current_one(flag, value, capsys):
    arguments = ["--config=lenet:digits", flag + value[0], *value[1:]]
    parsed = config_flag.parse(arguments, flags.FlagValues())
    assert parsed.config.train.grad_accum_steps == 4
    current = flag.replace("accumulate", "grad_accum_steps")
    assert capsys.readouterr().err == f"note: {flag} is now called {current}\n"
