"""Surroundings that a command meets: warnings, data sets, homes, JAX's switches, sizes."""

import dataclasses
import json
import logging
import os
import pwd
import subprocess
import sys
import tempfile
import types
from pathlib import Path

import data_helpers
import jax
import numpy as np
import pytest
from absl import flags
from conftest import random_dataset, small_settings

from jaxcnn import cli, plots
from jaxcnn.commands import config_flag, doctor
from jaxcnn.commands import prepare as prepare_command
from jaxcnn.config import schema
from jaxcnn.config.settings import Settings
from jaxcnn.data import cache
from jaxcnn.errors import UserError
from jaxcnn.evaluate.run import Run
from jaxcnn.evaluate.run_plots import RunPlots
from jaxcnn.report import facts
from jaxcnn.run.folder import RunDir
from jaxcnn.run.observers import WarningKeeper
from jaxcnn.runtime import compilation_cache, notices, sharding, switches
from jaxcnn.train import limits, plan, start

LENET = "--config=lenet:digits"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_warning_of_ours_is_shown_once_on_one_line_and_kept(capsys):
    ours, root = logging.getLogger("jaxcnn.data.load"), logging.getLogger()
    before, level = logging.getLogger("jaxcnn").propagate, root.level
    root.setLevel(logging.CRITICAL)  # so absl's verbosity mutes all libraries
    try:
        with notices.shown():
            for _ in range(2):
                ours.warning("%d examples\nare in both", 3)
            logging.getLogger("another.library").warning("noise")
            assert notices.kept() == ["3 examples are in both"]
            notices.silence()
            ours.warning("kept alone")
            assert notices.kept()[1:] == ["kept alone"]
    finally:
        root.setLevel(level)
    assert capsys.readouterr().err == "warning: 3 examples are in both\n"
    assert logging.getLogger("jaxcnn").propagate == before and notices.kept() == []


def test_examples_in_both_splits_are_told_by_the_command(command):
    arguments = ("--dataset.eval_split=train[:50]", "--train.batch_size=2000")
    code, _, lines = command("train", LENET, *arguments)
    assert code == 1 and len(lines) == 2
    assert lines[0].startswith("warning: 50 examples of digits are in both splits, 'train' and ")
    assert "2000 is larger than the training split" in lines[1]


def _numbers(epoch, **changes):
    keys = ("learning_rate", "train_loss", "train_accuracy", "eval_loss", "eval_accuracy")
    others = ("seconds", "images_per_second")
    return {"epoch": epoch, "step": epoch, **dict.fromkeys((*keys, *others), 0.5), **changes}


def _unwritable(path, *_):
    raise OSError(13, "Permission denied")


CACHED = {
    "damaged": (lambda patch, file: file.write_bytes(b"no archive"), "decoding again, as "),
    "of other shapes": (
        lambda patch, file: np.savez(file, key=cache._key(file.parents[1]), images=1, labels=1),
        "has other shapes than expected",
    ),
    "unwritable": (
        lambda patch, file: patch.setattr(cache, "_write", _unwritable),
        "(Permission denied): every start decodes them again",
    ),
}


@pytest.mark.parametrize("case", CACHED)
def test_a_cache_of_decoded_images_that_fails_is_told(case, folder, monkeypatch, capsys):
    spoil, expected = CACHED[case]
    file = folder / cache.FOLDER / "train.npz"
    file.parent.mkdir()
    spoil(monkeypatch, file)
    with notices.shown():
        made = cache.read_or_make(folder, "train", 48, lambda: random_dataset().train)
        assert len(made.labels) == 48 and len(notices.kept()) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: ") and expected in line and str(file.parent) in line


def test_warnings_are_in_environment_json_and_in_the_facts_of_the_report(
    folder, dataset, monkeypatch, capsys
):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(plots, "save", full)
    settings, run, keeper = small_settings(dataset), RunDir(folder / "run"), WarningKeeper()
    with notices.shown():
        logging.getLogger("jaxcnn.data").warning("before the run")
        with start.noted(run, settings, keeper):
            run.append_metrics(_numbers(1))
            assert run.starts()[0]["warnings"] == ["before the run"]
            RunPlots(run, settings, keeper.say).curves()
    (only,) = run.starts()
    assert only["warnings"][0] == "before the run" and len(only["warnings"]) == 2
    assert only["warnings"][1].startswith(f"cannot draw {folder / 'run'}/plots/curves.png (No spa")
    assert facts.of_run(Run(folder / "run"))["warnings"] == only["warnings"]
    with notices.shown(), start.noted(run, settings, WarningKeeper()):
        logging.getLogger("jaxcnn.data").warning("in another start")
    assert [one["warnings"] for one in run.starts()] == [only["warnings"], ["in another start"]]
    assert capsys.readouterr().err == "warning: before the run\nwarning: in another start\n"


DATA_SETS = {
    "imagenet2012": "imagenet2012 cannot be used: its images have several sizes",
    "food101": "food101 cannot be used: its images have several sizes",
    "imdb_reviews": "this one has 'text', 'label'",
    "celeb_a": "celeb_a cannot be used: an image-classification data set has the features 'image'",
    "emnist": "emnist is 6 data sets, name one of them, such as emnist/byclass, emnist/bymerge",
    "emnist/letters": "emnist/letters is not prepared in ",
    "fashion_mnist": "run `jaxcnn prepare fashion_mnist --data_dir ",
    "stl10": "stl10 is not prepared in ",
    "emnist/lettres": "unknown data set 'emnist/lettres', did you mean 'emnist/letters'?",
    "MNIST": "unknown data set 'MNIST', did you mean 'mnist'?",
    "cifar-10": "unknown data set 'cifar-10', did you mean 'cifar10'?",
    "CIFAR_100": "unknown data set 'CIFAR_100', did you mean 'cifar100'?",
    "FashionMNIST": "unknown data set 'FashionMNIST', did you mean 'fashion_mnist'?",
    "svhn": "unknown data set 'svhn', did you mean 'svhn_cropped'?",
    "EuroSAT": "unknown data set 'EuroSAT', did you mean 'eurosat'?",
    "Digits": "unknown data set 'Digits', did you mean 'digits'?",
    "../x": "unknown data set '../x': allowed are digits, folder, cifar10",
}


@pytest.mark.parametrize("name", DATA_SETS)
def test_advice_about_a_data_set_works(name, command, folder, monkeypatch):
    (folder / "data").mkdir()
    (folder / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder / "tmp"))
    code, output, lines = command(
        "train", "--config=mobilenet", f"--dataset.name={name}", "--data_dir=data"
    )
    assert (code, output, len(lines)) == (1, "", 1) and DATA_SETS[name] in lines[0], lines
    is_ours = "jaxcnn prepare" in lines[0]
    assert ("python -m venv" in lines[0]) == ("is not prepared" in lines[0] and not is_ours)
    assert list((folder / "data").iterdir()) == list((folder / "tmp").iterdir()) == []


def test_one_flag_names_the_data_directory_in_every_verb(command, folder):
    for given in (["--data_dir=~/x"], ["--data_dir", "~/x"]):
        assert (
            config_flag.parse(
                ["--config=lenet", *given], flags.FlagValues()
            ).config.dataset.data_dir
            == "~/x"
        )
    code, _, lines = command("train", "--config=lenet", "--data_dir=nowhere")
    assert code == 1 and "nowhere does not exist" in lines[0] and "correct --data_dir" in lines[0]
    for verb in ("train", "evaluate", "plot", "compare", "prepare"):
        code, output, _ = command(verb, "--help")
        assert code == 0 and "--data_dir" in output


def _homeless(monkeypatch):
    """Neither HOME nor an entry in the system's list of users, as in a container."""
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)

    def unknown(uid):
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.setattr(pwd, "getpwuid", unknown)


HOMELESS = {
    "data": (["train", "--config=lenet"], "there is no place for data sets: the home directory in"),
    "prepare": (["prepare"], "there is no place for data sets: the home directory in ~/tensorflow"),
    "workdir": (["train", LENET, "--workdir=~/x"], "the home directory in ~/x is not known here"),
    "user": (["train", LENET, "--workdir=~nobody-here/x"], "in ~nobody-here/x is not known here"),
}


@pytest.mark.parametrize("case", HOMELESS)
def test_without_a_home_directory_the_path_is_asked_for(case, command, folder, monkeypatch):
    _homeless(monkeypatch)
    arguments, expected = HOMELESS[case]
    code, output, lines = command(*arguments)
    assert (code, output, len(lines)) == (1, "", 1) and expected in lines[0], lines
    assert not (folder / "~").exists()


@pytest.mark.parametrize("config", ["lenet:digits", "mobilenet"])
def test_doctor_needs_no_home_directory(config, command, folder, monkeypatch):
    _homeless(monkeypatch)
    compared = []
    monkeypatch.setattr(doctor, "_sums", lambda: None)
    monkeypatch.setattr(doctor, "_step", lambda config, dataset, what: compared.append(what))
    code, output, (line,) = command("doctor", config)
    assert code == 0 and "data: digits in the installation; there is no place for data" in output
    assert line.startswith("warning: the outcome cannot be kept in ~/.cache/jaxcnn/doctor.json")
    assert "all is well (not kept" in output and not list(folder.iterdir())
    assert compared == [
        "a batch of digits" if "digits" in config else "noise, as cifar10 is not prepared here"
    ]
    monkeypatch.setattr(doctor, "_sums", lambda: "3.0 instead of 4.0")
    code, output, lines = command("doctor", config)
    assert code == 1 and lines[1].startswith("error: 3.0 instead of 4.0: install another version")


@pytest.mark.parametrize("arguments", [["evaluate", "~no-user/run"], ["plot", "r", "--out=~no/x"]])
def test_a_path_below_an_unknown_home_is_a_usage_mistake(arguments, command):
    code, output, lines = command(*arguments)
    assert (code, output, len(lines)) == (2, "", 1) and "is not known here: write" in lines[0]


def test_workdir_and_other_paths_begin_at_home(command, folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder / "home"))
    used = []
    monkeypatch.setattr(plan, "dry_run", lambda *given: used.append(given[2]))
    for workdir in ("--workdir=~/x", "--workdir=x"):
        assert command("train", LENET, "--dry_run", workdir)[0] == 0
    assert used == [folder / "home" / "x", Path("x")]
    for verb in (["evaluate", "~/run"], ["predict", "~/run", "a.png"], ["compare", "~/run"]):
        code, _, lines = command(*verb)
        assert code == 1 and str(folder / "home" / "run") in lines[0]


CACHES = {
    "nobody's": (_homeless, "there is no home directory for ~/.cache/jaxcnn/xla"),
    "no user's": (
        lambda patch: patch.setenv("JAX_COMPILATION_CACHE_DIR", "~no-user/xla"),
        "there is no home directory for ~no-user/xla",
    ),
    "a file": (lambda patch: patch.setenv("XDG_CACHE_HOME", os.path.abspath("file")), "file"),
    "not ours": (lambda patch: patch.setattr(os, "getuid", lambda: 12345), "belongs to another"),
    "chosen": (
        lambda patch: patch.setenv("JAX_COMPILATION_CACHE_DIR", os.path.abspath("file/xla")),
        "file/xla (Not a directory)",
    ),
}


@pytest.mark.parametrize("case", CACHES)
def test_a_cache_that_cannot_be_used_costs_a_warning_alone(case, folder, monkeypatch, capsys):
    spoil, expected = CACHES[case]
    (folder / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    spoil(monkeypatch)
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    try:
        with notices.shown():
            compilation_cache.use_compilation_cache()
        assert jax.config.jax_compilation_cache_dir is None
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: compiled programs are not kept") and expected in line
    assert "set JAX_COMPILATION_CACHE_DIR" in line and not (folder / "~").exists()


@pytest.mark.parametrize(("name", "value"), [("jax_enable_x64", True), ("jax_disable_jit", True)])
def test_a_switch_of_jax_that_the_program_cannot_follow_is_put_back_with_a_line(
    name, value, capsys
):
    jax.config.update(name, value)
    try:
        with notices.shown():
            switches.put_back()
        assert getattr(jax.config, name) is False
    finally:
        jax.config.update(name, False)
    assert capsys.readouterr().err.startswith(f"warning: {name.upper()} has no effect: ")


PLATFORMS = {"cuda": "no such device", "gpux": "'gpux' is not in the list of known backends"}


@pytest.mark.parametrize(
    ("platform", "verb"), [("cuda", ["train", LENET]), ("gpux", ["layers", "lenet:digits"])]
)
def test_a_platform_that_is_not_there_is_named(platform, verb, tmp_path):
    environment = os.environ | {"JAX_PLATFORMS": platform, "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-m", "jaxcnn", *verb],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1 and done.stdout == "", done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: JAX_PLATFORMS={platform} cannot be used (")
    assert PLATFORMS[platform] in line and not (tmp_path / "runs").exists()


def test_what_jax_debug_nans_finds_is_told_in_one_line(capsys):
    def program():
        raise FloatingPointError("invalid value (nan) encountered in jit(step)\nmore")

    with pytest.raises(SystemExit) as ending:
        cli.end(program)
    text = str(ending.value.code)
    assert "JAX_DEBUG_NANS" in text and "jit(step) more; unset it" in text


LIMITS = {
    "crop": (["--augment.crop_padding=1000"], ["crop_padding=1000 is larger", "at most 32"]),
    "evaluation": (["--train.eval_batch_size=100000"], ["with its 360 images: at most 512"]),
    "epochs": (["--train.epochs=1000000000"], ["more steps than a run can count: at most 97"]),
    "all at once": (
        ["--train.batch_size=3000", "--train.eval_batch_size=4001", "--augment.crop_padding=33"],
        [
            "batch_size=3000 is larger",
            "eval_batch_size=4001 is larger",
            "crop_padding=33 is larger",
        ],
    ),
    "a warm-up of no average": (["--train.ema_warmup"], ["set train.ema_decay too"]),
    "micro-batches": (["--train.grad_accum_steps=3"], ["64 does not divide among 1 devices x 3"]),
}


@pytest.mark.parametrize("case", LIMITS)
def test_settings_that_do_not_go_together_with_the_data_are_told_at_once(case, command, folder):
    arguments, expected = LIMITS[case]
    code, output, lines = command("train", LENET, *arguments)
    assert (code, output, len(lines)) == (1, "", 1)
    assert all(part in lines[0] for part in expected), lines
    assert not (folder / "runs").exists()


def test_both_batch_sizes_that_do_not_divide_are_told(dataset):
    settings = Settings.resolve(schema.default_config(), dataset)
    train = dataclasses.replace(settings.train, batch_size=47, eval_batch_size=20)
    settings = dataclasses.replace(settings, train=train)
    mesh = types.SimpleNamespace(size=3)
    with pytest.raises(UserError, match="batch_size=47 does not .*; train.eval_batch_size=20 do"):
        limits.check(settings, mesh)


def test_the_command_tells_both_batch_sizes_that_three_devices_cannot_share(command, monkeypatch):
    monkeypatch.setattr(sharding, "data_mesh", lambda: types.SimpleNamespace(size=3))
    code, output, lines = command("train", LENET)
    assert (code, output, len(lines)) == (1, "", 1)
    assert "train.batch_size=64 does not divide among 3 devices" in lines[0]
    assert "train.eval_batch_size=512 does not divide among 3 devices" in lines[0]


def test_the_default_evaluation_batch_is_right_for_a_small_split(dataset):
    settings = Settings.resolve(schema.default_config(), dataset)
    train = dataclasses.replace(settings.train, batch_size=48)
    assert train.eval_batch_size > settings.facts.eval_examples
    limits.check(dataclasses.replace(settings, train=train), types.SimpleNamespace(size=1))


@pytest.fixture
def prepared(folder, monkeypatch):
    """A data directory in which CIFAR-10 is prepared, as far as `prepare` can tell."""
    place = folder / "data" / "cifar10" / "3.0.2"
    place.mkdir(parents=True)
    (place / "dataset_info.json").write_text("{}")
    loaded = random_dataset()
    monkeypatch.setattr(prepare_command.data, "load", lambda *_, **__: loaded)
    return place


def test_prepare_says_what_it_does_with_an_archive_that_is_not_needed(
    command, folder, prepared, monkeypatch
):
    source = data_helpers.write_binary(folder, "cifar10")
    packed = data_helpers.pack(source, folder / "a.tar.gz")
    data_helpers.publish_archive(monkeypatch, "cifar10", "binary", packed)
    code, output, lines = command("prepare", "--data_dir=data", "--archive=a.tar.gz")
    assert (code, lines) == (0, []), lines
    assert f"a.tar.gz was checked and not used; to prepare it anew, delete {prepared}" in output
    code, output, lines = command("prepare", "--data_dir=data")
    assert code == 0 and "not used" not in output and f"delete {prepared} first" in output
    (folder / "note.txt").write_text("no archive")
    data_helpers.pack(source, folder / "other.tar", "")
    for given, expected in {
        "b.tar.gz": "cannot read b.tar.gz: No such file or directory",
        "note.txt": "note.txt is truncated or damaged, or no tar archive",
        "other.tar": "other.tar is not the published cifar10: its SHA-256 is ",
        source.name: f"{source.name} is not the published cifar10: these files do not have",
    }.items():
        code, output, lines = command("prepare", "--data_dir=data", f"--archive={given}")
        assert (code, output, len(lines)) == (1, "", 1) and expected in lines[0], lines
        assert f"cifar10 is prepared already in {prepared}, which is used where" in lines[0]
    both = ["--archive=other.tar", "--allow-modified"]
    code, output, lines = command("prepare", "--data_dir=data", *both)
    assert (code, lines) == (0, []) and "other.tar was checked and not used" in output


AWAY = """
import os, pwd, sys

def unknown(uid):
    raise KeyError(f"getpwuid(): uid not found: {uid}")

if os.environ["HOME"] == "none":
    del os.environ["HOME"]
    pwd.getpwuid = unknown
from jaxcnn import cli
cli.main(sys.argv[1:])
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("home", "problem"),
    [
        pytest.param("none", "there is no home directory", marks=pytest.mark.ci),
        ("/dev/null/me", "cannot write to /dev/null/me/.cache"),
    ],
)
def test_a_training_needs_no_home_directory(home, problem, tmp_path):
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("XDG_", "MPL"))}
    done = subprocess.run(
        [sys.executable, "-c", AWAY, "train", LENET, "--train.epochs=1"],
        cwd=tmp_path,
        env=environment | {"HOME": home},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    cache, warm_up = done.stderr.splitlines()
    assert cache.startswith("warning: compiled programs are not kept") and problem in cache
    assert warm_up == (
        "warning: optim.warmup_epochs=2.0 is longer than the training: shortened to 1.0"
    )
    folder = tmp_path / "runs" / "lenet-digits"
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]
    assert json.loads((folder / "config.json").read_text())["optim"]["warmup_epochs"] == 2.0
    (start,) = json.loads((folder / "environment.json").read_text())["starts"]
    assert [f"warning: {text}" for text in start["warnings"]] == [cache, warm_up]
    assert len(list((folder / "plots").iterdir())) == 8


@pytest.mark.parametrize(
    ("name", "hint"),
    [("MNIST", "mnist"), ("cifar-10", "cifar10"), ("FashionMNIST", "fashion_mnist"), ("pets", "")],
)
def test_layers_knows_names_that_nearly_fit(name, hint, command):
    code, output, lines = command("layers", f"lenet:{name}")
    assert (code, output, len(lines)) == (1, "", 1) and "Give it with --image" in lines[0]
    assert ("did you mean" in lines[0]) == bool(hint) and f"mean {hint}?" in lines[0] + "mean ?"
