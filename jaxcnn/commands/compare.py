"""Compares runs: one self-contained report.html with curves, tables, predictions and claims.

jaxcnn compare runs/lenet runs/resnet runs/densenet runs/mobilenet --out report
"""

import argparse
from pathlib import Path

from jaxcnn import report
from jaxcnn.commands import outfiles
from jaxcnn.commands.console import warn
from jaxcnn.evaluate import run as runs
from jaxcnn.runtime import compilation_cache, memory


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the verb."""
    parser.add_argument("runs", nargs="+", type=Path, help="run folders, finished or not")
    parser.add_argument(
        "--out", type=Path, default=Path("report"), help="folder of the report (default: report)"
    )
    parser.add_argument("--data_dir", default="", help="TFDS directory; default: each run's own")


def run(args: argparse.Namespace) -> None:
    """Writes the report and prints its path."""
    found = runs.named(args.runs)
    outfiles.check_folder("--out", args.out, report.FILES)
    memory.configure_malloc()
    compilation_cache.use_compilation_cache()
    path = report.write(found, args.out, data_dir=args.data_dir, say=warn)
    print(f"wrote {path}")
