"""Compares runs: one self-contained report.html with curves, tables, predictions and claims.

python scripts/compare.py runs/lenet runs/resnet runs/densenet runs/mobilenet --out report
"""

import argparse
import sys
from pathlib import Path

from jaxcnn import errors, report
from jaxcnn.evaluate import run as runs
from jaxcnn.runtime import environment


def main() -> None:
    """Runs the program."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path, help="run folders, finished or not")
    parser.add_argument(
        "--out", type=Path, default=Path("report"), help="folder of the report (default: report)"
    )
    parser.add_argument("--data_dir", default="", help="TFDS directory; default: each run's own")
    args = parser.parse_args()
    found = runs.named(args.runs)
    environment.configure_malloc()
    environment.use_compilation_cache()
    path = report.write(
        found,
        args.out,
        data_dir=args.data_dir,
        say=lambda text: print(text, file=sys.stderr, flush=True),
    )
    print(f"wrote {path}")


if __name__ == "__main__":
    errors.run(main)
