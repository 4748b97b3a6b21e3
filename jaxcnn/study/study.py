"""The study: four networks, and plain against residual, trained alike and compared."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxcnn.run.folder import write_atomically
from jaxcnn.run.observers import Observer
from jaxcnn.study import progress, recipes, tables
from jaxcnn.study.jobs import Job, Outcome
from jaxcnn.study.side_by_side import Beside
from jaxcnn.study.trainings import Trainings, origin, reached

FILES = ("study.json", "study.md")
"""What the study writes beside its run folders, before the report."""


def jobs(budget: recipes.Budget, out: Path, data_dir: str = "") -> list[Job]:
    """Returns the trainings of a budget: of each seed all networks, those that take longest last.

    Those that other parts of the budget have finished in the same folder are among them.

    Args:
        budget: From `recipes.chosen`.
        out: The folder of the results; runs lie in runs/.
        data_dir: A TFDS directory; empty for the default.
    """
    found = []
    counts = {**recipes.BUDGETS[budget.name].seeds, **budget.seeds}
    for seed in range(max(counts.values())):
        for network in [name for name in recipes.NETWORKS if seed < counts.get(name, 0)]:
            config = recipes.config(budget, network, seed)
            config.dataset.data_dir = data_dir
            name = f"{network}-seed{seed}"
            job = Job(name, config, out / "runs" / name)
            if seed < budget.seeds.get(network, 0) or job.is_finished:
                found.append(job)
    return found


class Remaining(Observer):
    """Says after each epoch what is left of all trainings."""

    def __init__(self, all_jobs: list[Job], observer: Observer) -> None:
        """Reads how far `all_jobs` are, and says it to `observer`."""
        self._jobs, self._observer = all_jobs, observer

    def epoch(self, record: dict[str, Any], epochs: int) -> None:
        """Says what is left; the epoch's own line has been said."""
        self._observer.say(f"  {progress.remaining(progress.states(self._jobs))}")


def run(
    budget: recipes.Budget,
    all_jobs: list[Job],
    out: Path,
    observer: Observer,
    beside: Beside | None = None,
) -> dict[str, Any]:
    """Trains what is left and returns the results; `FILES` follow after every training.

    Args:
        budget: From `recipes.chosen`.
        all_jobs: From `jobs`.
        out: The folder of the results, which the caller has claimed.
        observer: Gets the progress.
        beside: If several are to be trained at a time.

    Raises:
        UserError: If no training can begin, as without data.
        Interrupted: When SIGINT or SIGTERM arrived; everything so far is saved.
    """
    trainings = Trainings(all_jobs)
    outcomes: list[Outcome] = []
    results = _results(budget, all_jobs, outcomes)
    order = [job.path for job in all_jobs]
    for outcome in trainings.run(observer, beside, Remaining(all_jobs, observer)):
        outcomes.append(outcome)
        outcomes.sort(key=lambda outcome: order.index(outcome.job.path))
        results = _results(budget, all_jobs, outcomes)
        write_atomically(out / FILES[0], json.dumps(results, indent=2, allow_nan=False) + "\n")
        write_atomically(out / FILES[1], markdown(results))
    return results


def _results(
    budget: recipes.Budget, all_jobs: list[Job], outcomes: list[Outcome]
) -> dict[str, Any]:
    """Returns what the trainings so far have reached, the content of study.json."""
    networks: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        networks.setdefault(outcome.job.config.model.name, []).append(outcome)
    summaries = [outcome.summary for outcome in outcomes]
    return {
        "budget": budget.name,
        "epochs": budget.epochs,
        "trainings": len(all_jobs),
        "done": len(outcomes),
        "failed": summaries.count(None),
        **origin(outcomes),
        "networks": [_of_network(budget, *item) for item in networks.items()],
    }


def _of_network(budget: recipes.Budget, network: str, outcomes: list[Outcome]) -> dict[str, Any]:
    summary = next((outcome.summary for outcome in outcomes if outcome.summary is not None), None)
    runs, failures = reached(outcomes)
    scores = ("eval_accuracy", "eval_loss", "train_loss", "total_seconds")
    pace = progress.paces(progress.states(outcome.job for outcome in outcomes))
    return {
        "network": network,
        "recipe": recipes.recipe(budget, network),
        "parameters": summary["parameters"] if summary else None,
        "flops": summary["flops"] if summary else None,
        "seconds_per_epoch": pace.get(network),
        **{key: tables.spread([run[key] for run in runs]) for key in scores},
        "runs": runs,
        "failures": failures,
    }


_HEADER = (
    "network", "parameters", "multiply-adds", "epochs", "seeds", "accuracy, %", "loss",
    "training loss", "s per epoch",
)  # fmt: skip


def _rows(results: Mapping[str, Any]) -> list[list[str]]:
    rows = []
    for row in results["networks"]:
        known = row["parameters"] is not None
        pace = row["seconds_per_epoch"]
        rows.append(
            [
                row["network"],
                f"{row['parameters']:,}" if known else "-",
                f"{row['flops'] / 1e6:,.1f} M" if known else "-",
                str(results["epochs"]),
                str(row["eval_accuracy"]["n"]),
                tables.shown(row["eval_accuracy"], 2, 100),
                tables.shown(row["eval_loss"], 3),
                tables.shown(row["train_loss"], 3),
                "-" if pace is None else f"{pace:,.1f}",
            ]
        )
    return rows


def _notes(results: Mapping[str, Any]) -> list[str]:
    """Returns what the table does not say: data, machine, failures."""
    notes = [
        f"budget {results['budget']}: {results['done']} of {results['trainings']} trainings; after "
        "the last epoch, mean ± standard deviation of the seeds"
    ]
    notes += tables.origin(results)
    for row in results["networks"]:
        notes += [f"{failure['run']} failed: {failure['reason']}" for failure in row["failures"]]
    return notes


def text(results: Mapping[str, Any]) -> str:
    """Returns the results for a terminal."""
    return "\n".join([tables.text(_HEADER, _rows(results)), *_notes(results)])


def markdown(results: Mapping[str, Any]) -> str:
    """Returns the results in Markdown, with notes as a list."""
    notes = "\n".join(f"- {note}" for note in _notes(results))
    return f"{tables.markdown(_HEADER, _rows(results))}\n\n{notes}\n"
