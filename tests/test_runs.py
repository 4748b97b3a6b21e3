"""Reading runs: evaluation, prediction and pictures of a folder that others write to."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from conftest import random_dataset, share_programs
from PIL import Image

from jaxcnn import plots
from jaxcnn.config import schema
from jaxcnn.config.settings import Settings
from jaxcnn.data import jpeg
from jaxcnn.errors import UserError
from jaxcnn.evaluate import chosen, evaluation
from jaxcnn.evaluate import run as runs
from jaxcnn.evaluate import run_plots as run_plots
from jaxcnn.evaluate.corruptions import table
from jaxcnn.evaluate.run import Run
from jaxcnn.models import lenet
from jaxcnn.run.checkpoint import Checkpoints
from jaxcnn.run.folder import RunDir
from jaxcnn.run.observers import Observer
from jaxcnn.train import fit

PICTURES = {
    "curves.png",
    "confusion.png",
    "per_class.png",
    "predictions.png",
    "mistakes.png",
    "augmented.png",
    "filters.png",
    "grad_cam.png",
}


def _config(**train):
    settings = schema.use_dataset(schema.default_config(), "digits")
    settings.dataset.train_split = "train[:512]"
    settings.model.name = "lenet"
    settings.optim.warmup_epochs = 0.0
    settings.train.epochs = 2
    settings.train.plots = False
    for key, value in train.items():
        settings.train[key] = value
    return settings


class Said(Observer):
    """Keeps what is said."""

    def __init__(self):
        """Has heard nothing."""
        self.lines = []

    def say(self, text):
        self.lines.append(text)


@pytest.fixture(scope="module", autouse=True)
def stock_lenet():
    """Compiles several times faster; the command, in processes of its own, uses ours."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(lenet.VARIANTS, "lenet", (lenet.LeNet, {"ops": "stock"}))
        share_programs(patch)
        yield


@pytest.fixture(scope="module")
def digits():
    from jaxcnn import data

    return data.load(**_config().dataset)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, digits):
    """A LeNet trained for two epochs on the embedded digits, with everything switched on."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    said = Said()
    fit.fit(_config(plots=True, tensorboard=True), digits, folder, said)
    assert not [line for line in said.lines if "warning" in line]
    return folder


def _files(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _width(path):
    with Image.open(path) as picture:
        return picture.width


def _jaxcnn(verb, *arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "jaxcnn", verb, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu", **environment},
    )


def test_a_training_leaves_its_pictures(finished):
    assert {path.name for path in (finished / "plots").iterdir()} == PICTURES
    for name in PICTURES:
        with Image.open(finished / "plots" / name) as picture:
            picture.load()
            assert picture.format == "PNG" and picture.width > 600, name
            assert len(picture.convert("L").getcolors()) > 10, f"{name} is empty"


def test_pictures_and_events_have_no_part_in_the_numbers(finished, digits, tmp_path):
    fit.fit(_config(), digits, tmp_path / "run")
    assert not (tmp_path / "run" / "plots").exists()
    one, other = (Checkpoints(path / "checkpoints") for path in (finished, tmp_path / "run"))
    assert one.steps() == other.steps()
    first, second = one.arrays(one.steps()[-1]), other.arrays(one.steps()[-1])
    assert first.keys() == second.keys()
    assert all(first[name].tobytes() == second[name].tobytes() for name in first)


def test_a_picture_that_cannot_be_drawn_costs_one_line_and_no_training(
    digits, tmp_path, monkeypatch
):
    def full(figure, path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(plots, "save", full)
    said = Said()
    summary = fit.fit(_config(plots=True), digits, tmp_path / "run", said)
    assert summary["epoch"] == 2
    warnings = [line for line in said.lines if line.startswith("warning")]
    assert len(warnings) == 1
    assert "plots/curves.png (No space left on device)" in warnings[0]


def test_curves_wait_until_they_cost_little(finished, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(plots, "save", lambda figure, path: drawn.append(path.name))
    clock = iter([0.0, 1.0, 2.0, 50.0, 52.0, 53.0, 54.0, 54.5])
    monkeypatch.setattr(run_plots.time, "monotonic", lambda: next(clock))
    pictures = run_plots.RunPlots(RunDir(finished), Run(finished).settings, print, tmp_path)
    pictures.epoch({"epoch": 1}, 4)  # from 0 s to 1 s: the next one can be at 51 s
    pictures.epoch({"epoch": 2}, 4)  # at 2 s
    pictures.epoch({"epoch": 3}, 4)  # at 50 s
    assert len(drawn) == 1
    pictures.epoch({"epoch": 3}, 4)  # at 52 s
    assert len(drawn) == 2
    pictures.epoch({"epoch": 4}, 4)  # at 54 s: too soon, but the last
    assert len(drawn) == 3


def test_worst_mistakes_are_wrong_and_give_the_truth_the_least():
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.6, 0.4]])
    assert chosen.worst(probabilities, np.array([1, 1, 1, 0]), 9) == [0, 1]
    assert chosen.spread(100, 3) == [0, 49, 99]
    assert chosen.spread(2, 16) == [0, 1]


def test_the_evaluation_is_that_of_the_training(finished):
    run = Run(finished)
    result = evaluation.evaluate(run, print)
    last = run.records[-1]
    assert result.step == last["step"]
    assert result.scores.top1 == pytest.approx(last["eval_accuracy"], abs=1e-12)
    assert result.scores.loss == pytest.approx(last["eval_loss"], rel=1e-5)
    content = evaluation.as_json(run, result)
    assert content["split"] == "test" and len(content["per_class"]) == 10
    json.dumps(content, allow_nan=False)


def test_a_moved_run_is_evaluated_without_a_change_in_it(finished, tmp_path, command):
    moved = tmp_path / "else where"
    shutil.copytree(finished, moved)
    before = _files(moved)
    code, output, errors = command("evaluate", str(moved), "--split", "train[:100]", "--json")
    assert code == 0 and "both splits" in " ".join(errors)  # it was trained on these
    content = json.loads(output)
    assert content["examples"] == 100 and content["split"] == "train[:100]"
    assert _files(moved) == before


def test_a_run_in_progress_is_read_from_its_newest_whole_checkpoint(finished, tmp_path):
    going = tmp_path / "run"
    shutil.copytree(finished, going)
    (going / "summary.json").unlink()
    with open(going / "metrics.jsonl", "a") as file:
        file.write('{"epoch": 3, "ste')
    newest, before = sorted(Checkpoints(going / "checkpoints").steps())[::-1]
    (going / "checkpoints" / ".tmp-99").mkdir()
    damaged = next((going / "checkpoints" / str(newest)).rglob("manifest.json"))
    damaged.write_text("{}")
    run, said = Run(going), []
    assert run.summary is None and [r["epoch"] for r in run.records] == [1, 2]
    step, variables = run.newest(said.append)
    assert step == before
    assert len(said) == 1 and f"step {newest} is damaged" in said[0]
    assert (going / "checkpoints" / str(newest)).is_dir()  # a reader sets nothing aside
    assert set(variables["params"]) == {"conv1", "conv2", "dense1", "dense2", "classifier"}


def test_a_checkpoint_that_disappears_while_it_is_read_is_passed_over(finished, monkeypatch):
    steps = Checkpoints(finished / "checkpoints").steps()
    listed = iter([[*steps, 10**6], steps, steps])
    monkeypatch.setattr(Checkpoints, "steps", lambda self: next(listed))
    assert Run(finished).newest(print)[0] == steps[-1]


def test_averaged_weights_are_the_ones_that_are_used(tmp_path):
    settings = _config(ema_decay=0.5, epochs=1, batch_size=16, eval_batch_size=10)
    dataset = random_dataset(size=16)
    fit.fit(settings, dataset, tmp_path / "run")
    run = Run(tmp_path / "run")
    step, variables = run.newest(print)
    arrays = Checkpoints(tmp_path / "run" / "checkpoints").arrays(step)
    np.testing.assert_array_equal(
        variables["params"]["conv1"]["kernel"], arrays["ema/params/conv1/kernel"]
    )
    assert not np.array_equal(variables["params"]["conv1"]["kernel"], arrays["params/conv1/kernel"])


def test_what_is_no_run_is_named(finished, tmp_path):
    with pytest.raises(UserError, match="is no run folder, it has no config.json"):
        Run(tmp_path)
    shutil.copytree(finished, tmp_path / "run")
    content = json.loads((finished / "config.json").read_text())
    del content["dataset"]["mean"]
    (tmp_path / "run" / "config.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="not what a run writes .*mean"):
        Run(tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    shutil.copy(finished / "config.json", tmp_path / "run")
    with pytest.raises(UserError, match="has no whole checkpoint yet"):
        Run(tmp_path / "run").newest(print)


def test_runs_are_named_by_what_tells_them_apart(finished, tmp_path):
    for parent in ("a", "b"):
        shutil.copytree(finished, tmp_path / parent / "run")
    found = runs.named([tmp_path / "a" / "run", tmp_path / "b" / "run"])
    assert list(found) == ["a/run", "b/run"]
    assert list(runs.named([finished])) == ["run"]
    with pytest.raises(UserError, match="given twice"):
        runs.named([finished, finished])


def test_images_are_classified_as_the_training_would(finished, digits, tmp_path):
    """Every digit as a PNG file must be classified as its pixels in the data set are."""
    count = 5
    for i in range(count):
        Image.fromarray(digits.eval.images[i, ..., 0]).save(tmp_path / f"{i}.png")
    (tmp_path / "broken.png").write_text("no image")
    (tmp_path / "out").mkdir()
    picture = tmp_path / "out" / "result.png"
    done = _jaxcnn("predict", finished, tmp_path, "--json", "--picture", picture)
    assert done.returncode == 1  # of the broken one
    assert done.stderr.strip().splitlines() == [
        f"error: {tmp_path / 'broken.png'}: not an image in a format that is read here: "
        "choose a file in one of PNG, JPEG, GIF, BMP, WEBP, TIFF, PPM"
    ]
    predictions = json.loads(done.stdout)["predictions"]
    expected = evaluation.classifier(Run(finished), print, count)[1].probabilities(
        digits.eval.images[:count]
    )
    assert len(predictions) == count
    for found, row in zip(predictions, expected, strict=True):
        assert found["class"] == digits.class_names[row.argmax()]
        shown = [entry["probability"] for entry in found["top"]]
        np.testing.assert_allclose(shown, np.sort(row)[::-1][:5], rtol=1e-3)
    assert _width(picture) > 600


@pytest.mark.slow
@pytest.mark.ci
def test_plots_of_one_run_and_of_several(finished, tmp_path, command):
    before = _files(finished)
    code, _, errors = command("plot", str(finished), "--out", str(tmp_path / "pictures"))
    assert code == 0, errors
    assert {path.name for path in (tmp_path / "pictures").iterdir()} == PICTURES
    # The same figure gives the same bytes, in training and afterwards.
    for name in PICTURES - {"predictions.png", "mistakes.png", "grad_cam.png"}:
        assert (tmp_path / "pictures" / name).read_bytes() == before[finished / "plots" / name]
    shutil.copytree(finished, tmp_path / "other")
    both = tmp_path / "both.png"
    code, _, errors = command("plot", str(finished), str(tmp_path / "other"), "--out", str(both))
    assert code == 0, errors
    assert _width(both) > 600
    assert _files(finished) == before
    code, _, errors = command("plot", str(tmp_path))
    assert code == 1 and errors[0].startswith(f"error: {tmp_path} is no run folder")


def test_event_files_hold_the_metrics(finished):
    from tensorboardX.proto.event_pb2 import Event

    (path,) = (finished / "tensorboard").iterdir()
    content, found, place = path.read_bytes(), {}, 0
    while place < len(content):  # length, its checksum, an event, its checksum
        size = int.from_bytes(content[place : place + 8], "little")
        event = Event.FromString(content[place + 12 : place + 12 + size])
        place += 16 + size
        for value in event.summary.value:
            found[value.tag, event.step] = value.simple_value
    records = Run(finished).records
    assert len(found) == 6 * len(records)
    for record in records:
        assert found["loss/eval", record["step"]] == pytest.approx(record["eval_loss"])
        assert found["accuracy/train", record["step"]] == pytest.approx(record["train_accuracy"])


def test_a_missing_tensorboard_library_is_named_before_anything_is_compiled(
    digits, tmp_path, monkeypatch
):
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'jaxcnn\[tensorboard\]'"):
        fit.fit(_config(tensorboard=True), digits, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_network_of_a_run_is_that_of_its_config(finished):
    run = Run(finished)
    assert run.settings == Settings.from_json(json.loads((finished / "config.json").read_text()))
    assert run.model == run.settings.create_model()


def test_a_run_is_calibrated_by_images_that_were_held_out(finished, tmp_path, command):
    code, output, errors = command("evaluate", str(finished), "--calibrate", "--out", str(tmp_path))
    assert code == 0, errors
    assert "fitted to 925 held-out images, train[512:1437]" in output
    content = json.loads((tmp_path / "calibration.json").read_text())
    assert content["fitted_on"] == {"split": "train[512:1437]", "examples": 925}
    assert content["before"]["loss"] == pytest.approx(Run(finished).records[-1]["eval_loss"], 1e-5)
    assert sum(row["examples"] for row in content["after"]["per_bin"]) == content["examples"] == 360
    assert _width(tmp_path / "calibration.png") > 600
    again = command("evaluate", str(finished), "--calibrate", "--out", str(tmp_path), "--json")
    assert json.loads(again[1]) == content


def test_a_run_without_held_out_images_is_not_calibrated(finished, tmp_path, command):
    shutil.copytree(finished, tmp_path / "run")
    text = (finished / "config.json").read_text()
    (tmp_path / "run" / "config.json").write_text(text.replace("train[:512]", "train"))
    code, _, errors = command("evaluate", str(tmp_path / "run"), "--calibrate")
    assert code == 1 and len(errors) == 1
    assert "has no held-out training images" in errors[0] and "train[:90%]" in errors[0]
    assert not (tmp_path / "run" / "trust").exists()


@pytest.mark.slow
@pytest.mark.ci
def test_a_run_is_evaluated_under_corruptions(finished, tmp_path, command, monkeypatch):
    monkeypatch.setattr(table, "NAMES", ("contrast", "impulse_noise", table.JPEG))
    wanted = ["--corruptions", "--limit=30", "--split=test[10:]", "--out", str(tmp_path)]
    code, output, errors = command("evaluate", str(finished), *wanted)
    assert code == 0, errors
    content = json.loads((tmp_path / "corruptions.json").read_text())
    run = Run(finished)
    images, labels = run.dataset("test[10:40]").eval
    _, network = evaluation.classifier(run, print, 30)

    def error(images):
        return np.mean(network.logits(images).argmax(1) != labels)

    assert content["examples"] == 30 and content["clean_error"] == error(images)
    rows = content["errors"]
    assert list(rows) == list(table.NAMES)
    assert rows[table.JPEG] == [error(jpeg.recompressed(images, q)) for q in (80, 65, 58, 50, 40)]
    faint = table.corruptor("contrast", (32, 32, 3), 30)(images, 5, 0)
    assert rows["contrast"][4] == error(faint)
    mean = np.mean(list(rows.values()))
    assert content["mean_corruption_error"] == pytest.approx(mean)
    assert content["relative_mean_corruption_error"] == pytest.approx(mean - error(images))
    assert "computed anew" in output and "not the published files" in output
    assert _width(tmp_path / "corruptions.png") > 600
    code, _, errors = command("evaluate", str(finished), "--limit", "3")
    assert code == 1 and errors == [
        "error: --limit=3 is for --corruptions alone: leave it out, or name the images with "
        "--split='test[:3]'"
    ]
