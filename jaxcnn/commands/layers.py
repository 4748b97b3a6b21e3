"""Prints the layers of a network: shapes, parameters, multiply-adds and memory.

jaxcnn layers mobilenet:digits
jaxcnn layers resnet --model resnet56 --image 64x64x3 --classes 100
jaxcnn layers configs/densenet.py
jaxcnn layers runs/mobilenet
"""

import argparse
import difflib
import math
import re
from pathlib import Path
from typing import Any

from jaxcnn import models
from jaxcnn.commands import config_flag, named
from jaxcnn.config import schema
from jaxcnn.errors import UserError
from jaxcnn.evaluate.run import Run
from jaxcnn.models import summary

MOST_CLASSES = 1_000_000
_SUMMED = ("parameters", "flops", "memory")

# Image shape and number of classes of data sets, so that a table needs no data.
KNOWN = {
    "cifar10": ((32, 32, 3), 10),
    "cifar100": ((32, 32, 3), 100),
    "digits": ((32, 32, 3), 10),
    "mnist": ((28, 28, 1), 10),
    "fashion_mnist": ((28, 28, 1), 10),
    "kmnist": ((28, 28, 1), 10),
    "svhn_cropped": ((32, 32, 3), 10),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the verb."""
    parser.add_argument(
        "source",
        help="configuration, by name or path, with a data set after a colon; or run folder",
    )
    parser.add_argument("--model", help="another network than the configuration's")
    parser.add_argument("--image", help="image shape, such as 32x32x3; default: the data set's")
    parser.add_argument("--classes", type=int, help="number of classes; default: the data set's")
    parser.epilog = f"{parser.epilog}\n\n{named.describe()}"


def run(args: argparse.Namespace) -> None:
    """Prints the table of the network's layers."""
    name, model, shape = _network(args)
    layers = summary.layers(model, shape)
    print(f"{name}, one image of {' x '.join(map(str, shape))}; memory: the layers' outputs")
    print(_table(layers))
    weights = sum(layer.parameters for layer in layers)
    largest = max(math.prod(layer.output) for layer in layers)
    print(f"parameters as float32: {4 * weights:,} bytes; largest output: {largest:,} values")


def _network(args: argparse.Namespace) -> tuple[str, Any, tuple[int, int, int]]:
    """Returns (name, network, image shape) of what the arguments mean."""
    path = Path(args.source)
    if path.is_dir():
        if args.model or args.image or args.classes is not None:
            raise UserError(
                f"{path} is a run, whose network is fixed: give a configuration with "
                "--model, --image or --classes"
            )
        run = Run(path)
        return run.model_name, run.model, run.image_shape
    config = config_flag.load(args.source)
    schema.validate(config)
    shape, classes = KNOWN.get(config.dataset.name, (None, None))
    shape = shape if args.image is None else _shape(args.image)
    classes = classes if args.classes is None else args.classes
    if shape is None or classes is None:
        known = {name.replace("_", ""): name for name in KNOWN}
        plain = re.sub(r"[\W_]", "", config.dataset.name.lower())
        close = difflib.get_close_matches(plain, known, n=1, cutoff=0.8)
        hint = f", did you mean {known[close[0]]}?" if close else ":"
        raise UserError(
            f"the image shape of {config.dataset.name} is not known here{hint} Give it with "
            "--image and --classes, such as --image 96x96x3 --classes 10"
        )
    if not 1 <= classes <= MOST_CLASSES:
        raise UserError(f"--classes={classes} is not allowed: from 1 to {MOST_CLASSES:,}")
    name = config.model.name if args.model is None else args.model
    fields = {
        key: config.model[key]
        for key in models.options(name if name in models.FAMILY else "lenet")
        if config.model[key] is not None
    }
    return name, models.create(name, classes, **fields), shape


def _shape(text: str) -> tuple[int, int, int]:
    found = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})x([1-9]\d{0,4})", text, re.ASCII)
    if not found:
        raise UserError(
            f"--image={text} is not allowed: HEIGHTxWIDTHxCHANNELS, such as 32x32x3, each from 1 "
            "to 99999"
        )
    height, width, channels = map(int, found.groups())
    return height, width, channels


def _table(layers: list[summary.Layer]) -> str:
    """Returns a line for each layer and one for all of them."""
    rows: list[tuple[str, ...]] = [
        ("layer", "kind", "output", "parameters", "multiply-adds", "memory, bytes")
    ]
    for layer in layers:
        shape = " x ".join(map(str, layer.output))
        numbers = (f"{n:,}" for n in (layer.parameters, layer.flops, layer.memory))
        rows.append((layer.name, layer.kind, shape, *numbers))
    sums = (sum(getattr(layer, key) for layer in layers) for key in _SUMMED)
    rows.append(("total", "", "", *(f"{n:,}" for n in sums)))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        left = (cell.ljust(width) for cell, width in zip(row[:2], widths, strict=False))
        right = (cell.rjust(width) for cell, width in zip(row[2:], widths[2:], strict=True))
        lines.append("  ".join([*left, *right]))
    return "\n".join(lines)
