"""Evaluates a run: loss, accuracy, figures of each class, calibration.

jaxcnn evaluate runs/mobilenet
jaxcnn evaluate runs/mobilenet --split 'train[:5000]' --json
jaxcnn evaluate runs/mobilenet --tta mirror
"""

import argparse
import json
from pathlib import Path

from jaxcnn.commands import outfiles
from jaxcnn.commands.console import warn
from jaxcnn.evaluate import evaluation, tta
from jaxcnn.evaluate.run import Run
from jaxcnn.runtime import compilation_cache


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the verb."""
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument("--split", default="", help="TFDS split; default: the run's own")
    parser.add_argument("--data_dir", default="", help="TFDS directory; default: the run's own")
    parser.add_argument(
        "--best", action="store_true", help="the best epoch's checkpoint, not the newest"
    )
    parser.add_argument(
        "--tta", choices=tta.VIEWS, default="", help="also the mean over such views of each image"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--out", type=Path, help="also write the JSON to this file")


def run(args: argparse.Namespace) -> None:
    """Evaluates the run and prints the scores."""
    if args.out:
        outfiles.check_file("--out", args.out, (".json", ""))
    compilation_cache.use_compilation_cache()
    run = Run(args.run)
    result = evaluation.evaluate(
        run, warn, split=args.split, data_dir=args.data_dir, best=args.best, views=args.tta
    )
    text = json.dumps(evaluation.as_json(run, result, args.split), indent=2)
    try:  # whichever of the two fails, the other one has the result
        print(text if args.json else evaluation.as_text(run, result))
    finally:
        if args.out:
            outfiles.write("--out", args.out, text + "\n")
