"""The comparison: claims follow from numbers, and the page is safe, whole and readable."""

import html.parser
import json
import math
import re
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import random_dataset

from jaxcnn import models, plots, report
from jaxcnn.config import schema
from jaxcnn.data import image_files
from jaxcnn.errors import UserError
from jaxcnn.evaluate import run as runs
from jaxcnn.evaluate import sources
from jaxcnn.evaluate.classifier import Classifier
from jaxcnn.evaluate.grad_cam import GradCam
from jaxcnn.models import lenet, summary
from jaxcnn.models.densenet import DenseNet
from jaxcnn.report import claims, counts, facts, gradients, page, samples
from jaxcnn.train import fit


def _fact(name, model, **changes):
    family = models.FAMILY[model]
    row = {
        "name": name, "model": model, "family": family, "plain": model.startswith("plain"),
        "parameters": 1000, "flops": 5000, "bytes": 4000, "layers": 20, "epochs": 2,
        "planned_epochs": 2, "train_split": "train", "train_examples": 100, "eval_split": "test",
        "data": "noise", "dtype": "float32", "device": "2 cores", "images_per_second": 10.0,
        "seconds_per_epoch": 1.0, "total_minutes": 1.0, "train_loss": 1.0, "train_accuracy": 0.5,
        "eval_loss": 1.0, "eval_accuracy": 0.5, "warnings": [], "losses_differ": "",
        **changes,
    }  # fmt: skip
    row["records"] = [
        {"epoch": i, "minutes": i * row["total_minutes"] / 2, "images": 100 * i,
         "learning_rate": 0.1,
         **{key: row[key] for key in ("train_loss", "train_accuracy", "eval_loss")},
         "eval_accuracy": row["eval_accuracy"] * i / 2}
        for i in (1, 2)
    ]  # fmt: skip
    return row


@pytest.mark.parametrize(
    ("dense", "residual", "verdict"),
    [
        ((100, 0.80), (200, 0.81), claims.SUPPORTED),  # fewer, as good
        ((100, 0.95), (200, 0.80), claims.SUPPORTED),  # fewer, even better
        ((300, 0.81), (200, 0.80), claims.REFUTED),  # more, as good
        ((300, 0.70), (200, 0.80), claims.REFUTED),  # more, and worse
        ((100, 0.70), (200, 0.80), claims.UNDECIDED),  # fewer, but worse
        ((300, 0.90), (200, 0.80), claims.UNDECIDED),  # more, but better
    ],
)
def test_what_densenet_needs_is_judged_at_like_accuracy(dense, residual, verdict):
    found = [
        _fact("d", "densenet40_k12", parameters=dense[0], eval_accuracy=dense[1]),
        _fact("r", "resnet20", parameters=residual[0], eval_accuracy=residual[1]),
        _fact("p", "plain20", parameters=1, eval_accuracy=0.99),  # no residual network
    ]
    assert claims.dense_needs_less(found, "parameters", "parameters").verdict == verdict
    assert claims.dense_needs_less(found[1:], "parameters", "x").verdict == claims.MISSING


def _gradient(name, family, depth, ratio, when="init"):
    norms = [ratio, 1.0, 1.0]
    return {"name": name, "family": family, "depth": depth, "when": when, "norms": norms,
            "ratio": ratio}  # fmt: skip


@pytest.mark.parametrize(
    ("ratio", "expected", "verdict"),
    [
        (0.01, True, claims.SUPPORTED),
        (0.5, True, claims.REFUTED),
        (100.0, True, claims.REFUTED),
        (0.01, False, claims.REFUTED),
        (0.5, False, claims.SUPPORTED),
    ],
)
def test_vanishing_is_judged_by_the_deepest_network(ratio, expected, verdict):
    lines = [_gradient("a", "plain", 20, 0.5), _gradient("b", "plain", 56, ratio)]
    claim = claims.vanishing(lines, ("plain",), "init", expected=expected)
    assert claim.verdict == verdict
    assert claim.reasons[0].startswith("b: ") and f"{ratio:.3g} times" in claim.reasons[0]
    assert any("explode" in reason for reason in claim.reasons) == (ratio > 10)
    trained = claims.vanishing(lines, ("plain",), "trained", expected=expected)
    assert trained.verdict == claims.MISSING and "plain56" in trained.reasons[0]


def test_degradation_needs_the_four_networks_on_the_same_images():
    losses = {"plain20": 1.0, "plain56": 2.0, "resnet20": 0.9, "resnet56": 0.8}
    found = [_fact(name, name, train_loss=loss) for name, loss in losses.items()]
    assert claims.degradation(found).verdict == claims.SUPPORTED
    assert claims.degradation(found[:2]).reasons == ["Give a run of each of: resnet20, resnet56."]
    found[0] = _fact("plain20", "plain20", train_loss=3.0)  # worse than the deeper one
    assert claims.degradation(found).verdict == claims.MIXED
    found[0] = _fact("plain20", "plain20", train_split="train[:10]")
    assert claims.degradation(found).verdict == claims.MISSING


def test_the_least_and_the_first_are_found():
    found = [
        _fact("m", "mobilenet", parameters=50, images_per_second=5.0, eval_accuracy=0.8),
        _fact("r", "resnet20", parameters=80, images_per_second=9.0, total_minutes=0.5),
    ]
    assert claims.least(found, "parameters", "parameters").verdict == claims.SUPPORTED
    assert claims.least(found[1:], "parameters", "parameters").verdict == claims.MISSING
    assert claims.fastest(found).reasons[0].startswith("r, with 9 ")
    soonest = claims.soonest(found)
    assert soonest.reasons[0].startswith("50 % is first reached by r, after 0.5 minutes (epoch 2)")
    assert soonest.rows[0][1:] == ["r", "0.5", "2"]


def test_separable_convolutions_are_counted_per_layer():
    counted = counts.of_runs({})["separable"]
    assert len(counted) == 8
    assert counted[1]["separable"] == 8 * 8 * (9 * 32 + 32 * 64)  # by hand
    assert counted[1]["standard"] == 8 * 8 * 9 * 32 * 64
    claim = claims.separable_operations(counted)
    assert claim.verdict == claims.SUPPORTED
    wrong = [{**counted[0], "ratio": 0.5}]
    assert claims.separable_operations(wrong).verdict == claims.REFUTED
    slow = [{"block": "b", "formula": 0.1, "ratio": 0.9, "separable": 9.0, "standard": 10.0}]
    assert claims.separable_time(slow).verdict == claims.REFUTED


@pytest.mark.parametrize("bn_size", [0, 4])
def test_connections_of_a_dense_block_are_read_off_its_kernels(bn_size):
    found = counts.connections(DenseNet((3, 5), growth_rate=4, bn_size=bn_size), (8, 8, 3))
    assert found == [
        {"layers": 3, "connections": 6},
        {"layers": 5, "connections": 15},
    ]
    assert claims.dense_connections({"net": found}).verdict == claims.SUPPORTED
    found[0]["connections"] = 5
    assert claims.dense_connections({"net": found}).verdict == claims.MIXED


def test_the_untrained_networks_have_equal_depths():
    for name, _, depth, model in gradients._untrained(10, gradients.DEPTHS):
        layers = summary.layers(model, (32, 32, 3))
        assert sum(layer.kind != "norm" for layer in layers) == depth, name


class _Page(html.parser.HTMLParser):
    """Checks that elements are closed in order, and keeps their attributes."""

    EMPTY = {"meta", "img", "br", "input"}

    def __init__(self, text):
        """Reads the whole page."""
        super().__init__()
        self.open, self.found = [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def _render(found):
    counts = {"xla": {"resnet20": {"flops": 100, "inside": 90, "xla": 91.0}}}
    gradients = [_gradient("plain56", "plain", 56, 0.5)]
    checked = [claims.fastest(list(found.values()))]
    answer = [{"class": "dog", "probability": 0.5, "map": "data:image/png;base64,BBBB"}]
    samples = {
        "images": ["data:image/png;base64,AAAA"],
        "labels": ["cat"],
        "left_out": ["odd"],
        "answers": dict.fromkeys(found, answer),
    }
    return page.render(found, counts, gradients, checked, samples)


def test_the_page_is_whole_and_what_runs_say_is_only_text():
    evil = "</script><script>alert(1)</script><img src=x>'\""
    found = {n: _fact(n, "resnet20", data=n) for n in ("run", evil)}
    text = _render(found)
    tags = _Page(text).found
    assert [tag for tag, _ in tags].count("script") == 2
    assert not [a for _, a in tags if a.get("src", "data:").partition(":")[0] != "data"]
    assert not [a for _, a in tags if "href" in a]
    embedded = re.search(r'id="data">(.*?)</script>', text, re.S)
    assert [run["name"] for run in json.loads(embedded[1])["runs"]] == ["run", evil]
    assert "default-src 'none'" in text
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text)


def test_each_image_stands_before_each_answer_and_where_the_network_looks_for_it():
    found = {name: _fact(name, "resnet20") for name in ("a", "b")}
    shown = [a["src"][-4:] for tag, a in _Page(_render(found)).found if tag == "img"]
    assert shown == ["AAAA", "BBBB", "BBBB"]


def test_the_page_shows_what_the_program_warned_of():
    quiet, loud = _fact("a", "resnet20"), _fact("b", "resnet20", warnings=["3 <examples> twice"])
    assert "Warnings" not in _render({"a": quiet})
    text = _render({"a": quiet, "b": loud})
    assert "<h2>Warnings</h2><ul><li>b: 3 &lt;examples&gt; twice</li></ul>" in text


def test_the_page_says_under_its_table_why_losses_differ():
    found = {"a": _fact("a", "resnet20"), "b": _fact("b", "resnet20", losses_differ="why: x < y")}
    text = _render(found)
    assert "</table></div><p>b: why: x &lt; y.</p></section>" in text and "<p>a: " not in text


def _run(folder, name):
    settings = schema.default_config()
    settings.model.name = name
    settings.train.epochs, settings.train.batch_size = 1, 16
    settings.train.eval_batch_size, settings.train.plots = 10, False
    settings.optim.peak_lr = 0.01
    fit.fit(settings, random_dataset(size=32), folder)


@pytest.fixture(scope="module")
def lenet_run(tmp_path_factory):
    """A finished run of one epoch; tests change copies of it."""
    folder = tmp_path_factory.mktemp("lenet") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(lenet.VARIANTS, "lenet", (lenet.LeNet, {"ops": "stock"}))
        _run(folder, "lenet")
    return folder


def test_the_answers_to_images_are_those_of_each_network_with_its_own_map(lenet_run, monkeypatch):
    monkeypatch.setitem(lenet.VARIANTS, "lenet", (lenet.LeNet, {"ops": "stock"}))
    data, run = random_dataset(size=32), runs.Run(lenet_run)
    monkeypatch.setattr(runs.Run, "dataset", lambda *a, **k: data)
    other = SimpleNamespace(class_names=tuple("ABCDEFGHIJ"), image_shape=run.image_shape)
    found = samples.of_runs({"one": run, "odd": other}, "", pytest.fail)
    assert found["left_out"] == ["odd"] and list(found["answers"]) == ["one"]
    chosen = [int(i) for i in np.linspace(0, 19, 12)]
    assert found["images"] == [image_files.data_url(data.eval.images[i]) for i in chosen]
    assert found["labels"] == [data.class_names[data.eval.labels[i]] for i in chosen]
    _, network = sources.trained(run, pytest.fail)
    images = data.eval.images[chosen]
    rows = Classifier(network, 12).probabilities(images)
    maps = GradCam(network, 12).maps(images, rows.argmax(1))
    for answer, image, row, cam in zip(found["answers"]["one"], images, rows, maps, strict=True):
        assert answer["class"] == data.class_names[row.argmax()]
        assert answer["probability"] == pytest.approx(row.max())
        assert answer["map"] == image_files.data_url(plots.overlay(image, cam))


@pytest.mark.slow
def test_a_report_of_real_runs(tmp_path, monkeypatch):
    """Everything is measured, and the folder of the report is the only one that changes."""
    for name in ("lenet", "resnet20"):
        _run(tmp_path / "runs" / name, name)
    monkeypatch.setattr(runs.Run, "dataset", lambda *a, **k: random_dataset(size=32))
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    found = runs.named([tmp_path / "runs" / "lenet", tmp_path / "runs" / "resnet20"])
    path = report.write(found, tmp_path / "report")
    _Page(path.read_text())
    after = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    new = {p.name for p in after.keys() - before.keys()}
    assert new == {"report.html", "report.json", "curves.png", "gradients.png",
                   "accuracy_against_cost.png"}  # fmt: skip
    assert new == set(report.FILES)
    assert {p: after[p] for p in before} == before
    numbers = json.loads((tmp_path / "report" / "report.json").read_text())
    assert {row["name"] for row in numbers["gradients"]} >= {"plain56", "dense20", "resnet20"}
    assert all(math.isfinite(n) and n > 0 for row in numbers["gradients"] for n in row["norms"])


def test_every_epoch_counts_as_long_as_the_fastest(lenet_run, tmp_path):
    shutil.copytree(lenet_run, tmp_path / "run")
    path = tmp_path / "run" / "metrics.jsonl"
    record = json.loads(path.read_text())
    lines = [
        {**record, "epoch": n, "seconds": s, "images_per_second": r}
        for n, s, r in ((1, 600.0, 1.0), (2, 30.0, 20.0), (3, 90.0, 7.0))
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    row = facts.of_run(runs.Run(tmp_path / "run"))
    assert (row["images_per_second"], row["seconds_per_epoch"]) == (20.0, 30.0)
    assert [r["minutes"] for r in row["records"]] == [0.5, 1.0, 1.5] and row["total_minutes"] == 1.5


def test_losses_far_apart_get_a_logarithmic_axis():
    records = {
        "plain": [{"epoch": 1, "train_loss": 2.3, "eval_loss": 1117.0}],
        "residual": [{"epoch": 1, "train_loss": 2.0, "eval_loss": 1.5}],
    }
    scales = [axes.get_yscale() for axes in plots.compared(records).axes]
    assert scales == ["linear", "log", "linear", "linear"]


def _imported_fact(name, model):
    gone = dict.fromkeys(
        ("images_per_second", "seconds_per_epoch", "total_minutes", "train_loss", "train_accuracy")
    )
    return {**_fact(name, model, epochs=0, eval_accuracy=0.75), **gone, "records": []}


def test_imported_weights_stand_in_the_table_and_have_no_curves(tmp_path):
    found = {"mine": _fact("mine", "lenet"), "theirs": _imported_fact("theirs", "resnet20")}
    text = _render(found)
    _Page(text)
    row = re.search(r"<tr><th scope='row'>theirs</th>(.*?)</tr>", text)[1]
    assert "<td>imported</td>" in row and "<td>75.00 %</td>" in row
    embedded = json.loads(re.search(r'id="data">(.*?)</script>', text, re.S)[1])
    assert [run["name"] for run in embedded["runs"]] == ["mine"]
    assert text.count("data-run='") == text.count("data-own='") == 1
    alone = _render({"theirs": found["theirs"]})
    assert json.loads(re.search(r'id="data">(.*?)</script>', alone, re.S)[1])["runs"] == []
    report._draw({}, [_gradient("plain56", "plain", 56, 0.5)], tmp_path)
    assert {path.name for path in tmp_path.iterdir()} < set(report.FILES)


def test_imported_weights_are_evaluated_for_a_comparison(lenet_run, tmp_path, monkeypatch):
    shutil.copytree(lenet_run, tmp_path / "run")
    for name in ("metrics.jsonl", "summary.json"):
        (tmp_path / "run" / name).unlink()
    starts = {"starts": [{"imported": {"file": "weights.pt"}, "platform": "cpu"}]}
    (tmp_path / "run" / "environment.json").write_text(json.dumps(starts))
    monkeypatch.setattr(runs.Run, "dataset", lambda *a, **k: random_dataset(size=32))
    before, imported = (facts.of_run(runs.Run(f)) for f in (lenet_run, tmp_path / "run"))
    assert (imported["records"], imported["epochs"], imported["total_minutes"]) == ([], 0, None)
    for key in ("eval_loss", "eval_accuracy"):
        assert imported[key] == pytest.approx(before[key])
    assert json.dumps(imported, allow_nan=False)


def test_a_run_without_an_epoch_is_refused(lenet_run, tmp_path):
    shutil.copytree(lenet_run, tmp_path / "run")
    (tmp_path / "run" / "metrics.jsonl").unlink()
    with pytest.raises(UserError, match="has no epoch yet"):
        facts.of_run(runs.Run(tmp_path / "run"))
