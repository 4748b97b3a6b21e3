"""Draws a run's pictures again, or the curves of several runs on the same axes.

python scripts/plot.py runs/mobilenet                        # into runs/mobilenet/plots
python scripts/plot.py runs/mobilenet runs/resnet --out both.png
"""

import argparse
import sys
from pathlib import Path

from jaxcnn import errors, plots
from jaxcnn.errors import UserError
from jaxcnn.evaluate import run as runs
from jaxcnn.evaluate import run_plots as run_plots
from jaxcnn.run.folder import RunDir
from jaxcnn.runtime import environment


def main() -> None:
    """Runs the program."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path, help="run folders")
    parser.add_argument(
        "--out", type=Path, help="folder for one run, PNG file for several (default: curves.png)"
    )
    parser.add_argument("--data_dir", default="", help="TFDS directory; default: the run's own")
    args = parser.parse_args()
    found = runs.named(args.runs)
    for name, run in found.items():
        if not run.records:
            raise UserError(f"{name} has no epoch yet: wait for the end of its first one")
    if len(found) > 1:
        out = args.out or Path("curves.png")
        plots.save(plots.compared({name: run.records for name, run in found.items()}), out)
        print(f"wrote {out}")
        return
    (run,) = found.values()
    environment.use_compilation_cache()
    failures: list[str] = []
    pictures = run_plots.RunPlots(RunDir(run.path), run.config, failures.append, args.out)
    pictures.curves()
    _, variables = run.newest(lambda text: print(text, file=sys.stderr))
    pictures.end(variables, run.dataset(data_dir=args.data_dir), lambda: None)
    if failures:
        raise UserError(failures[0].removeprefix("warning: "))
    print(f"wrote {pictures.path}")


if __name__ == "__main__":
    errors.run(main)
