"""What the scripts that measure have in common: a JSON file of results, and its table."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from jaxcnn.commands import outfiles
from jaxcnn.commands.parser import script_parser
from jaxcnn.runtime import environment

RESULTS = Path(__file__).resolve().parents[2] / "docs" / "results"


def parser(doc: str | None, name: str) -> argparse.ArgumentParser:
    """Returns a parser with `--out` and `--table`.

    Args:
        doc: The script's docstring.
        name: Of the file in docs/results that is written by default.
    """
    made = script_parser(doc)
    made.add_argument("--out", type=Path, default=RESULTS / name, help="JSON file to write")
    made.add_argument("--table", type=Path, help="print the table of this file, and end")
    return made


def parsed(
    parser: argparse.ArgumentParser, table: Callable[[dict[str, Any]], str]
) -> argparse.Namespace:
    """Returns the arguments of a measurement; with `--table` prints that file's, and ends.

    Raises:
        UserError: If the file of `--table` is none of such results, or `--out` cannot be written.
    """
    args = parser.parse_args()
    if args.table:
        print(outfiles.read(args.table, table))
        raise SystemExit(0)
    outfiles.check_file("--out", args.out, (".json",))
    return args


def write(path: Path, report: dict[str, Any]) -> None:
    """Writes a report, with the machine and the versions that it was made by."""
    outfiles.write("--out", path, json.dumps(report | made_by(), indent=1) + "\n")


def made_by() -> dict[str, str | None]:
    """Returns the machine, the revision and JAX's version, to be kept with figures."""
    return {
        "machine": environment.machine(),
        "git_revision": environment.git_revision(),
        "jax": jax.__version__,
    }
