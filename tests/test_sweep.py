"""`jaxcnn sweep`: which trainings, on which splits, what is told of failures, continuation."""

import json
import os
import signal
import statistics

import numpy as np
import pytest
from conftest import share_programs

from jaxcnn.commands import sweep as verb
from jaxcnn.commands.parser import Parser
from jaxcnn.errors import UserError
from jaxcnn.models import lenet
from jaxcnn.run.checkpoint import Checkpoints
from jaxcnn.run.observers import Observer
from jaxcnn.runtime.signals import Interrupted
from jaxcnn.study import sweep, tables
from jaxcnn.study.trainings import Trainings
from jaxcnn.train import fit

SMALL = ("dataset.train_split=train[:128]", "dataset.eval_split=train[1000:1100]", "train.epochs=2",
         "optim.warmup_epochs=0", "train.log_every_steps=1", "train.plots=False")  # fmt: skip


@pytest.fixture
def prepared(monkeypatch):
    """The process as it is: nothing of JAX is set for the tests that follow."""
    monkeypatch.setattr(verb.training, "prepare", lambda configs: list(configs))


@pytest.fixture
def fitted(monkeypatch):
    """Trainings that take no time: accuracies from rate and seed; rates above 1 diverge."""
    done = []

    def fake(config, dataset, path, observer):
        done.append(path.name)
        if config.optim.peak_lr > 1:
            raise UserError("the loss of step 3 is not finite")
        accuracy = config.optim.peak_lr / 2 + config.seed / 100
        section = {**config.dataset, "fingerprint": "pixels sha256:1"}
        path.mkdir(parents=True)
        (path / "config.json").write_text(json.dumps({"dataset": section}))
        return {"epoch": 2, "train_loss": 1.0, "train_accuracy": 0.5, "eval_loss": 2.0,
                "eval_accuracy": accuracy, "total_seconds": 1.0}  # fmt: skip

    monkeypatch.setattr(fit, "fit", fake)
    return done


def _args(out, *arguments, config="lenet:digits"):
    parser = Parser("sweep", verb.__doc__)
    verb.add_arguments(parser)
    return parser.parse([config, "--out", str(out), *arguments])


def _jobs(monkeypatch, out, *arguments, config="lenet:digits"):
    """Returns the jobs that a command line means, without training."""
    found = []
    monkeypatch.setattr(sweep.Sweep, "run", lambda self, *_: found.append(self))
    verb.run(_args(out, *arguments, config=config))
    return [job for point in found[0].points for job in point.jobs.values()]


def test_every_combination_is_trained_with_every_seed_and_sees_no_test_image(
    tmp_path, monkeypatch, prepared
):
    axes = ["--set", "optim.peak_lr=0.1,0.2", "--set", "optim.milestones=(0.5,0.75),(0.3,)"]
    jobs = _jobs(monkeypatch, tmp_path, "--seeds", "2", *axes, "--set", "train.epochs=3")
    given = {
        (job.config.optim.peak_lr, job.config.optim.milestones, job.config.seed) for job in jobs
    }
    assert given == {
        (rate, stones, seed)
        for rate in (0.1, 0.2)
        for stones in ((0.5, 0.75), (0.3,))
        for seed in (0, 1)
    }
    assert len(jobs) == len({job.path for job in jobs}) == 8
    for job in jobs:
        splits = job.config.dataset.train_split, job.config.dataset.eval_split
        assert splits == ("train[:90%]", "train[90%:]") and job.config.train.epochs == 3


def test_seeds_alone_are_final_runs_on_the_test_split(tmp_path, monkeypatch, prepared):
    jobs = _jobs(
        monkeypatch, tmp_path, "--seeds", "3", "--set", "seed=5".replace("seed", "train.epochs")
    )
    assert [job.config.seed for job in jobs] == [0, 1, 2]
    assert {job.config.dataset.eval_split for job in jobs} == {"test"}


def test_parts_of_the_training_split_that_are_named_stay(tmp_path, monkeypatch, prepared):
    axes = [f"--set={text}" for text in (*SMALL, "optim.peak_lr=0.1,0.2")]
    sections = [job.config.dataset for job in _jobs(monkeypatch, tmp_path, *axes)]
    assert {(s.train_split, s.eval_split) for s in sections} == {
        ("train[:128]", "train[1000:1100]")
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set=dataset.eval_split=test"], "dataset.eval_split='test' is refused: what is chosen"),
        (["--set=dataset.train_split=train+test"], "dataset.train_split='train+test' is refused"),
        (["--set=dataset.train_split=train[:99]"], "dataset.eval_split='test' is refused"),
        (["--set=optim.momentum"], "--set optim.momentum is not allowed: KEY=VALUE"),
        (["--set=seed=1,2"], "the number of seeds is --seeds"),
        (["--set=optim.peek_lr=1"], "did you mean optim.peak_lr?"),
        (["--set=optim.momentum=0.5,"], "--optim.momentum= is not allowed: float"),
        (["--set=optim.momentum=0.5,high"], "--optim.momentum=high is not allowed: float"),
        (["--set=optim.momentum=0.5,2.0"], "optim.momentum=2.0 is not allowed: float, at least 0"),
        (["--set=optim.momentum=0.5", "--set=optim.momentum=0.6"], "a key is given twice"),
        (["--set=optim.momentum=0.5,0.5"], "two trainings would have the folder"),
        (["--set=model.name=lenet,alexnet"], "model.name='alexnet' is unknown"),
    ],
)
def test_a_mistake_is_told_before_anything_is_trained(
    tmp_path, arguments, message, fitted, prepared
):
    with pytest.raises(UserError) as error:
        verb.run(_args(tmp_path / "out", "--set=optim.peak_lr=0.1,0.2", *arguments))
    assert message in str(error.value) and "\n" not in str(error.value)
    assert not fitted and not (tmp_path / "out").exists()


def test_a_training_that_fails_is_told_and_the_others_go_on(tmp_path, fitted, prepared, capsys):
    rates = "--set=optim.peak_lr=0.1,100,0.2"
    assert verb.run(_args(tmp_path, "--seeds", "3", rates, "--set=train.batch_size=8")) == 1
    assert len(fitted) == 9
    report = json.loads((tmp_path / "sweep.json").read_text())
    low, wild, high = report["points"]
    accuracies = [0.1 + seed / 100 for seed in range(3)]
    assert high["eval_accuracy"]["mean"] == pytest.approx(np.mean(accuracies))
    assert high["eval_accuracy"]["std"] == pytest.approx(np.std(accuracies, ddof=1))
    assert (high["eval_accuracy"]["n"], wild["eval_accuracy"]["n"]) == (3, 0)
    assert [failure["seed"] for failure in wild["failures"]] == [0, 1, 2]
    assert report["best"]["optim.peak_lr"] == "0.2" and report["failed"] == 3
    shown = capsys.readouterr().out
    markdown = (tmp_path / "sweep.md").read_text()
    for text in (shown, markdown):
        assert "11.00 ± 1.00" in text and "highest mean accuracy: optim.peak_lr=0.2" in text
        assert "optim.peak_lr=100,seed=1 failed: the loss of step 3 is not finite" in text
        assert "trained on train[:90%], evaluated on train[90%:] of pixels sha256:1" in text
        assert "all with train.batch_size=8\n" in text
    assert len({line.count("|") for line in markdown.splitlines() if "|" in line}) == 1


def test_one_value_has_no_standard_deviation():
    assert tables.spread([2.0]) == {"mean": 2.0, "std": None, "n": 1}
    assert tables.spread([]) == {"mean": None, "std": None, "n": 0}
    assert tables.spread([1.0, 4.0])["std"] == pytest.approx(statistics.stdev([1.0, 4.0]))
    assert (
        tables.shown(tables.spread([2.0]), 1) == "2.0" and tables.shown(tables.spread([]), 1) == "-"
    )


class StopAt(Observer):
    """Sends this process a signal at a step, once."""

    wanted = 3

    def step(self, step, loss, accuracy, rate):
        if step == self.wanted:
            self.wanted = 0
            os.kill(os.getpid(), signal.SIGTERM)


def _arrays(folder):
    checkpoints = Checkpoints(folder / "checkpoints")
    return checkpoints.arrays(checkpoints.latest_step())


def test_a_sweep_that_is_stopped_ends_in_the_bytes_of_single_trainings(
    tmp_path, monkeypatch, prepared
):
    # Stock operations: what is compiled once is found again, here the order of things is meant.
    monkeypatch.setitem(lenet.VARIANTS, "lenet", (lenet.LeNet, {"ops": "stock"}))
    share_programs(monkeypatch)
    arguments = ["--seeds", "2", *(f"--set={text}" for text in SMALL)]
    plan = []
    run = sweep.Sweep.run
    monkeypatch.setattr(sweep.Sweep, "run", lambda self, *_: plan.append(self))
    verb.run(_args(tmp_path / "out", *arguments))
    with pytest.raises(Interrupted):
        run(plan[0], StopAt())
    monkeypatch.setattr(sweep.Sweep, "run", run)
    assert verb.run(_args(tmp_path / "out", *arguments)) == 0
    jobs = list(plan[0].points[0].jobs.values())
    report = json.loads((tmp_path / "out" / "sweep.json").read_text())
    job, row = jobs[0], report["points"][0]["runs"][0]  # the one that was stopped
    alone = tmp_path / job.name
    summary = fit.fit(job.config, Trainings([job]).dataset(job), alone)
    assert summary["eval_loss"] == row["eval_loss"]
    first, second = _arrays(job.path), _arrays(alone)
    assert set(first) == set(second)
    assert all(first[key].tobytes() == second[key].tobytes() for key in first)
    # Once more: everything is finished, nothing is compiled.
    monkeypatch.setattr(fit, "compile_programs", None)
    assert verb.run(_args(tmp_path / "out", *arguments)) == 0


def test_a_folder_of_another_sweep_is_refused(tmp_path, prepared):
    folder = tmp_path / "seed=0"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    with pytest.raises(UserError, match="is damaged|belongs to another"):
        verb.run(_args(tmp_path))


def test_a_folder_in_which_another_process_sweeps_is_refused(tmp_path, fitted, prepared):
    with sweep.claimed(tmp_path), pytest.raises(UserError, match="another folder with --out"):
        verb.run(_args(tmp_path))
    assert not fitted
