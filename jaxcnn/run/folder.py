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

_TEMPORARY = ".tmp"
_ELSE = "restore it, or choose a new folder with --workdir"
# What helps if a file is damaged. What the other files say, the program can write anew.
_REMEDIES = {
    "config.json": _ELSE,
    "metrics.jsonl": _ELSE,
    "environment.json": "restore it, or delete it: it only tells where the run was started",
    "summary.json": "restore it, or delete it: `jaxcnn train` as before writes it anew",
}


class RunDir:
    """A run folder that belongs to one configuration.

    Attributes:
        path: The folder.
    """

    def __init__(self, path: str | Path) -> None:
        """Refers to a folder, which `locked` creates."""
        self.path = Path(path)

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
            raise self._damaged("config.json", fault)
        self.starts()
        self.read_metrics()
        self.summary()
        refused = compat.refusals(existing, config)
        if refused:
            raise UserError(
                f"{self.path} belongs to another configuration ({', '.join(refused)}): choose a "
                f"new folder with --workdir, or set these back; {compat.MAY_CHANGE}"
            )

    def check_name(self) -> None:
        """Raises UserError if the library that writes checkpoints cannot take the folder's name."""
        path = str(self.path.absolute())
        try:
            path.encode()
        except UnicodeEncodeError:
            raise UserError(
                f"{shown(self.path.absolute())} is no UTF-8 text here, as a run folder's whole "
                "path must be: choose another with --workdir, or set PYTHONUTF8=1 if it is UTF-8"
            ) from None

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

    def read_json(self, name: str) -> Any:
        """Returns the content of a JSON file of the folder, or None where there is none.

        Raises:
            UserError: If it is not JSON, naming the file.
        """
        text = self._text(name)
        if text is None:
            return None
        try:
            content = _parse(text)
        except ValueError as error:
            raise self._damaged(name, f"it is not valid JSON: {error}") from error
        if content is None:  # for a caller this would be no file
            raise self._damaged(name, "it holds nothing but null")
        return content

    def starts(self) -> list[dict[str, Any]]:
        """Returns the starts of the program that environment.json has, the newest last.

        Raises:
            UserError: If the file is damaged.
        """
        content = self.read_json("environment.json")
        if fault := shapes.environment_fault(content):
            raise self._damaged("environment.json", fault)
        return content["starts"] if content else []

    def summary(self) -> dict[str, Any] | None:
        """Returns the content of summary.json, or None before the end of the training.

        Raises:
            UserError: If the file is damaged.
        """
        content = self.read_json("summary.json")
        if fault := shapes.summary_fault(content):
            raise self._damaged("summary.json", fault)
        return content

    def _text(self, name: str) -> str | None:
        """Returns the content of a file of the folder, or None where there is none."""
        try:
            return (self.path / name).read_bytes().decode()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except UnicodeDecodeError as error:
            raise self._damaged(name, f"it is not UTF-8: {error.reason}") from error

    def _damaged(self, name: str, fault: str) -> UserError:
        """Returns the error of a damaged file, with what to do about it."""
        return UserError(f"{self.path / name} is damaged ({fault}): {_REMEDIES[name]}")

    def write_json(self, name: str, content: Any) -> None:
        """Writes a JSON file of the folder atomically."""
        with _writing(self.path / name):
            write_atomically(
                self.path / name, json.dumps(content, indent=2, allow_nan=False) + "\n"
            )

    def add_start(self, environment: dict[str, Any]) -> None:
        """Appends one start of the program to environment.json."""
        self.write_json("environment.json", {"starts": [*self.starts(), environment]})

    def read_metrics(self) -> list[dict[str, Any]]:
        """Returns the records of metrics.jsonl, without a last line that has no newline.

        Raises:
            UserError: If the file is damaged, naming the line.
        """
        records: list[dict[str, Any]] = []
        for number, line in enumerate((self._text("metrics.jsonl") or "").split("\n")[:-1], 1):
            try:
                records.append(_parse(line))
            except ValueError as error:
                reason = f"line {number} is not JSON: {error}"
                raise self._damaged("metrics.jsonl", reason) from error
            if fault := shapes.record_fault(records[-1], number):
                raise self._damaged("metrics.jsonl", f"line {number}: {fault}")
        return records

    def truncate_metrics(self, step: int) -> list[dict[str, Any]]:
        """Deletes the records after `step`, which a resumed run rewrites; returns the others."""
        path = self.path / "metrics.jsonl"
        records = [record for record in self.read_metrics() if record["step"] <= step]
        kept = "".join(json.dumps(record) + "\n" for record in records)
        if (self._text("metrics.jsonl") or "") != kept:
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


def shown(path: Path) -> str:
    """Returns a path as text that every file and picture can take.

    What is not text in the name of a file is replaced.
    """
    return os.fsencode(path).decode(errors="replace")


def _parse(text: str) -> Any:
    """Returns the content of JSON text; ValueError for anything else, NaN and infinity included."""

    def refuse(constant: str) -> Any:
        raise ValueError(f"{constant} is no number")

    try:
        return json.loads(text, parse_constant=refuse)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


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
