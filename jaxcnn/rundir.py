"""The run folder: what a run writes about itself, and whose folder it is."""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from jaxcnn.errors import UserError

# What may change between two starts of one run: none of it has a part in the numbers.
_FREE = (
    "dataset.data_dir",
    "train.log_steps",
    "train.checkpoint_minutes",
    "train.keep_checkpoints",
)


class RunDir:
    """A run folder that belongs to one configuration.

    Attributes:
        path: The folder.
    """

    def __init__(self, path: Path) -> None:
        """Names the folder; `claim` makes it."""
        self.path = path

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return self.path / "checkpoints"

    def claim(self, config: dict[str, Any]) -> None:
        """Makes the folder for `config`, or checks that it is that configuration's already.

        Raises:
            UserError: If the folder holds something else or another configuration, naming the
                differing keys; nothing is written then.
        """
        existing = self.read_json("config.json")
        if existing is None:
            if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
                raise UserError(
                    f"{self.path} exists and is not a run folder (it has no config.json): "
                    "choose a new folder with --workdir"
                )
        else:
            differing = differences(existing, config)
            if differing:
                listed = ", ".join(f"{key} was {old!r}, is {new!r}" for key, old, new in differing)
                raise UserError(
                    f"{self.path} belongs to another configuration ({listed}): "
                    "choose a new folder with --workdir, or set these back"
                )
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self.write_json("config.json", config)
        except OSError as error:
            raise UserError(
                f"cannot write to the run folder {self.path} ({error.strerror}): "
                "choose one that is writable with --workdir"
            ) from error

    def read_json(self, name: str) -> Any:
        """Returns the content of a JSON file of the folder, or None where there is none."""
        try:
            text = (self.path / name).read_text()
        except (FileNotFoundError, NotADirectoryError):
            return None
        try:
            return json.loads(text)
        except ValueError as error:
            raise UserError(
                f"{self.path / name} is not valid JSON ({error}): restore it, or choose a new "
                "folder with --workdir"
            ) from error

    def write_json(self, name: str, content: Any) -> None:
        """Writes a JSON file of the folder, whole or not at all."""
        write_atomically(self.path / name, json.dumps(content, indent=2, allow_nan=False) + "\n")

    def add_start(self, environment: dict[str, Any]) -> None:
        """Adds one start of the program to environment.json, the newest last."""
        starts = (self.read_json("environment.json") or {"starts": []})["starts"]
        self.write_json("environment.json", {"starts": [*starts, environment]})

    def read_metrics(self) -> list[dict[str, Any]]:
        """Returns the records of metrics.jsonl; a last line without its newline is not one."""
        try:
            text = (self.path / "metrics.jsonl").read_text()
        except FileNotFoundError:
            return []
        return [json.loads(line) for line in text.split("\n")[:-1]]

    def cut_metrics(self, step: int) -> list[dict[str, Any]]:
        """Drops the records after `step`, which a resumed run writes again; returns the others."""
        records = [record for record in self.read_metrics() if record["step"] <= step]
        if (self.path / "metrics.jsonl").exists():
            text = "".join(json.dumps(record) + "\n" for record in records)
            write_atomically(self.path / "metrics.jsonl", text)
        return records

    def append_metrics(self, record: dict[str, Any]) -> None:
        """Adds one record to metrics.jsonl and has it on disk before returning."""
        line = json.dumps(record, allow_nan=False) + "\n"
        with open(self.path / "metrics.jsonl", "a") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())


def differences(old: Any, new: Any, prefix: str = "") -> list[tuple[str, Any, Any]]:
    """Returns (dotted key, old value, new value) where two configurations differ in substance."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [*old, *(key for key in new if key not in old)]
        found = []
        for key in keys:
            found += differences(old.get(key), new.get(key), f"{prefix}.{key}" if prefix else key)
        return found
    return [] if old == new or prefix in _FREE else [(prefix, old, new)]


def write_atomically(path: Path, text: str) -> None:
    """Replaces the file at `path`: a reader, or a crash, sees the old content or the new."""
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with open(handle, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)  # mkstemp's 0600 would hide results from colleagues
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
