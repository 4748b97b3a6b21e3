"""Trainings one after another: which there are, and what became of each.

They take turns in one process, which imports and compiles once what they share, or are side by side
in several. Each is a run folder of its own, so that the same list, trained again, continues where
it stopped.
"""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from jaxcnn import data
from jaxcnn.config import schema
from jaxcnn.config.settings import Settings, check_network
from jaxcnn.errors import UserError
from jaxcnn.run import lock
from jaxcnn.run.files import RunFiles
from jaxcnn.run.folder import RunDir
from jaxcnn.run.observers import Observer, ObserverList
from jaxcnn.study import side_by_side
from jaxcnn.study.jobs import Job, Outcome
from jaxcnn.study.side_by_side import Beside
from jaxcnn.train import fit

_SCORES = ("epoch", "train_loss", "train_accuracy", "eval_loss", "eval_accuracy", "total_seconds")


def reached(outcomes: Iterable[Outcome]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Returns what trainings reached, and why others failed, in JSON's kinds of values."""
    runs, failures = [], []
    for job, summary, failure in outcomes:
        which = {"seed": job.config.seed, "run": job.name}
        if summary is None:
            failures.append({**which, "reason": failure})
        else:
            runs.append({**which, **{key: summary[key] for key in _SCORES}})
    return runs, failures


def origin(outcomes: Iterable[Outcome]) -> dict[str, Any]:
    """Returns the data and the environment of the first run that ended, None where none did."""
    first = next((outcome.job.path for outcome in outcomes if outcome.summary is not None), None)
    files = RunFiles(first) if first else None
    starts = files.starts() if files else []
    return {
        "dataset": files.read_json("config.json")["dataset"] if files else None,
        "environment": starts[-1] if starts else None,
    }


class Trainings:
    """A list of trainings, checked as far as that is possible without training.

    Attributes:
        jobs: In the order in which they are trained.
    """

    def __init__(self, jobs: Sequence[Job]) -> None:
        """Checks every configuration, loads the first one's data, and looks into the folders.

        Raises:
            UserError: For a value that is not allowed, data that cannot be had, or a folder that
                belongs to another configuration.
        """
        self.jobs = list(jobs)
        for job in self.jobs:
            schema.validate(job.config)
            check_network(job.config)
        self._key: tuple[tuple[str, Any], ...] = ()
        for job in self.jobs:
            dataset = self.dataset(job)
            if job.path.exists():
                RunDir(job.path).check(Settings.resolve(job.config, dataset).to_json())

    def dataset(self, job: Job) -> data.Dataset:
        """Returns the data set of a training; the last one is kept for the next."""
        section = job.config.dataset
        key = tuple(sorted(section.items()))
        if key != self._key:
            self._dataset, self._key = data.load(**section), key
        return self._dataset

    def run(
        self, observer: Observer, beside: Beside | None = None, each_epoch: Observer | None = None
    ) -> Iterator[Outcome]:
        """Trains what is left and yields what became of each, a finished one at once.

        A training that fails, as one that diverges does, does not keep the others from being done.

        Args:
            observer: Gets the progress.
            beside: If several are to be trained at a time.
            each_epoch: Is told of every epoch after `observer`.

        Raises:
            UserError: If there are fewer cores than trainings at a time.
            Interrupted: When SIGINT or SIGTERM arrived; everything so far is saved.
        """
        each_epoch = each_epoch or Observer()
        if beside is not None and beside.number > 1:
            yield from side_by_side.run(self.jobs, beside, observer, each_epoch)
            return
        observer = ObserverList(observer, each_epoch)
        for number, job in enumerate(self.jobs, 1):
            observer.say(f"training {number} of {len(self.jobs)}: {job.name}")
            try:
                summary = fit.fit(job.config, self.dataset(job), job.path, observer)
            except UserError as error:
                observer.say(f"{job.name} failed: {error}")
                yield Outcome(job, None, str(error))
            else:
                yield Outcome(job, summary, "")


@contextlib.contextmanager
def claimed(out: Path) -> Iterator[None]:
    """Makes the folder of all results and keeps other processes out of it while entered.

    Raises:
        UserError: If another process holds it, or it cannot be written to.
    """
    with contextlib.ExitStack() as stack:
        try:
            out.mkdir(parents=True, exist_ok=True)
            stack.enter_context(lock.exclusive(out))
        except UserError as error:
            raise UserError(str(error).replace("--workdir", "--out")) from None
        except OSError as error:
            raise UserError(
                f"cannot write to {out} ({error.strerror}): name a folder that is writable "
                "with --out"
            ) from error
        yield
