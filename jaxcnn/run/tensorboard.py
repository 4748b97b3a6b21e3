"""TensorBoard's event files, without TensorFlow: the records of metrics.jsonl as scalars."""

import importlib.util
from pathlib import Path
from typing import Any

from jaxcnn.errors import UserError
from jaxcnn.run.folder import RunDir
from jaxcnn.run.observers import Observer

FOLDER = "tensorboard"
_TAGS = {
    "learning_rate": "learning_rate",
    "train_loss": "loss/train",
    "train_accuracy": "accuracy/train",
    "eval_loss": "loss/eval",
    "eval_accuracy": "accuracy/eval",
    "images_per_second": "images_per_second",
}


class EventWriter(Observer):
    """An observer that copies a run's metrics into its folder tensorboard/.

    Each start writes a new event file with all epochs so far and removes the older files, so that
    an epoch that was trained twice, because the run was killed in between, has one point.
    """

    def __init__(self, run: RunDir) -> None:
        """Copies the metrics of `run`, whose folder exists."""
        self._run = run
        self._writer: Any = None

    def start(self, *, epochs: int, steps_per_epoch: int, step: int) -> None:
        """Writes the epochs so far."""
        from tensorboardX import SummaryWriter

        folder = self._run.path / FOLDER
        _remove_events(folder)
        self._writer = SummaryWriter(str(folder), flush_secs=10)
        for record in self._run.read_metrics():
            if record["step"] <= step:
                self._add(record)
        self._writer.flush()

    def epoch(self, record: dict[str, Any], epochs: int) -> None:
        """Writes one epoch."""
        self._add(record)
        self._writer.flush()

    def stop(self) -> None:
        """Closes the file."""
        if self._writer is not None:
            self._writer.close()

    def _add(self, record: dict[str, Any]) -> None:
        for key, tag in _TAGS.items():
            if record[key] is not None:
                self._writer.add_scalar(tag, record[key], record["step"])


def check_installed() -> None:
    """Raises UserError if the library that writes event files is missing."""
    if importlib.util.find_spec("tensorboardX") is None:
        raise UserError(
            "train.tensorboard=True needs the library tensorboardX: install it with "
            "pip install 'jaxcnn[tensorboard]', or leave train.tensorboard at False"
        )


def _remove_events(folder: Path) -> None:
    for old in folder.glob("events.out.tfevents.*"):
        old.unlink()
