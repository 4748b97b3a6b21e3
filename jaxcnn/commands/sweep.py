"""Trains every combination of some values with several seeds, and tabulates what they reach.

jaxcnn sweep lenet --seeds 5 --set optim.peak_lr=0.05,0.1,0.2
jaxcnn sweep mobilenet:digits --set optim.peak_lr=0.1,0.2 --set train.epochs=5
jaxcnn sweep lenet --seeds 5 --out runs/lenet-final        # seeds alone: the final runs
jaxcnn sweep lenet --seeds 8 --jobs 4                      # four at a time, each on its cores

Each training is a run folder in --out, with sweep.json and sweep.md; the same command continues
where it stopped. A --set with a single value holds for all trainings.

Values are compared on a part of the training split that is held out: train[:90%] and
train[90%:], unless the configuration names other parts of it. The test split is refused, except
where seeds alone are swept.
"""

import argparse
import re
from collections.abc import Mapping
from pathlib import Path

from absl import flags
from ml_collections import config_dict

from jaxcnn.commands import config_flag, outfiles, overrides, train, training
from jaxcnn.commands.parser import at_least
from jaxcnn.errors import UserError
from jaxcnn.run import observers
from jaxcnn.study import sweep


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the verb."""
    parser.add_argument("config", help="configuration, by name or path; a data set after a colon")
    parser.add_argument(
        "--seeds", type=at_least(1), default=1, help="trainings of each combination (default: 1)"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE[,VALUE...]",
        help="values of a key of the configuration; several --set give every combination",
    )
    parser.add_argument("--jobs", **training.JOBS)
    parser.add_argument(
        "--out", type=Path, help="folder of the results (default: runs/NAME[-DATASET]-sweep)"
    )


def run(args: argparse.Namespace) -> int:
    """Trains, and prints the table; returns 1 if a training failed."""
    found = dict(map(_axis, args.set))
    if len(found) < len(args.set):
        raise UserError("a key is given twice: name all its values in one --set")

    def build(values: Mapping[str, str]) -> config_dict.ConfigDict:
        given = [f"--{key}={text}" for key, text in values.items()]
        return config_flag.parse([f"--config={args.config}", *given], flags.FlagValues()).config

    out = args.out or Path(f"{train.default_workdir(args.config)}-sweep")
    outfiles.check_folder("--out", out, sweep.FILES)
    plan = sweep.Sweep(args.config, found, args.seeds, out, build)
    training.prepare([job.config for point in plan.points for job in point.jobs.values()])
    beside = training.beside(args.jobs)
    try:
        plan.run(observers.create_reporter(), beside)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            "stopped between two trainings; the same command continues"
        ) from None
    print(f"\n{sweep.text(plan.report)}\neverything is in {out}: {', '.join(sweep.FILES)}")
    return 1 if plan.report["failed"] else 0


def _axis(text: str) -> tuple[str, list[str]]:
    """Returns (key, texts of its values) of a --set; commas in brackets do not divide."""
    key, equals, values = text.partition("=")
    if not equals:
        raise UserError(f"--set {text} is not allowed: KEY=VALUE[,VALUE...], such as seed=1,2")
    if key == "seed":
        raise UserError("--set seed is not allowed: the number of seeds is --seeds")
    if key not in overrides.SETTINGS:
        overrides.split([f"--config.{key}="])  # says which key may be meant
    return key, re.split(r",(?![^(\[]*[)\]])", values)
