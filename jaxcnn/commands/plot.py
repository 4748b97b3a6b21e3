"""Draws the plots of a run again, or the curves of several runs on the same axes.

jaxcnn plot runs/mobilenet                         # into runs/mobilenet/plots
jaxcnn plot runs/mobilenet runs/resnet --out both.png
"""

import argparse
from pathlib import Path

from jaxcnn import plots
from jaxcnn.commands import outfiles
from jaxcnn.commands.console import warn
from jaxcnn.errors import UserError
from jaxcnn.evaluate import run as runs
from jaxcnn.evaluate import run_plots
from jaxcnn.run.folder import RunDir
from jaxcnn.runtime import compilation_cache


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the verb."""
    parser.add_argument("runs", nargs="+", type=Path, help="run folders")
    parser.add_argument(
        "--out",
        type=Path,
        help="folder for one run; PNG, PDF or SVG file for several (default: curves.png)",
    )
    parser.add_argument("--data_dir", default="", help="TFDS directory; default: the run's own")


def run(args: argparse.Namespace) -> None:
    """Draws the plots and prints where they are."""
    several = len(args.runs) > 1
    path = args.out or Path("curves.png")
    if several:
        outfiles.check_file("--out", path, plots.SUFFIXES)
    elif args.out:
        if path.suffix.lower() in plots.SUFFIXES and not path.is_dir():
            raise UserError(f"--out={path} is no folder, which one run's plots need: name one")
        outfiles.check_folder("--out", path)
    found = runs.named(args.runs)
    for name, run in found.items():
        if not run.records:
            raise UserError(f"{name} has no epoch yet: wait for the end of its first one")
    if several:
        plots.save(plots.compared({name: run.records for name, run in found.items()}), path)
    else:
        (run,) = found.values()
        path = _plot_one(run, args.out, args.data_dir)
    print(f"wrote {path}")


def _plot_one(run: runs.Run, out: Path | None, data_dir: str) -> Path:
    """Draws all plots of one run; returns their folder."""
    compilation_cache.use_compilation_cache()
    failures: list[str] = []
    pictures = run_plots.RunPlots(RunDir(run.path), run.settings, failures.append, out)
    pictures.curves()
    _, variables = run.newest(warn)
    pictures.end(variables, run.dataset(data_dir=data_dir), lambda: None)
    if failures:
        raise UserError(failures[0].removeprefix("warning: "))
    return pictures.path
