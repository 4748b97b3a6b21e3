"""A sweep: every combination of some values, each with several seeds, and what they reach."""

import itertools
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import config_dict

from jaxcnn.errors import UserError
from jaxcnn.run.folder import write_atomically
from jaxcnn.run.observers import Observer
from jaxcnn.study import holdout, tables
from jaxcnn.study.jobs import Job, Outcome
from jaxcnn.study.side_by_side import Beside
from jaxcnn.study.trainings import Trainings, claimed, origin, reached

FILES = ("sweep.json", "sweep.md")
"""What a sweep writes beside its run folders."""

_SPLITS = ("dataset.train_split", "dataset.eval_split")


class Point(NamedTuple):
    """A combination of values with its trainings.

    Attributes:
        values: Text by dotted key, of all axes.
        jobs: A training by seed.
    """

    values: dict[str, str]
    jobs: dict[int, Job]


class Sweep:
    """Every combination of values, with its trainings.

    Attributes:
        points: In the order of the axes, the last varying fastest.
        swept: Keys with more than one value.
        source: The configuration's name.
        out: The folder of the sweep.
        report: What is known so far, the content of sweep.json.
    """

    def __init__(
        self,
        source: str,
        axes: Mapping[str, Sequence[str]],
        seeds: int,
        out: Path,
        build: Callable[[Mapping[str, str]], config_dict.ConfigDict],
    ) -> None:
        """Makes the configurations; trains and writes nothing.

        Args:
            source: The configuration's name, for the report.
            axes: Texts of values by dotted key; a single one holds for all trainings.
            seeds: Number of seeds, the configuration's own and those after it.
            out: Folder of the results.
            build: Returns the configuration with such values.

        Raises:
            UserError: For a mistake in a value, or if values would be chosen by the test split.
        """
        self.source, self.out = source, out
        self.swept = [key for key, texts in axes.items() if len(texts) > 1]
        self.points = [
            self._point(dict(zip(axes, texts, strict=True)), seeds, build)
            for texts in itertools.product(*axes.values())
        ]
        paths = [job.path for job in self._jobs()]
        for path in paths:
            if paths.count(path) > 1:
                raise UserError(
                    f"two trainings would have the folder {path}: give each value once, and "
                    "values that differ in letters or digits"
                )
        self._outcomes: dict[Path, Outcome] = {}

    def _point(
        self,
        values: dict[str, str],
        seeds: int,
        build: Callable[[Mapping[str, str]], config_dict.ConfigDict],
    ) -> Point:
        jobs = {}
        for index in range(seeds):
            config = build(values)
            if "train.plots" not in values:
                config.train.plots = False  # pictures of every run would take longer than some runs
            if self.swept:
                holdout.hold_out(config, chosen=any(key in values for key in _SPLITS))
            config.seed += index
            label = [f"{key}={values[key]}" for key in self.swept] + [f"seed={config.seed}"]
            name = re.sub(r"[^\w.,=+-]", "-", ",".join(label))
            jobs[config.seed] = Job(name, config, self.out / name)
        return Point(values, jobs)

    def _jobs(self) -> Iterator[Job]:
        return (job for point in self.points for job in point.jobs.values())

    def run(self, observer: Observer, beside: Beside | None = None) -> None:
        """Trains what is left; `report` and the files follow after every training.

        Args:
            observer: Gets the progress.
            beside: If several are to be trained at a time.

        Raises:
            UserError: If no training can begin.
            Interrupted: When SIGINT or SIGTERM arrived; everything so far is saved.
        """
        trainings = Trainings(list(self._jobs()))
        with claimed(self.out):
            for outcome in trainings.run(observer, beside):
                self._outcomes[outcome.job.path] = outcome
                write_atomically(self.out / "sweep.json", json.dumps(self.report, indent=2) + "\n")
                write_atomically(self.out / "sweep.md", markdown(self.report))

    @property
    def report(self) -> dict[str, Any]:
        """What is known so far, in JSON's kinds of values."""
        points = [self._of_point(point) for point in self.points]
        known = [point for point in points if point["eval_accuracy"]["n"]]
        best = max(known, key=lambda point: point["eval_accuracy"]["mean"], default=None)
        return {
            "config": self.source,
            "swept": self.swept,
            **origin(self._outcomes.values()),
            "trainings": sum(len(point.jobs) for point in self.points),
            "done": len(self._outcomes),
            "failed": sum(len(point["failures"]) for point in points),
            "best": best["values"] if best and self.swept else None,
            "points": points,
        }

    def _of_point(self, point: Point) -> dict[str, Any]:
        paths = (job.path for job in point.jobs.values())
        runs, failures = reached(self._outcomes[path] for path in paths if path in self._outcomes)
        scores = ("eval_accuracy", "eval_loss", "train_loss")
        spreads = {key: tables.spread([run[key] for run in runs]) for key in scores}
        return {"values": point.values, **spreads, "runs": runs, "failures": failures}


def _rows(report: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Returns the head and the rows of the table."""
    keys = report["swept"]
    header = [*(keys or ["configuration"]), "accuracy, %", "loss", "training loss", "n", "failed"]
    rows = []
    for point in report["points"]:
        values = [point["values"][key] for key in keys] or [report["config"]]
        rows.append(
            [
                *values,
                tables.shown(point["eval_accuracy"], 2, 100),
                tables.shown(point["eval_loss"], 4),
                tables.shown(point["train_loss"], 4),
                str(point["eval_accuracy"]["n"]),
                str(len(point["failures"]) or "-"),
            ]
        )
    return header, rows


def _notes(report: Mapping[str, Any]) -> list[str]:
    """Returns what the table does not say: splits, failures, the best."""
    notes = [
        f"{report['config']}: {report['done']} of {report['trainings']} trainings; after the last "
        "epoch, mean ± standard deviation of n seeds",
        *tables.origin(report),
    ]
    values = report["points"][0]["values"]
    if same := [f"{key}={values[key]}" for key in values if key not in report["swept"]]:
        notes.insert(1, f"all with {', '.join(same)}")
    for point in report["points"]:
        notes += [f"{failure['run']} failed: {failure['reason']}" for failure in point["failures"]]
    if report["best"]:
        best = ", ".join(f"{key}={report['best'][key]}" for key in report["swept"])
        notes.append(f"highest mean accuracy: {best}")
    return notes


def text(report: Mapping[str, Any]) -> str:
    """Returns the table for a terminal, with its notes."""
    return "\n".join([tables.text(*_rows(report)), *_notes(report)])


def markdown(report: Mapping[str, Any]) -> str:
    """Returns the table in Markdown, with its notes as a list."""
    notes = "\n".join(f"- {note}" for note in _notes(report))
    return f"{tables.markdown(*_rows(report))}\n\n{notes}\n"
