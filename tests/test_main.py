"""The command line, as a user meets it: each mistake ends in one line and exit code 1."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LENET = f"{ROOT}/configs/lenet.py:digits"


def _run(*arguments, cwd, options=(), **environment):
    """Runs the program in a child process, with options of Python; returns it when finished."""
    return subprocess.run(
        [sys.executable, *options, "-m", "jaxcnn.main", *arguments],
        cwd=cwd,
        env={**os.environ, "JAX_PLATFORMS": "cpu", "HOME": str(cwd), **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )


def _bad_config(folder, text):
    path = folder / "bad.py"
    path.write_text(
        "from jaxcnn.config import default_config\n\n\ndef get_config():\n"
        f"    config = default_config()\n    {text}\n    return config\n"
    )
    return str(path)


MISTAKES = {
    "no config": ([], "--config is missing"),
    "missing file": (["--config=nowhere.py"], "--config=nowhere.py: there is no such file"),
    "unknown flag": (["--confg=x.py"], "Unknown command line flag 'confg'"),
    "unknown key": (
        [f"--config={LENET}", "--config.train.epoch=3"],
        "--config.train.epoch is not a key of the configuration: did you mean train.epochs?",
    ),
    "wrong type": (
        [f"--config={LENET}", "--config.train.epochs=many"],
        "--config.train.epochs=many is not allowed: int, at least 1",
    ),
    "out of range": (
        ["--config", LENET, "--config.train.epochs=0"],
        "train.epochs=0 is not allowed: int, at least 1",
    ),
    "unknown model": (
        [f"--config={LENET}", "--config.model.name=alexnet"],
        "model.name='alexnet' is unknown; known networks: lenet, resnet18",
    ),
    "unknown model of data that are not there": (
        [f"--config={LENET.partition(':')[0]}", "--config.model.name=alexnet"],
        "model.name='alexnet' is unknown; known networks: lenet, resnet18",
    ),
    "foreign option": (
        [f"--config={LENET}", "--config.model.width=0.5"],
        "model.width is no option of lenet",
    ),
    "batch too large": (
        [f"--config={LENET}", "--config.train.batch_size=2000"],
        "train.batch_size=2000 is larger than the training split 'train' with its 1437 images",
    ),
    "argument": ([f"--config={LENET}", "now"], "unexpected argument 'now'"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_ends_in_one_line_and_nothing_is_written(mistake, tmp_path, command, monkeypatch):
    arguments, expected = MISTAKES[mistake]
    monkeypatch.chdir(tmp_path)
    code, output, lines = command("train", *arguments)
    assert (code, output) == (1, ""), lines
    assert len(lines) == 1 and lines[0].startswith("error: ") and expected in lines[0], lines
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.ci
def test_so_does_the_process(tmp_path):
    arguments, expected = MISTAKES["batch too large"]
    done = _run(*arguments, cwd=tmp_path)
    lines = done.stderr.strip().splitlines()
    assert done.returncode == 1, done.stderr
    assert len(lines) == 1 and lines[0].startswith("error: ") and expected in lines[0], done.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("config.train.epoch = 3", 'line 6: AttributeError: .*Did you mean "epochs"'),
        ("config.train.epochs = 'three'", "line 6: TypeError: .*"),
        ("config.seed = unknown", "line 6: NameError: name 'unknown' is not defined"),
        ("config.train.epochs = = 3", "SyntaxError"),
    ],
)
def test_a_mistake_in_a_configuration_file_is_named_with_its_line(
    text, expected, tmp_path, command
):
    code, _, lines = command("train", f"--config={_bad_config(tmp_path, text)}")
    assert code == 1 and len(lines) == 1, lines
    assert re.search(expected, lines[0]), lines


def test_help_names_every_flag_and_every_key(command):
    _, output, _ = command("train", "--help")
    for text in ("--config:", "--workdir:", "--config.optim.peak_lr", "--config.model.width"):
        assert text in output, text


ARGUMENTS = (f"--config={LENET}", "--config.train.epochs=2")


@pytest.fixture(scope="module")
def first_run(tmp_path_factory):
    """Returns the folder of a first run, which is the home folder too, and the ended process."""
    home = tmp_path_factory.mktemp("home")
    done = _run(*ARGUMENTS, cwd=home, options=("-X", "importtime"), XDG_CACHE_HOME="")
    assert done.returncode == 0, done.stderr
    return home, done


def test_a_first_run_a_second_and_a_changed_one(first_run, command, monkeypatch):
    home, done = first_run
    lines = done.stdout.splitlines()
    assert sum(line.startswith("epoch ") for line in lines) == 2
    assert "everything is in runs/lenet-digits" in done.stdout
    folder = home / "runs" / "lenet-digits"
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    monkeypatch.chdir(home)
    code, output, lines = command("train", *ARGUMENTS)
    assert code == 0, lines
    assert "choose a new folder with --workdir" in output

    code, _, lines = command("train", *ARGUMENTS, "--config.seed=1")
    assert code == 1
    assert "belongs to another configuration (seed was 0, is 1)" in lines[-1]
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert json.loads((folder / "summary.json").read_text())["epoch"] == 2


def test_training_does_not_import_tensorflow_or_torch(first_run):
    lines = first_run[1].stderr.splitlines()
    imported = {line.rpartition("|")[2].strip() for line in lines if line.startswith("import time")}
    assert {"jax", "tensorflow_datasets", "matplotlib"} <= imported  # it is a list of all
    assert not {"tensorflow", "torch", "keras"} & imported


def test_the_compilation_cache_is_private(first_run):
    cache = first_run[0] / ".cache" / "jaxcnn" / "xla"
    assert cache.stat().st_mode & 0o777 == 0o700
    assert any(cache.iterdir())
