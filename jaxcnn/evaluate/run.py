"""Reading a run folder: its settings, its metrics and the trained network.

Reading changes nothing in the folder, works while the run is in progress, and needs nothing outside
the folder.
"""

import dataclasses
from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from jaxcnn import data
from jaxcnn.config.compat import fingerprint
from jaxcnn.config.settings import Settings
from jaxcnn.errors import UserError
from jaxcnn.run.best import best_record, is_held_out
from jaxcnn.run.checkpoint import Checkpoints
from jaxcnn.run.files import shown
from jaxcnn.run.folder import RunDir
from jaxcnn.run.manifest import CorruptCheckpointError

_ATTEMPTS = 5


class Run:
    """A run that was begun, whether it has ended or not.

    Attributes:
        path: The folder.
        name: The folder's name; `named` makes the names of several runs unique.
        settings: The content of config.json.
        model: The network, without parameters.
    """

    def __init__(self, path: str | Path) -> None:
        """Reads config.json.

        Raises:
            UserError: If `path` is no run folder, or its config.json is not one.
        """
        self._folder = RunDir(path)
        self.path = path = self._folder.path
        self.name = shown(Path(path.resolve().name))
        self._folder.check_name()
        content = self._folder.read_json("config.json")
        if content is None:
            raise UserError(
                f"{path} is no run folder, it has no config.json: name the folder that "
                "`jaxcnn train` printed, such as runs/mobilenet"
            )
        try:
            if not isinstance(content, dict):
                raise TypeError("it is no JSON object")
            self.settings = Settings.from_json(content)
            self.model = self.settings.create_model()
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise UserError(
                f"{path / 'config.json'} is not what a run writes ({_one_line(error)}): restore "
                "it, or train anew with another --workdir"
            ) from error

    @property
    def model_name(self) -> str:
        """The network's name in `jaxcnn.models`."""
        return self.settings.model.name

    @property
    def class_names(self) -> tuple[str, ...]:
        """A name for each class."""
        return self.settings.facts.class_names

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C) of the data set's images."""
        return self.settings.facts.image_shape

    @property
    def records(self) -> list[dict[str, Any]]:
        """The epochs so far, as metrics.jsonl has them."""
        return self._folder.read_metrics()

    @property
    def summary(self) -> dict[str, Any] | None:
        """The content of summary.json; None before the end of the training."""
        return self._folder.summary()

    @property
    def starts(self) -> list[dict[str, Any]]:
        """Where the run was started, the newest last."""
        return self._folder.starts()

    def newest(self, warn: Callable[[str], None]) -> tuple[int, dict[str, Any]]:
        """Returns (step, variables) of the newest whole checkpoint.

        The variables are those that the run evaluates, as numpy arrays: the averaged ones if there
        are any. A damaged checkpoint stays where it is, and `warn` gets a line about it.

        Raises:
            UserError: If there is no whole checkpoint.
        """
        checkpoints = self._checkpoints()
        damaged: set[int] = set()
        for _ in range(_ATTEMPTS):
            steps = [step for step in checkpoints.steps() if step not in damaged]
            if not steps:
                break
            try:
                return steps[-1], _variables(checkpoints.arrays(steps[-1]))
            except Exception as error:
                # The run may have dropped this one for a newer one while it was being read.
                if steps[-1] not in checkpoints.steps():
                    continue
                if not isinstance(error, CorruptCheckpointError):
                    raise
                damaged.add(steps[-1])
                warn(f"warning: the checkpoint of step {steps[-1]} is damaged ({error})")
        raise UserError(
            f"{self.path} has no whole checkpoint yet: wait for the end of its first epoch, or "
            "continue its training"
        )

    def best(self) -> tuple[int, dict[str, Any]]:
        """Returns (step, variables) of the epoch with the best evaluation accuracy, as `newest`.

        Raises:
            UserError: If it was not kept, is damaged, or is best on images that are for testing.
        """
        split, record = self.settings.dataset.eval_split, best_record(self.records)
        if not is_held_out(split):
            raise UserError(
                f"{self.path} has no best epoch: it was evaluated on {split!r}, by which none may "
                "be chosen; evaluate its newest checkpoint"
            )
        checkpoints = self._checkpoints()
        if record is None or record["step"] not in checkpoints.steps():
            kept = ", ".join(map(str, checkpoints.steps())) or "none"
            raise UserError(
                f"{self.path} has no checkpoint of its best epoch (steps that have one: {kept}): "
                "train with train.keep_best=True, or evaluate its newest checkpoint"
            )
        try:
            return record["step"], _variables(checkpoints.arrays(record["step"]))
        except CorruptCheckpointError as error:
            raise UserError(
                f"the checkpoint of {self.path}'s best epoch, step {record['step']}, is damaged "
                f"({error}): evaluate its newest checkpoint, or train anew with another --workdir"
            ) from error

    def _checkpoints(self) -> Checkpoints:
        mark = fingerprint(self.settings.to_json())
        return Checkpoints(self._folder.checkpoints, fingerprint=mark)

    @cached_property
    def trained(self) -> tuple[int, dict[str, Any]]:
        """The result of the first call of `newest`, without warnings."""
        return self.newest(lambda _: None)

    def dataset(self, split: str = "", data_dir: str = "") -> data.Dataset:
        """Returns the run's data set, with `split` to evaluate on; empty: the run's own.

        Args:
            split: A TFDS split string.
            data_dir: A TFDS directory; empty for the run's own.

        Raises:
            UserError: If the data cannot be had, or has other classes or images.
        """
        section = self.settings.dataset
        given = dataclasses.asdict(section)
        given |= {
            "data_dir": data_dir or section.data_dir,
            "eval_split": split or section.eval_split,
        }
        loaded = data.load(**given)
        shape = loaded.eval.images.shape[1:]
        if loaded.class_names != self.class_names or shape != self.image_shape:
            raise UserError(
                f"{section.name} here has {len(loaded.class_names)} classes and images of shape "
                f"{shape}, {self.path} was trained on {len(self.class_names)} classes and "
                f"{self.image_shape}: name the run's data with --data_dir"
            )
        return loaded


def named(paths: Iterable[str | Path]) -> dict[str, Run]:
    """Returns the runs by name, in the given order; a name is the shortest unique end of a path.

    Raises:
        UserError: If a folder is no run or is given twice.
    """
    runs = [Run(path) for path in paths]
    places = [run.path.resolve() for run in runs]
    for place in places:
        if places.count(place) > 1:
            raise UserError(f"{place} is given twice: name each run once")
    # From the end of the paths on, until all differ.
    depth = 1
    while len({place.parts[-depth:] for place in places}) < len(places):
        depth += 1
    for run, place in zip(runs, places, strict=True):
        run.name = shown(Path(*place.parts[-depth:]))
    return {run.name: run for run in runs}


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _variables(arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """Returns {"params", "batch_stats"} of a checkpoint's arrays by path."""
    # Averaged weights are what the run itself evaluates; see `train.step.evaluated_variables`.
    prefix = "ema/" if any(path.startswith("ema/") for path in arrays) else ""
    variables: dict[str, Any] = {"params": {}, "batch_stats": {}}
    for path, array in arrays.items():
        collection, *names = path.removeprefix(prefix).split("/")
        if path.startswith(prefix) and collection in variables:
            tree = variables[collection]
            for name in names[:-1]:
                tree = tree.setdefault(name, {})
            tree[names[-1]] = array
    return variables
