"""Compares runs: one self-contained report.html with curves, tables, predictions and claims.

jaxcnn compare runs/lenet runs/resnet runs/densenet runs/mobilenet --out report

What depends on machine, program and data alone is measured once and kept in the
user's cache. The report says so, with the date.
"""

import argparse
from pathlib import Path

from jaxcnn import report
from jaxcnn.commands import outfiles
from jaxcnn.data.meter import Meter
from jaxcnn.evaluate import run as runs
from jaxcnn.runtime import compilation_cache, memory
from jaxcnn.runtime.kept import Keeper


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the verb."""
    parser.add_argument("runs", nargs="+", type=Path, help="run folders, finished or not")
    parser.add_argument(
        "--out", type=Path, default=Path("report"), help="folder of the report (default: report)"
    )
    parser.add_argument("--data_dir", default="", help="TFDS directory; default: each run's own")
    parser.add_argument(
        "--remeasure", action="store_true", help="measure anew what is kept of earlier reports"
    )


def run(args: argparse.Namespace) -> None:
    """Writes the report and prints its path."""
    found = runs.named(args.runs)
    outfiles.check_folder("--out", args.out, report.FILES)
    memory.configure_malloc()
    compilation_cache.use_compilation_cache()
    with Meter("comparing", report.steps(found), "steps") as meter:
        path = report.write(
            found,
            args.out,
            data_dir=args.data_dir,
            say=meter.say,
            advance=meter.advance,
            keeper=Keeper(anew=args.remeasure),
        )
    print(f"wrote {path}")
