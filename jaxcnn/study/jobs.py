"""A training of several: what it is called, how it is configured and where it lies."""

from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import config_dict

from jaxcnn.run.files import RunFiles


class Job(NamedTuple):
    """A training to be done.

    Attributes:
        name: What to call it.
        config: Its configuration.
        path: Its run folder.
    """

    name: str
    config: config_dict.ConfigDict
    path: Path

    @property
    def is_finished(self) -> bool:
        """Whether its run folder has a summary after the last epoch."""
        summary = RunFiles(self.path).summary()
        return summary is not None and summary["epoch"] == self.config.train.epochs


class Outcome(NamedTuple):
    """What became of a training.

    Attributes:
        job: The training.
        summary: The content of its summary.json; None if it failed.
        failure: Why it failed, in a line; "" if it did not.
    """

    job: Job
    summary: dict[str, Any] | None
    failure: str
