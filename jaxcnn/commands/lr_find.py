"""Finds a learning rate by a range test: the rate rises step by step while the loss is watched.

jaxcnn lr_find mobilenet
jaxcnn lr_find lenet:digits --steps 100
jaxcnn lr_find resnet --set model.name=resnet20 --set train.batch_size=256 --out rates

Leaves lr_find.png and lr_find.json in --out. Every step is one of a training with this
configuration, on train[:90%] unless parts of the training split are named; nothing is evaluated.
"""

import argparse
import json
import math
from pathlib import Path
from typing import Any

from absl import flags

from jaxcnn import data, plots
from jaxcnn.commands import config_flag, outfiles, train, training
from jaxcnn.commands.console import warn
from jaxcnn.commands.parser import at_least
from jaxcnn.config import schema
from jaxcnn.config.settings import check_network
from jaxcnn.errors import UserError
from jaxcnn.study import holdout, lr_range

FILES = ("lr_find.json", "lr_find.png")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the verb."""
    parser.add_argument("config", help="configuration, by name or path; a data set after a colon")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a value")
    parser.add_argument(
        "--steps", type=at_least(lr_range.LEAST_STEPS), help="steps (default: an epoch's)"
    )
    parser.add_argument("--low", type=float, default=1e-4, help="first rate (default: 0.0001)")
    parser.add_argument("--high", type=float, default=10.0, help="last rate (default: 10)")
    parser.add_argument("--out", type=Path, help="folder (default: runs/NAME[-DATASET]-lr_find)")


def run(args: argparse.Namespace) -> None:
    """Runs the test and prints the suggestion."""
    if not 0 < args.low < args.high < math.inf:
        raise UserError(
            f"--low={args.low} and --high={args.high} are not allowed: above 0, and the first "
            "below the second"
        )
    given = [f"--{text}" for text in args.set]
    config = config_flag.parse([f"--config={args.config}", *given], flags.FlagValues()).config
    schema.validate(config)
    check_network(config)
    section, key = config.dataset, "dataset.train_split"
    if section.train_split == "train" and not any(text.startswith(key) for text in args.set):
        section.train_split, section.eval_split = holdout.TRAIN, holdout.HELD_OUT
    holdout.check(key, section.train_split)
    out = args.out or Path(f"{train.default_workdir(args.config)}-lr_find")
    outfiles.check_folder("--out", out, FILES)
    training.prepare([config])
    report = lr_range.run(
        config,
        data.load(**config.dataset),
        low=args.low,
        high=args.high,
        steps=args.steps,
        say=warn,
    )
    out.mkdir(parents=True, exist_ok=True)
    outfiles.write("--out", out / FILES[0], json.dumps(report, indent=1) + "\n")
    marks = {key: report[key] for key in ("steepest", "suggestion", "lowest")}
    rates, losses, smoothed = (report[key] for key in ("rates", "losses", "smoothed"))
    drawn = plots.lr_range(rates, losses, smoothed, marks, f"{report['model']}, range test")
    plots.save(drawn, out / FILES[1])
    print(_text(report, args.high))
    print(f"wrote {out / FILES[0]} and {FILES[1]}")


def _text(report: dict[str, Any], high: float) -> str:
    """Returns the findings in lines."""
    lines = [
        f"{report['model']}, batch {report['batch_size']}, {report['steps']} steps",
        f"the loss falls fastest at {report['steepest']:.2g}, is lowest at {report['lowest']:.2g}",
        f"suggestion: optim.peak_lr={report['suggestion']}",
    ]
    if report["still_falling"]:
        lines.append(f"the loss still falls at {high:g}: go on with a higher --high")
    return "\n".join(lines)
