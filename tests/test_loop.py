"""Runs: complete folders, exact continuation, signals, refusals."""

import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from conftest import random_dataset, share_programs

from jaxcnn.config import compat, schema
from jaxcnn.data import batches
from jaxcnn.errors import UserError
from jaxcnn.evaluate.run import Run
from jaxcnn.models import resnet
from jaxcnn.run import lock
from jaxcnn.run.checkpoint import Checkpoints
from jaxcnn.run.folder import RunDir
from jaxcnn.run.observers import Observer
from jaxcnn.runtime.signals import Interrupted
from jaxcnn.train import fit
from jaxcnn.train.programs import Programs

pytestmark = pytest.mark.usefixtures("quick_to_compile")

WALL_CLOCK = ("seconds", "images_per_second")


def _config(**changes):
    settings = schema.default_config()
    settings.dataset.name = "noise"
    settings.model.name = "resnet20"
    settings.train.epochs = 4
    settings.train.batch_size = 16
    settings.train.eval_batch_size = 10
    settings.train.log_every_steps = 1
    settings.train.plots = False
    settings.optim.peak_lr = 0.01
    for key, value in changes.items():
        section, name = key.split("__")
        settings[section][name] = value
    return settings


def _metrics(folder: Path):
    """Returns the records without what a clock put there."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    return [{k: v for k, v in record.items() if k not in WALL_CLOCK} for record in records]


def _final_arrays(folder: Path):
    """Returns the newest checkpoint's arrays by name."""
    checkpoints = Checkpoints(folder / "checkpoints")
    return checkpoints.arrays(checkpoints.latest_step())


def _assert_same_run(one: Path, other: Path):
    assert _metrics(one) == _metrics(other)
    first, second = _final_arrays(one), _final_arrays(other)
    assert first.keys() == second.keys()
    for name in first:
        assert first[name].tobytes() == second[name].tobytes(), name


class StopAt(Observer):
    """Sends this process a signal at a moment, as a person or a scheduler would.

    A moment is the number of a step, or a text that the run says.
    """

    def __init__(self, moment, signum=signal.SIGINT):
        """Stops at `moment`."""
        self._moment, self._signum, self.said = moment, signum, []

    def say(self, text):
        self.said.append(text)
        self._reach(text)

    def step(self, step, loss, accuracy, rate):
        self._reach(step)

    def _reach(self, moment):
        if moment == self._moment:
            os.kill(os.getpid(), self._signum)


@pytest.fixture(scope="module")
def quick_to_compile():
    """Makes resnet20 a network of one block with stock operations: here is the loop meant."""
    small = resnet.ResNet, {"blocks": (1,), "widths": (8,), "ops": "stock"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(resnet.VARIANTS, "resnet20", small)
        share_programs(patch)
        yield


@pytest.fixture(scope="module")
def reference(tmp_path_factory, quick_to_compile):
    """An uninterrupted run of 4 epochs of 3 steps."""
    folder = tmp_path_factory.mktemp("reference") / "run"
    fit.fit(_config(), random_dataset(), folder)
    return folder


def test_a_run_leaves_a_complete_folder(reference):
    assert {path.name for path in reference.iterdir()} == {
        "config.json",
        "environment.json",
        "metrics.jsonl",
        "summary.json",
        "checkpoints",
        ".lock",
    }
    records = [json.loads(line) for line in (reference / "metrics.jsonl").read_text().splitlines()]
    assert [record["epoch"] for record in records] == [1, 2, 3, 4]
    assert [record["step"] for record in records] == [3, 6, 9, 12]
    assert list(records[0]) == [
        "epoch",
        "step",
        "learning_rate",
        "train_loss",
        "train_accuracy",
        "eval_loss",
        "eval_accuracy",
        "skipped_steps",
        "seconds",
        "images_per_second",
    ]
    summary = json.loads((reference / "summary.json").read_text())
    assert {key: summary[key] for key in records[-1]} == records[-1]
    arrays = _final_arrays(reference)
    sizes = [array.size for name, array in arrays.items() if name.startswith("params/")]
    assert summary["parameters"] == sum(sizes)
    assert "best_epoch" not in summary  # never chosen on the test split
    settings = json.loads((reference / "config.json").read_text())
    assert settings["model"]["dtype"] == "float32"
    assert settings["model"]["plain"] is False
    assert settings["dataset"]["image_shape"] == [16, 16, 3]
    assert "auto" not in json.dumps(settings)
    start = json.loads((reference / "environment.json").read_text())["starts"][0]
    assert start["dataset"] == "noise" and start["platform"] == "cpu"


@pytest.mark.parametrize("step", [1, 3, 6, 8, 12])
def test_a_run_stopped_by_a_signal_continues_to_the_same_bytes(reference, tmp_path, step):
    with pytest.raises(Interrupted) as stop:
        fit.fit(_config(), random_dataset(), tmp_path / "run", StopAt(step, signal.SIGTERM))
    assert (stop.value.step, stop.value.signum) == (step, signal.SIGTERM)
    report = StopAt(-1)
    fit.fit(_config(), random_dataset(), tmp_path / "run", report)
    assert f"continuing after step {step}" in report.said
    _assert_same_run(reference, tmp_path / "run")


def test_a_run_of_a_version_with_other_names_of_keys_continues_to_the_same_bytes(
    reference, tmp_path
):
    run = tmp_path / "run"
    with pytest.raises(Interrupted):
        fit.fit(_config(), random_dataset(), run, StopAt(7))
    content = json.loads((run / "config.json").read_text())
    for old, current in compat.RENAMED.items():
        section, name = current.split(".")
        content[section][old.split(".")[1]] = content[section].pop(name)
    assert content["train"]["accumulate"] == 1
    (run / "config.json").write_text(json.dumps(content))
    report = StopAt(-1)
    fit.fit(_config(), random_dataset(), run, report)
    assert "continuing after step 7" in report.said
    _assert_same_run(reference, run)
    assert (run / "config.json").read_bytes() == (reference / "config.json").read_bytes()


def test_a_signal_during_compilation_stops_before_the_first_step(reference, tmp_path):
    with pytest.raises(Interrupted) as stop:
        fit.fit(_config(), random_dataset(), tmp_path / "run", StopAt("compiling"))
    assert stop.value.step == 0
    assert Checkpoints(tmp_path / "run" / "checkpoints").steps() == [0]
    fit.fit(_config(), random_dataset(), tmp_path / "run")
    _assert_same_run(reference, tmp_path / "run")


@pytest.mark.parametrize("moment", ["evaluation", "save"])
def test_a_signal_during_evaluation_or_a_save_loses_nothing(
    moment, reference, tmp_path, monkeypatch
):
    evaluate, save = Programs.evaluate, Checkpoints.save

    sent = []

    def interrupt():
        if not sent:  # a second one would end this process
            sent.append(signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)

    def evaluate_and_interrupt(programs, state, on_batch):
        return evaluate(programs, state, lambda count: (interrupt(), on_batch(count)))

    def save_and_interrupt(checkpoints, step, state):
        save(checkpoints, step, state)
        if step == 6:
            interrupt()

    with monkeypatch.context() as patch:
        if moment == "evaluation":
            patch.setattr(Programs, "evaluate", evaluate_and_interrupt)
        else:
            patch.setattr(Checkpoints, "save", save_and_interrupt)
        with pytest.raises(Interrupted) as stop:
            fit.fit(_config(), random_dataset(), tmp_path / "run")
    assert stop.value.step == {"evaluation": 3, "save": 6}[moment]
    fit.fit(_config(), random_dataset(), tmp_path / "run")
    _assert_same_run(reference, tmp_path / "run")


@pytest.mark.parametrize("left", [3, 0])
def test_after_damage_the_checkpoint_before_leads_to_the_same_bytes_or_the_run_ends_in_words(
    left, reference, tmp_path
):
    run = tmp_path / "run"
    with pytest.raises(Interrupted):
        fit.fit(_config(), random_dataset(), run, StopAt(8))
    checkpoints = Checkpoints(run / "checkpoints")
    assert checkpoints.steps() == [6, 8]
    for step in checkpoints.steps() if left == 0 else [8]:
        file = max((run / "checkpoints" / str(step)).rglob("*"), key=lambda p: p.stat().st_size)
        file.write_bytes(file.read_bytes()[:-1])
    report = StopAt(-1)
    if left:
        fit.fit(_config(), random_dataset(), run, report)
        assert "the checkpoint of step 8 is damaged" in report.said[1]
        assert report.said[2] == "continuing after step 6"
        assert report.said[-1].startswith("why the two losses differ: label smoothing (0.1)")
        warnings = [start["warnings"] for start in RunDir(run).starts()]
        assert warnings == [[], [report.said[1].removeprefix("warning: ")]]
        _assert_same_run(reference, run)
        assert [p.name for p in checkpoints.damaged()] == ["8"]
    else:
        for _ in range(2):
            with pytest.raises(UserError, match="was trained, but no whole checkpoint is left"):
                fit.fit(_config(), random_dataset(), run, report)
        assert [p.name for p in checkpoints.damaged()] == ["6", "8"]
        assert len(_metrics(run)) == 2  # nothing is lost beyond the damage


def test_fit_and_run_take_a_path_as_text(reference):
    before = (reference / "environment.json").read_bytes()
    summary = fit.fit(_config(), random_dataset(), str(reference))
    assert summary["epoch"] == 4 and (reference / "environment.json").read_bytes() == before
    assert Run(str(reference)).path == reference


def test_metrics_without_any_checkpoint_are_not_started_over(reference, tmp_path):
    shutil.copytree(reference, tmp_path / "run", ignore=lambda *_: ["checkpoints", "summary.json"])
    with pytest.raises(UserError, match="put one back, or start anew with another --workdir"):
        fit.fit(_config(), random_dataset(), tmp_path / "run")
    assert len(_metrics(tmp_path / "run")) == 4


def test_a_finished_run_goes_on_to_more_epochs(reference, tmp_path):
    run = Path(shutil.copytree(reference, tmp_path / "run"))
    report = StopAt(-1)
    fit.fit(_config(train__epochs=5), random_dataset(), run, report)
    assert report.said[0].startswith("from 4 to 5 epochs")
    records = _metrics(run)
    assert records[:4] == _metrics(reference) and records[4]["step"] == 15
    assert json.loads((run / "summary.json").read_text())["epoch"] == 5
    with pytest.raises(UserError, match="train.epochs was 5, is 4 and may only rise"):
        fit.fit(_config(), random_dataset(), run)


def test_a_folder_that_another_process_has_is_refused(reference, tmp_path):
    run = Path(shutil.copytree(reference, tmp_path / "run"))
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with lock.exclusive(run):
        with pytest.raises(UserError, match="in use by process"):
            fit.fit(_config(train__epochs=5), random_dataset(), run)
    assert before == {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}


def test_another_data_position_gives_other_bytes(reference, tmp_path, monkeypatch):
    """The comparison above can fail: a run that repeats one batch on resume differs."""
    with pytest.raises(Interrupted):
        fit.fit(_config(), random_dataset(), tmp_path / "run", StopAt(4))
    original = batches.shuffled_batches
    monkeypatch.setattr(
        batches, "shuffled_batches", lambda *args: np.roll(original(*args), 1, axis=0)
    )
    fit.fit(_config(), random_dataset(), tmp_path / "run")
    assert _metrics(reference) != _metrics(tmp_path / "run")


def test_a_finished_run_is_left_alone(reference):
    before = {path: path.read_bytes() for path in reference.rglob("*") if path.is_file()}
    summary = fit.fit(_config(), random_dataset(), reference)
    assert summary == json.loads((reference / "summary.json").read_text())
    assert before == {path: path.read_bytes() for path in reference.rglob("*") if path.is_file()}


def test_a_run_that_was_killed_before_its_summary_gets_one(reference, tmp_path):
    fit.fit(_config(), random_dataset(), tmp_path / "run")
    (tmp_path / "run" / "summary.json").unlink()
    summary = fit.fit(_config(), random_dataset(), tmp_path / "run")
    assert summary["epoch"] == 4
    _assert_same_run(reference, tmp_path / "run")


def test_other_data_under_the_same_name_are_refused(reference):
    other = random_dataset()._replace(fingerprint="other noise")
    with pytest.raises(UserError, match="dataset.fingerprint was 'noise', is 'other noise'"):
        fit.fit(_config(), other, reference)


def test_the_best_epoch_is_named_on_a_held_out_split(tmp_path):
    settings = _config(dataset__eval_split="train[48:]")
    summary = fit.fit(settings, random_dataset(), tmp_path / "run")
    best = max(_metrics(tmp_path / "run"), key=lambda record: record["eval_accuracy"])
    assert summary["best_epoch"] == best["epoch"]
    assert summary["best_eval_accuracy"] == best["eval_accuracy"]


def test_a_batch_larger_than_the_data_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(UserError, match="train.batch_size=64 is larger .* 48 images"):
        fit.fit(_config(train__batch_size=64), random_dataset(), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_images_that_the_network_cannot_take_are_refused_before_anything_is_written(tmp_path):
    with pytest.raises(UserError, match="lenet cannot take images of 12x12 pixels"):
        fit.fit(_config(model__name="lenet"), random_dataset(size=12), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_training_that_diverges_says_so(tmp_path):
    settings = _config(optim__peak_lr=1e30, optim__warmup_epochs=0.0)
    with pytest.raises(UserError, match="loss or a gradient of step .* lower optim.peak_lr"):
        fit.fit(settings, random_dataset(), tmp_path / "run")
