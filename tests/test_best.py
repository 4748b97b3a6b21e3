"""The best epoch: kept, found again, and the end of a run that finds no better one."""

import json
import shutil

import jax.numpy as jnp
import numpy as np
import pytest
from conftest import random_dataset, random_images, share_programs
from hypothesis import given
from hypothesis import strategies as st
from test_loop import StopAt, _assert_same_run, _config, _final_arrays

from jaxcnn.config import compat
from jaxcnn.errors import UserError
from jaxcnn.evaluate import evaluation, tta
from jaxcnn.evaluate.run import Run
from jaxcnn.models import resnet
from jaxcnn.run import best
from jaxcnn.run.checkpoint import Checkpoints
from jaxcnn.run.observers import Observer
from jaxcnn.runtime.signals import Interrupted
from jaxcnn.train import fit
from jaxcnn.train.programs import Programs

HITS = [2, 9, 9, 5, 7, 8, 8, 8]  # of 20, in each epoch: the second one is the first of the best


def _records(accuracies):
    return [{"epoch": i + 1, "eval_accuracy": value} for i, value in enumerate(accuracies)]


@given(st.lists(st.integers(0, 3), max_size=8), st.integers(0, 4))
def test_a_run_ends_when_its_last_epochs_were_no_better_than_one_before(accuracies, patience):
    records = _records(accuracies)
    first, last = accuracies[: max(0, len(accuracies) - patience)], accuracies[-patience:]
    expected = bool(patience and first and max(last) <= max(first))
    assert best.is_exhausted(records, patience) == expected
    if accuracies:
        found = best.best_record(records)
        assert found["epoch"] == accuracies.index(max(accuracies)) + 1
    else:
        assert best.best_record(records) is None


@pytest.mark.parametrize(
    ("split", "held_out"),
    [
        ("train[45000:]", True),
        ("train[:10%]+train[90%:]", True),
        ("train", True),
        ("test", False),
        ("train+test", False),
        ("train[:90%]", True),
        ("train[:10]+validation[5:]", True),
        ("validation", True),
        ("train[:10] + test[:10]", False),
        ("train+test[:10]", False),
        ("test[:5]", False),
        ("train[:10] + test", False),
        ("training", False),
        ("testing", False),
        ("all", False),
    ],
)
def test_a_split_with_test_images_is_none_to_choose_by(split, held_out):
    assert best.is_held_out(split) == held_out


@pytest.fixture(scope="module", autouse=True)
def small():
    """A network of one block; what an evaluation finds is given, by the epoch of its state."""

    def evaluate(self, state, on_batch=lambda count: None):
        epoch = int(state.step) // 3
        return {"loss": jnp.float32(20), "correct": jnp.int32(HITS[epoch - 1]), "count": 20}

    network = resnet.ResNet, {"blocks": (1,), "widths": (8,), "ops": "stock"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(resnet.VARIANTS, "resnet20", network)
        patch.setattr(Programs, "evaluate", evaluate)
        share_programs(patch)
        yield


def _settings(**changes):
    """Returns settings of a run of up to 8 epochs of 3 steps, with a held-out split."""
    given = {
        "dataset__eval_split": "train[48:]",
        "train__epochs": 8,
        "train__keep_best": True,
        "train__patience": 3,
        "train__keep_checkpoints": 1,
    }
    return _config(**(given | changes))


@pytest.fixture(scope="module")
def stopped_early(tmp_path_factory):
    """A run that ended after epoch 5, as epochs 3 to 5 were no better than epoch 2."""
    folder = tmp_path_factory.mktemp("best") / "run"
    fit.fit(_settings(), random_dataset(), folder)
    return folder


def _files(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_best_checkpoint_stays_beside_the_newest_and_the_run_ends_early(stopped_early):
    assert Checkpoints(stopped_early / "checkpoints").steps() == [6, 15]
    summary = json.loads((stopped_early / "summary.json").read_text())
    assert summary["epoch"] == 5 and summary["best_epoch"] == 2 and summary["stopped_early"]


def test_the_same_command_again_changes_nothing_of_a_run_that_ended_early(stopped_early):
    before = _files(stopped_early)
    summary = fit.fit(_settings(), random_dataset(), stopped_early)
    assert summary["epoch"] == 5
    assert fit.fit(_settings(train__epochs=20), random_dataset(), stopped_early) == summary
    assert _files(stopped_early) == before


@pytest.mark.parametrize("moment", [5, 12])
def test_a_run_that_is_stopped_and_continued_ends_the_same(stopped_early, tmp_path, moment):
    folder = tmp_path / "run"
    with pytest.raises(Interrupted):
        fit.fit(_settings(), random_dataset(), folder, StopAt(moment))
    fit.fit(_settings(), random_dataset(), folder)
    _assert_same_run(stopped_early, folder)
    assert Checkpoints(folder / "checkpoints").steps() == [6, 15]


def test_a_kill_before_the_summary_or_the_last_record_changes_nothing(stopped_early, tmp_path):
    for lines in (5, 4):
        folder = tmp_path / str(lines)
        shutil.copytree(stopped_early, folder)
        (folder / "summary.json").unlink()
        text = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
        (folder / "metrics.jsonl").write_text("".join(text[:lines]))
        fit.fit(_settings(), random_dataset(), folder)
        _assert_same_run(stopped_early, folder)
        assert Checkpoints(folder / "checkpoints").steps() == [6, 15]


def test_neither_changes_the_numbers_of_the_epochs_that_are_trained(stopped_early, tmp_path):
    plain = _settings(train__keep_best=False, train__patience=0, train__epochs=8)
    with pytest.raises(Interrupted):
        fit.fit(plain, random_dataset(), tmp_path / "run", StopAt(15))
    assert Checkpoints(tmp_path / "run" / "checkpoints").steps() == [15]
    first, second = _final_arrays(stopped_early), _final_arrays(tmp_path / "run")
    assert all(first[name].tobytes() == second[name].tobytes() for name in first)


@pytest.mark.parametrize("key", ["train__keep_best", "train__patience"])
def test_choosing_by_the_test_split_is_refused_before_anything_is_written(key, tmp_path):
    settings = _config(**{key: 1 if key.endswith("patience") else True})
    with pytest.raises(UserError, match=r"choose an epoch by the evaluation split 'test'.*hold"):
        fit.fit(settings, random_dataset(), tmp_path / "run", Observer())
    assert not (tmp_path / "run").exists()


def test_keeping_the_best_may_be_changed_in_the_middle_of_a_run():
    old, new = ({"train": {"keep_best": value, "epochs": 1}} for value in (False, True))
    assert compat.refusals(old, new) == []
    assert compat.refusals(old, {"train": {"keep_best": True, "patience": 3, "epochs": 1}})


@pytest.fixture
def noise(monkeypatch):
    """Runs find the noise that they were trained on."""
    monkeypatch.setattr(Run, "dataset", lambda self, split, data_dir: random_dataset())


def test_a_run_is_evaluated_at_its_best_epoch(stopped_early, noise):
    run = Run(stopped_early)
    newest, chosen = (
        evaluation.evaluate(run, print, evaluation.Selection(best=which)) for which in (False, True)
    )
    assert (newest.step, chosen.step) == (15, 6)
    assert not np.array_equal(newest.logits, chosen.logits)


def test_a_best_epoch_that_is_not_there_is_an_error_of_one_line(stopped_early, tmp_path):
    shutil.copytree(stopped_early, tmp_path / "run")
    manifest = tmp_path / "run" / "checkpoints" / "6" / "manifest.json"
    manifest.write_text("{}")
    with pytest.raises(UserError, match=r"best epoch, step 6, is damaged .*newest checkpoint"):
        Run(tmp_path / "run").best()
    shutil.rmtree(manifest.parent)
    with pytest.raises(UserError, match=r"no checkpoint of its best epoch \(.*15\).*keep_best"):
        Run(tmp_path / "run").best()
    content = json.loads((tmp_path / "run" / "config.json").read_text())
    content["dataset"]["eval_split"] = "test"
    (tmp_path / "run" / "config.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"no best epoch: it was evaluated on 'test'"):
        Run(tmp_path / "run").best()


# ------------------------------------------------------------------- several views of an image


@pytest.mark.parametrize("views", tta.VIEWS)
def test_the_weights_of_views_add_to_one_and_their_mean_is_that_of_a_linear_network(views):
    images = random_images(5, size=6)
    weights = np.random.default_rng(0).normal(size=(6 * 6 * 3, 4)).astype(np.float32)

    def logits(x):
        return x.reshape(len(x), -1).astype(np.float32) @ weights

    made = list(tta.VIEWS[views](images))
    assert sum(weight for weight, _ in made) == 1
    mean = sum(weight * view.astype(np.float64) for weight, view in made)
    found = tta.mean_logits(logits, images, views)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, logits(mean), rtol=1e-4)
    if views == "mirror":  # the mirror image has the same views
        other = tta.mean_logits(logits, images[:, :, ::-1], views)
        np.testing.assert_allclose(found, other, rtol=1e-4, atol=1e-2)


def test_shifted_views_are_the_images_moved_by_one_pixel():
    images = random_images(3, size=6)
    made = [view for _, view in tta.mirror_shifts(images)]
    assert len(made) == 6
    np.testing.assert_array_equal(made[0], images)
    np.testing.assert_array_equal(made[1], images[:, :, ::-1])
    np.testing.assert_array_equal(made[2][:, 1:, 1:], images[:, :-1, :-1])
    np.testing.assert_array_equal(made[2][:, 0, 1:], images[:, 1, :-1])  # reflected
    np.testing.assert_array_equal(made[4][:, :-1, :-1], images[:, 1:, 1:])
    np.testing.assert_array_equal(made[5], made[4][:, :, ::-1])


def test_views_are_reported_beside_the_plain_figure(stopped_early, noise, capsys):
    run = Run(stopped_early)
    plain = evaluation.evaluate(run, print)
    both = evaluation.evaluate(run, print, views="mirror")
    np.testing.assert_array_equal(plain.logits, both.logits)
    assert both.tta_scores.loss != plain.scores.loss
    content = evaluation.as_json(run, both)
    views = content.pop("test_time_augmentation")
    assert content == evaluation.as_json(run, plain)
    assert views["views"] == "mirror" and views["loss"] == both.tta_scores.loss
    first, second = (evaluation.as_text(run, result) for result in (plain, both))
    assert second.startswith(first) and "with test-time augmentation (mirror)" in second


def test_mirror_views_of_a_run_that_did_not_mirror_are_refused(stopped_early, tmp_path):
    shutil.copytree(stopped_early, tmp_path / "run")
    content = json.loads((stopped_early / "config.json").read_text())
    content["augment"]["flip"] = False
    (tmp_path / "run" / "config.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"--tta=mirror: .* without mirrored images"):
        evaluation.evaluate(Run(tmp_path / "run"), print, views="mirror")
