"""`jaxcnn study`: recipes, order, what is told of the rest, what is left when all is done."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jaxcnn.commands import study as verb
from jaxcnn.commands.parser import Parser
from jaxcnn.config import schema
from jaxcnn.config.settings import check_network
from jaxcnn.errors import UserError
from jaxcnn.study import progress, recipes, study, trainings
from jaxcnn.study.progress import State
from jaxcnn.train import fit


@pytest.mark.parametrize("budget", recipes.BUDGETS)
def test_every_recipe_is_a_configuration_of_the_budgets_length(budget):
    chosen = recipes.chosen(budget)
    for network in chosen.seeds:
        config = recipes.config(chosen, network, seed=1)
        schema.validate(config)
        check_network(config)
        assert (config.model.name, config.seed) == (network, 1)
        assert config.train.epochs == chosen.epochs
        assert config.dataset.eval_split == "test"  # these are final runs


@pytest.mark.parametrize("budget", recipes.BUDGETS)
@pytest.mark.parametrize("layers", [20, 56])
def test_shortcuts_alone_tell_resnet_from_its_plain_network(budget, layers):
    chosen = recipes.chosen(budget)
    plain, residual = (recipes.recipe(chosen, f"{kind}{layers}") for kind in ("plain", "resnet"))
    assert {key for key in plain if plain[key] != residual[key]} == {"model.name"}


def test_a_part_of_a_budget_or_another_length_can_be_chosen():
    night = recipes.chosen("night")
    assert (night.folder, night.seeds["lenet"], night.seeds["densenet40_k12"]) == ("night", 3, 1)
    part = recipes.chosen("night", ["resnet20", "lenet"], 60)
    assert (part.folder, part.seeds) == ("night-60-epochs", {"lenet": 3, "resnet20": 3})
    assert recipes.recipe(part, "lenet")["train.epochs"] == part.epochs == 60
    assert recipes.chosen("hour", ["resnet56"]).seeds == {"resnet56": 1}
    for wrong, line in [((["lent"],), "--networks=lent: the study has lenet"),
                        (((), 0), "--epochs=0: at least 1")]:  # fmt: skip
        with pytest.raises(UserError, match=line):
            recipes.chosen("night", *wrong)


def test_the_documentation_has_the_budgets():
    text = (Path(__file__).parents[1] / "docs" / "study.md").read_text()
    for name, budget in recipes.BUDGETS.items():
        data = {"digits": "digits", "cifar10": "CIFAR-10"}[budget.dataset]
        assert f"| `{name}` | {data} | {budget.epochs} | {sum(budget.seeds.values())} | " in text


def test_the_four_families_are_trained():
    for budget in recipes.BUDGETS.values():
        families = {name.rstrip("0123456789").partition("40")[0] for name in budget.seeds}
        assert families == {"lenet", "mobilenet", "resnet", "plain", "densenet"}


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.4, "0 s"), (59.4, "59 s"), (59.6, "1 min"), (600, "10 min"), (3600, "1 h 00 min"),
     (11100, "3 h 05 min"), (3599, "1 h 00 min")],
)  # fmt: skip
def test_a_length_of_time_in_words(seconds, words):
    assert progress.duration(seconds) == words


def _state(network, done, *seconds, epochs=4, accuracy=None):
    return State(f"{network}-seed0", network, done, epochs, seconds, accuracy)


def test_what_is_left_is_told_by_the_epochs_that_were_measured():
    found = [_state("lenet", 4, 1, 2, 9, 2, accuracy=0.5), _state("lenet", 1, 2.0),
             _state("resnet20", 2, 100.0, 50.0), _state("densenet40_k12", 0)]  # fmt: skip
    # Medians: 2 s for the three epochs of lenet, 75 s for two of resnet20.
    assert progress.left(found) == (6 + 150, ["densenet40_k12"])
    words = progress.remaining(found)
    assert "3 of 4 trainings, about 3 min and that of densenet40_k12, known after" in words
    assert progress.remaining(found[:3]) == "left: about 3 min for 2 of 3 trainings"
    assert progress.remaining(found[:1]) == "nothing is left to train"
    assert progress.remaining(found[3:]) == (
        "left: 1 of 1 trainings, that of densenet40_k12, known after an epoch of each"
    )
    lines = progress.table(found).splitlines()
    assert lines[1].split() == ["lenet-seed0", "4", "of", "4", "2.0", "50.00", "done"]
    assert lines[4].split() == ["densenet40_k12-seed0", "0", "of", "4", "-", "-", "unknown"]


def _args(out, *arguments):
    parser = Parser("study", verb.__doc__)
    verb.add_arguments(parser)
    return parser.parse(["--out", str(out), *arguments])


@pytest.fixture
def fitted(monkeypatch):
    """Trainings and reports that take no time; plain networks diverge. Gives what was done."""
    done = {"trained": [], "reported": []}

    def fake_fit(config, dataset, path, observer):
        done["trained"].append((config.seed, config.model.name))
        path.mkdir(parents=True, exist_ok=True)
        if config.model.name.startswith("plain"):
            raise UserError("the loss is not finite")
        accuracy = {"lenet": 0.7, "densenet40_k12": 0.9}.get(config.model.name, 0.8)
        summary = {
            "model": config.model.name, "epoch": config.train.epochs, "step": 1,
            "learning_rate": 0.0, "train_loss": 1.0, "train_accuracy": 0.5, "eval_loss": 2.0,
            "eval_accuracy": accuracy + config.seed / 100, "seconds": 1.0,
            "images_per_second": 5.0, "total_seconds": 10.0, "parameters": 1234, "flops": 5_000_000,
        }  # fmt: skip
        (path / "summary.json").write_text(json.dumps(summary))
        config_json = {"dataset": {"train_split": "train", "eval_split": "test",
                                   "fingerprint": "pixels sha256:1"}}  # fmt: skip
        (path / "config.json").write_text(json.dumps(config_json))
        return summary

    def fake_report(found, out, **options):
        done["reported"].append(found)
        (out / "report.html").write_text("page")

    monkeypatch.setattr(fit, "fit", fake_fit)
    monkeypatch.setattr(trainings.RunDir, "check", lambda self, config: None)
    monkeypatch.setattr(trainings.data, "load", lambda **section: None)
    monkeypatch.setattr(trainings.Settings, "resolve", lambda config, dataset: fit)
    monkeypatch.setattr(fit, "to_json", dict, raising=False)
    monkeypatch.setattr(verb.training, "prepare", lambda configs: None)
    monkeypatch.setattr(verb.report, "write", fake_report)
    monkeypatch.setattr(verb.report, "steps", lambda *_: 1)
    monkeypatch.setattr(verb.runs, "named", lambda paths: [path.name for path in paths])
    return done


def test_all_networks_of_a_seed_come_before_the_next_seed(tmp_path, fitted, capsys):
    assert verb.run(_args(tmp_path, "--budget", "night")) == 1  # the plain network failed
    seeds = recipes.BUDGETS["night"].seeds
    assert fitted["trained"] == [(seed, n) for seed in range(3) for n in seeds if seed < seeds[n]]
    # The report is of seed 0, whatever the others reached.
    compared = [f"{name}-seed0" for name in seeds if not name.startswith("plain")]
    assert fitted["reported"] == [compared]
    folder = tmp_path / "night"
    results = json.loads((folder / "study.json").read_text())
    rows = {row["network"]: row for row in results["networks"]}
    assert rows["lenet"]["eval_accuracy"] == {
        "mean": pytest.approx(0.71), "std": pytest.approx(0.01), "n": 3
    }  # fmt: skip
    assert [failure["seed"] for failure in rows["plain20"]["failures"]] == [0, 1, 2]
    assert (results["trainings"], results["done"], results["failed"]) == (16, 16, 4)
    assert rows["resnet20"]["recipe"]["train.epochs"] == recipes.BUDGETS["night"].epochs
    markdown, shown = (folder / "study.md").read_text(), capsys.readouterr().out
    assert (
        "| lenet | 1,234 | 5.0 M | 20 | 3 | 71.00 ± 1.00 | 2.000 ± 0.000 | 1.000 ± 0.000 | - |"
        in markdown
    )
    for text in (markdown, shown):
        assert "plain20-seed1 failed: the loss is not finite" in text
        assert "trained on train, evaluated on test of pixels sha256:1" in text


def test_results_are_on_disk_after_every_training(tmp_path, fitted, monkeypatch):
    working = fit.fit

    def stop(config, *rest):
        if config.model.name == "resnet20":
            raise KeyboardInterrupt
        return working(config, *rest)

    monkeypatch.setattr(fit, "fit", stop)
    with pytest.raises(KeyboardInterrupt, match="the same command continues"):
        verb.run(_args(tmp_path))
    results = json.loads((tmp_path / "minutes" / "study.json").read_text())
    assert [row["network"] for row in results["networks"]] == ["lenet", "mobilenet"]
    assert not fitted["reported"]


def test_the_status_is_read_and_nothing_is_trained_or_made(tmp_path, fitted, capsys):
    verb.run(_args(tmp_path / "new", "--status"))
    lines = capsys.readouterr().out.splitlines()
    names = recipes.BUDGETS["minutes"].seeds
    assert [line.split()[0] for line in lines[1:-1]] == [f"{name}-seed0" for name in names]
    assert not fitted["trained"] and not (tmp_path / "new").exists()


def test_a_part_is_trained_beside_what_is_finished(tmp_path, fitted):
    verb.run(_args(tmp_path, "--networks", "mobilenet"))
    verb.run(_args(tmp_path, "--networks", "lenet"))
    assert fitted["trained"] == [(0, "mobilenet"), (0, "lenet"), (0, "mobilenet")]
    results = json.loads((tmp_path / "minutes" / "study.json").read_text())
    assert [row["network"] for row in results["networks"]] == ["lenet", "mobilenet"]
    # One that has not reached its end is not trained because of another.
    path = tmp_path / "minutes" / "runs" / "mobilenet-seed0" / "summary.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "epoch": 1}))
    verb.run(_args(tmp_path, "--networks", "lenet"))
    assert fitted["trained"][3:] == [(0, "lenet")]


def test_missing_data_end_the_study_before_it_begins(tmp_path, fitted, monkeypatch):
    def missing(**section):
        raise UserError("cifar10 cannot be had")

    monkeypatch.setattr(trainings.data, "load", missing)
    with pytest.raises(UserError, match="cannot be had"):
        verb.run(_args(tmp_path, "--budget", "hour"))
    assert not fitted["trained"] and not (tmp_path / "hour" / "study.json").exists()


def test_an_epoch_tells_what_is_left_of_all(tmp_path, monkeypatch):
    said = []
    reporter = study.Observer()
    monkeypatch.setattr(reporter, "say", said.append)
    jobs = study.jobs(recipes.chosen("minutes"), tmp_path)
    jobs[0].path.mkdir(parents=True)
    record = {"epoch": 1, "step": 2, "learning_rate": 0.1, "train_loss": 1.0, "seconds": 30.0,
              "train_accuracy": 0.5, "eval_loss": 1.0, "eval_accuracy": 0.5,
              "images_per_second": None}  # fmt: skip
    (jobs[0].path / "metrics.jsonl").write_text(json.dumps(record) + "\n")
    study.Remaining(jobs, reporter).epoch(record, 2)
    assert "left: 5 of 5 trainings, about 30 s and that of mobilenet, resnet20" in said[0]


@pytest.mark.slow
def test_the_study_of_minutes_ends_with_everything(tmp_path):
    command = [sys.executable, "-m", "jaxcnn", "study", "--out", str(tmp_path)]
    began = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    print(f"{time.monotonic() - began:.0f} s")
    folder = tmp_path / "minutes"
    page = (folder / "report.html").read_text()
    results = json.loads((folder / "study.json").read_text())
    accuracies = {row["network"]: row["eval_accuracy"]["mean"] for row in results["networks"]}
    assert set(accuracies) == set(recipes.NETWORKS) and all(name in page for name in accuracies)
    assert min(accuracies[name] for name in ("lenet", "resnet20", "densenet40_k12")) > 0.8
    assert "nothing is left to train" in subprocess.run(
        [*command, "--status"], capture_output=True, text=True
    ).stdout  # fmt: skip
