"""The run folder: its JSON files, and which configuration it belongs to."""

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxcnn.config import compat
from jaxcnn.errors import UserError
from jaxcnn.run import lock, shapes
from jaxcnn.run.files import RunFiles

_TEMPORARY = ".tmp"


class RunDir(RunFiles):
    """A run folder that belongs to one configuration.

    Attributes:
        path: The folder.
    """

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return self.path / "checkpoints"

    def check(self, config: dict[str, Any]) -> None:
        """Checks that the folder is unused or belongs to `config`; writes nothing.

        Raises:
            UserError: If the folder holds something else or another configuration, naming the
                keys that differ and those that may differ; if one of its files is damaged.
        """
        self.check_name()
        existing = self.read_json("config.json")
        if existing is None:
            if self.path.exists() and (not self.path.is_dir() or any(self._foreign())):
                raise UserError(
                    f"{self.path} exists and is not a run folder (it has no config.json): "
                    "choose a new folder with --workdir"
                )
            return
        if fault := shapes.config_fault(existing, config):
            raise self.damaged("config.json", fault)
        self.starts()
        self.read_metrics()
        self.summary()
        refused = compat.refusals(existing, config)
        if refused:
            raise UserError(
                f"{self.path} belongs to another configuration ({', '.join(refused)}): choose a "
                f"new folder with --workdir, or set these back; {compat.MAY_CHANGE}"
            )

    @contextlib.contextmanager
    def locked(self, config: dict[str, Any]) -> Iterator[None]:
        """Holds the folder's lock while entered; creates the folder and writes config.json.

        Raises:
            UserError: As `check`; if another process holds the lock; if it is not writable.
        """
        with contextlib.ExitStack() as stack:
            try:
                self.path.mkdir(parents=True, exist_ok=True)
                stack.enter_context(lock.exclusive(self.path))
                self.check(config)  # another process may have come first
                for leftover in self._leftovers():
                    leftover.unlink()
                if self.read_json("config.json") != config:
                    self.write_json("config.json", config)
            except OSError as error:
                raise UserError(
                    f"cannot write to the run folder {self.path} ({error.strerror}): "
                    "choose one that is writable with --workdir"
                ) from error
            yield

    def _leftovers(self) -> Iterator[Path]:
        """Yields temporary files that a killed process left behind."""
        return self.path.glob(f".*.json*{_TEMPORARY}")

    def _foreign(self) -> Iterator[Path]:
        """Yields what in a folder without config.json cannot come from this program."""
        ours = {self.path / lock.NAME, *self._leftovers()}
        return (path for path in self.path.iterdir() if path not in ours)

    def write_json(self, name: str, content: Any) -> None:
        """Writes a JSON file of the folder atomically."""
        with _writing(self.path / name):
            write_atomically(
                self.path / name, json.dumps(content, indent=2, allow_nan=False) + "\n"
            )

    def add_start(self, environment: dict[str, Any]) -> None:
        """Appends one start of the program to environment.json."""
        self.write_json("environment.json", {"starts": [*self.starts(), environment]})

    def truncate_metrics(self, step: int) -> list[dict[str, Any]]:
        """Deletes the records after `step`, which a resumed run rewrites; returns the others."""
        path = self.path / "metrics.jsonl"
        records = [record for record in self.read_metrics() if record["step"] <= step]
        kept = "".join(json.dumps(record) + "\n" for record in records)
        if (self.text("metrics.jsonl") or "") != kept:
            with _writing(path):
                write_atomically(path, kept)
        return records

    def append_metrics(self, record: dict[str, Any]) -> None:
        """Appends one record to metrics.jsonl and flushes it to disk."""
        line = json.dumps(record, allow_nan=False) + "\n"
        path = self.path / "metrics.jsonl"
        with _writing(path), open(path, "a", encoding="utf-8") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Turns an OSError while `path` is written into a UserError."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot write {path} ({error.strerror}): mend this, then the same command continues"
        ) from error


def write_atomically(path: Path, text: str) -> None:
    """Replaces the file at `path`; after a crash it has either the old content or the new."""
    handle, temporary = tempfile.mkstemp(
        prefix=f".{path.name}.", suffix=_TEMPORARY, dir=path.parent
    )
    try:
        with open(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)  # mkstemp's 0600 would hide results from colleagues
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
