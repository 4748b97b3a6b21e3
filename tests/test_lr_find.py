"""`jaxcnn lr_find`: the schedule, what the losses say, and a test of a real network."""

import json

import jax
import numpy as np
import pytest

from jaxcnn.commands import lr_find
from jaxcnn.commands.parser import Parser
from jaxcnn.data import batches, load
from jaxcnn.errors import UserError
from jaxcnn.study import holdout, lr_range
from jaxcnn.train import metrics
from jaxcnn.train.programs import Programs


def test_the_rate_rises_by_one_factor_from_the_first_to_the_last():
    schedule = lr_range.exponential(1e-4, 10.0, 51)
    rates = np.array([schedule(step) for step in range(51)])
    np.testing.assert_allclose(rates, np.geomspace(1e-4, 10, 51), rtol=1e-5)
    assert rates.dtype == np.float32


def test_smoothing_keeps_a_line_and_removes_noise_without_lag():
    line = np.linspace(0, 1, 200)
    np.testing.assert_allclose(lr_range.smooth(line, 4.0)[40:-40], line[40:-40], atol=1e-9)
    step = (np.arange(200) >= 100).astype(float)
    assert lr_range.smooth(step, 4.0)[99:101].mean() == pytest.approx(0.5)
    noise = np.random.default_rng(0).normal(size=2000)
    assert lr_range.smooth(noise, 10.0).std() < 0.25


def _valley(noise=0.0):
    """Losses that fall fastest at 0.01 and are lowest at 1, in 301 steps from 1e-4 to 10."""
    rates = np.geomspace(1e-4, 10, 301)
    x = np.log10(rates)
    losses = 2.3 - 1 / (1 + np.exp(-4 * (x + 2))) + np.where(x > 0, 3 * x**2, 0) - 0.05 * x
    return rates, losses + noise * np.random.default_rng(0).normal(size=301)


@pytest.mark.parametrize("noise", [0.0, 0.02])
def test_the_steepest_and_the_lowest_point_are_found(noise):
    rates, losses = _valley(noise)
    found = lr_range.findings(rates, losses, 301)
    assert 0.005 < found["steepest"] < 0.02 and 0.7 < found["lowest"] < 1.5
    assert found["steepest"] < found["suggestion"] < found["lowest"]
    assert not found["still_falling"] and len(found["smoothed"]) == 301


def test_a_loss_that_still_falls_at_the_end_is_told():
    rates, losses = _valley()
    found = lr_range.findings(rates[:200], losses[:200], 301)
    assert found["still_falling"] and found["lowest"] == pytest.approx(rates[199])


def test_a_loss_that_only_rises_gives_no_suggestion():
    rates, _ = _valley()
    with pytest.raises(UserError, match="only rises .* begin lower, with --low"):
        lr_range.findings(rates, np.linspace(1, 5, 301), 301)


def _run(out, *arguments, config="lenet:digits"):
    parser = Parser("lr_find", lr_find.__doc__)
    lr_find.add_arguments(parser)
    lr_find.run(parser.parse([config, "--out", str(out), *arguments]))


def test_a_test_of_a_network_takes_the_steps_of_a_training_and_never_evaluates(
    tmp_path, monkeypatch, capsys
):
    """The losses are those of the compiled training step, taken one by one by hand."""
    monkeypatch.setattr(lr_find.training, "prepare", lambda configs: None)
    monkeypatch.setattr(Programs, "evaluate", None)
    seen = []
    compile_programs = lr_range.compile_programs
    monkeypatch.setattr(
        lr_range,
        "compile_programs",
        lambda *arguments: seen.append(compile_programs(*arguments)) or seen[-1],
    )
    _run(
        tmp_path / "new" / "rates", "--steps", "40", "--high", "1e3", "--set", "train.batch_size=32"
    )
    shown = capsys.readouterr().out
    report = json.loads((tmp_path / "new" / "rates" / "lr_find.json").read_text())
    assert f"suggestion: optim.peak_lr={report['suggestion']}" in shown
    assert (report["train_split"], report["steps"]) == ("train[:90%]", 40)
    assert report["diverged"] and 20 <= len(report["losses"]) < 40
    assert (tmp_path / "new" / "rates" / "lr_find.png").stat().st_size > 10_000
    programs = seen[0]
    dataset = load("digits", data_dir="", train_split="train[:90%]", eval_split="train[90%:]")
    assert programs.settings.facts.train_examples == len(dataset.train.labels)
    order = batches.shuffled_batches(0, 0, len(dataset.train.labels), 32)
    state, total = programs.init(), 0.0
    for call in programs.calls(order[:5]):
        state = programs.train(state, call)
    total = metrics.means(jax.device_get(state.sums))[0]
    assert np.mean(report["losses"][:5]) == pytest.approx(total, rel=1e-5)
    np.testing.assert_allclose(report["rates"], np.geomspace(1e-4, 1e3, 40)[: len(report["rates"])])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--low", "1", "--high", "0.1"], "--low=1.0 and --high=0.1 are not allowed"),
        (["--low", "0"], "--low=0.0 and --high=10.0 are not allowed"),
        (["--high", "inf"], "--high=inf are not allowed"),
        (["--set", "dataset.train_split=train+test"], "'train+test' is refused"),
        (["--set", "optim.momentum=2"], "optim.momentum=2.0 is not allowed"),
        (["--set", "train.batch_size=512"], "2 steps of the range test are too few"),
    ],
)
def test_a_mistake_is_told_in_a_line_and_leaves_nothing(tmp_path, monkeypatch, arguments, message):
    monkeypatch.setattr(lr_find.training, "prepare", lambda configs: None)
    with pytest.raises(UserError) as error:
        _run(tmp_path / "out", *arguments)
    assert message in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_the_default_splits_are_those_of_a_sweep():
    assert (holdout.TRAIN, holdout.HELD_OUT) == ("train[:90%]", "train[90%:]")
