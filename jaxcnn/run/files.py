"""Reading the files of a run folder: what each holds, and what to do where one is damaged."""

import json
import os
from pathlib import Path
from typing import Any

from jaxcnn.errors import UserError
from jaxcnn.run import shapes

_ELSE = "restore it, or choose a new folder with --workdir"
# What helps if a file is damaged. What the other files say, the program can write anew.
_REMEDIES = {
    "config.json": _ELSE,
    "metrics.jsonl": _ELSE,
    "environment.json": "restore it, or delete it: it only tells where the run was started",
    "summary.json": "restore it, or delete it: `jaxcnn train` as before writes it anew",
}


class RunFiles:
    """The JSON files of a run folder, to be read.

    Attributes:
        path: The folder.
    """

    def __init__(self, path: str | Path) -> None:
        """Refers to a folder, which need not exist."""
        self.path = Path(path)

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

    def read_json(self, name: str) -> Any:
        """Returns the content of a JSON file of the folder, or None where there is none.

        Raises:
            UserError: If it is not JSON, naming the file.
        """
        text = self.text(name)
        if text is None:
            return None
        try:
            content = _parse(text)
        except ValueError as error:
            raise self.damaged(name, f"it is not valid JSON: {error}") from error
        if content is None:  # for a caller this would be no file
            raise self.damaged(name, "it holds nothing but null")
        return content

    def starts(self) -> list[dict[str, Any]]:
        """Returns the starts of the program that environment.json has, the newest last.

        Raises:
            UserError: If the file is damaged.
        """
        content = self.read_json("environment.json")
        if fault := shapes.environment_fault(content):
            raise self.damaged("environment.json", fault)
        return content["starts"] if content else []

    def summary(self) -> dict[str, Any] | None:
        """Returns the content of summary.json, or None before the end of the training.

        Raises:
            UserError: If the file is damaged.
        """
        content = self.read_json("summary.json")
        if fault := shapes.summary_fault(content):
            raise self.damaged("summary.json", fault)
        return content

    def text(self, name: str) -> str | None:
        """Returns the content of a file of the folder, or None where there is none."""
        try:
            return (self.path / name).read_bytes().decode()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except UnicodeDecodeError as error:
            raise self.damaged(name, f"it is not UTF-8: {error.reason}") from error

    def damaged(self, name: str, fault: str) -> UserError:
        """Returns the error of a damaged file, with what to do about it."""
        return UserError(f"{self.path / name} is damaged ({fault}): {_REMEDIES[name]}")

    def read_metrics(self) -> list[dict[str, Any]]:
        """Returns the records of metrics.jsonl, without a last line that has no newline.

        Raises:
            UserError: If the file is damaged, naming the line.
        """
        records: list[dict[str, Any]] = []
        for number, line in enumerate((self.text("metrics.jsonl") or "").split("\n")[:-1], 1):
            try:
                records.append(_parse(line))
            except ValueError as error:
                reason = f"line {number} is not JSON: {error}"
                raise self.damaged("metrics.jsonl", reason) from error
            if fault := shapes.record_fault(records[-1], number):
                raise self.damaged("metrics.jsonl", f"line {number}: {fault}")
        return records


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
