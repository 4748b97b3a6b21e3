"""Evaluates a run: loss, accuracy, figures of each class, calibration.

jaxcnn evaluate runs/mobilenet
jaxcnn evaluate runs/mobilenet --split 'train[:5000]' --json
jaxcnn evaluate runs/mobilenet --tta mirror
jaxcnn evaluate runs/mobilenet --calibrate
jaxcnn evaluate runs/mobilenet --corruptions --limit 1000

--calibrate fits a temperature to held-out training images, so the run must have been trained on a
part of the training split; it leaves calibration.json and a reliability diagram.

--corruptions evaluates under the fifteen corruptions of CIFAR-10-C at five strengths, computed anew
from the images of the split; it leaves corruptions.json and a picture.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jaxcnn import plots
from jaxcnn.commands import outfiles
from jaxcnn.commands.console import warn
from jaxcnn.commands.parser import at_least
from jaxcnn.errors import UserError
from jaxcnn.evaluate import calibration, evaluation, robustness, tta
from jaxcnn.evaluate.corruptions import table
from jaxcnn.evaluate.run import Run
from jaxcnn.runtime import compilation_cache

FOLDER = "trust"
"""Of the files of --calibrate and --corruptions, in the run folder."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the verb."""
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument("--split", default="", help="TFDS split; default: the run's own")
    parser.add_argument("--data_dir", default="", help="TFDS directory; default: the run's own")
    parser.add_argument(
        "--best", action="store_true", help="the best epoch's checkpoint, not the newest"
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--tta", choices=tta.VIEWS, default="", help="also the mean over such views of each image"
    )
    what.add_argument(
        "--calibrate", action="store_true", help="how far the probabilities can be trusted"
    )
    what.add_argument(
        "--corruptions", action="store_true", help="the errors on images that are corrupted"
    )
    parser.add_argument(
        "--limit", type=at_least(1), help="with --corruptions: the first images only, so many"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument(
        "--out",
        type=Path,
        help="also write the JSON to this file; with --calibrate and --corruptions: the folder of "
        f"their files (default: {FOLDER} in the run folder)",
    )


def run(args: argparse.Namespace) -> None:
    """Evaluates the run and prints the scores."""
    if args.limit and not args.corruptions:
        raise UserError(
            f"--limit={args.limit} is for --corruptions alone: leave it out, or name the images "
            f"with --split='test[:{args.limit}]'"
        )
    if args.corruptions:
        _leave("corruptions", _corruptions, args)
    elif args.calibrate:
        _leave("calibration", _calibration, args)
    else:
        _scores(args)


def _scores(args: argparse.Namespace) -> None:
    if args.out:
        outfiles.check_file("--out", args.out, (".json", ""))
    compilation_cache.use_compilation_cache()
    run = Run(args.run)
    result = evaluation.evaluate(run, warn, _selection(args), views=args.tta)
    text = json.dumps(evaluation.as_json(run, result), indent=2)
    try:  # whichever of the two fails, the other one has the result
        print(text if args.json else evaluation.as_text(run, result))
    finally:
        if args.out:
            outfiles.write("--out", args.out, text + "\n")


def _selection(args: argparse.Namespace) -> evaluation.Selection:
    return evaluation.Selection(args.split, args.data_dir, args.best)


def _leave(
    name: str,
    measure: Callable[[Run, argparse.Namespace], tuple[dict[str, Any], str, Any]],
    args: argparse.Namespace,
) -> None:
    """Prints what is measured, and leaves NAME.json and NAME.png.

    Args:
        name: Of the files, without suffix.
        measure: Returns JSON's kinds of values, the same as plain text, and a figure.
        args: Of the verb.
    """
    run = Run(args.run)
    out = args.out or run.path / FOLDER
    files = (f"{name}.json", f"{name}.png")
    outfiles.check_folder("--out", out, files)
    compilation_cache.use_compilation_cache()
    content, words, picture = measure(run, args)
    text = json.dumps(content, indent=2, allow_nan=False)
    try:  # whichever of the two fails, the other one has the result
        print(text if args.json else words)
    finally:
        out.mkdir(parents=True, exist_ok=True)
        outfiles.write("--out", out / files[0], text + "\n")
        plots.save(picture, out / files[1])
        warn(f"wrote {' and '.join(files)} in {out}")


def _calibration(run: Run, args: argparse.Namespace) -> tuple[dict[str, Any], str, Any]:
    found = calibration.calibrate(run, warn, _selection(args))
    title = f"{run.model_name} on {run.settings.dataset.name}, {found.eval_split}"
    parts = {
        "as trained": found.before.bins,
        f"temperature {found.temperature:.2f}": found.after.bins,
    }
    picture = plots.reliability(parts, title)
    return calibration.as_json(run, found), calibration.as_text(found), picture


def _corruptions(run: Run, args: argparse.Namespace) -> tuple[dict[str, Any], str, Any]:
    found = robustness.evaluate(run, warn, _selection(args), args.limit)
    title = f"{run.model_name} on {found.examples:,} images of {run.settings.dataset.name}, "
    picture = plots.corruptions(
        found.errors, found.clean_error, found.shown, table.NAMES, title + found.split
    )
    return robustness.as_json(run, found), robustness.as_text(found), picture
