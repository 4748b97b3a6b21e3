"""Classifies image files with the network of a run, or with weights of this package.

jaxcnn predict runs/mobilenet car.jpg ship.png holidays/ '*.webp'
jaxcnn predict runs/mobilenet car.jpg --json --picture car_classified.png
jaxcnn predict --pretrained mobilenet car.jpg
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxcnn import plots
from jaxcnn.commands import outfiles
from jaxcnn.commands.console import usage_error, warn
from jaxcnn.data import image_files, locate
from jaxcnn.evaluate import evaluation
from jaxcnn.evaluate.classifier import Classifier
from jaxcnn.evaluate.run import Run
from jaxcnn.models import load_pretrained
from jaxcnn.run.files import shown
from jaxcnn.runtime import compilation_cache

_BATCH = 100


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the verb."""
    # Optional for the parser alone: with --pretrained there is no run, see `_arguments`.
    parser.add_argument("run", nargs="?", help="run folder; none with --pretrained")
    parser.add_argument("images", nargs="*", help="image files, folders, or patterns in quotes")
    parser.set_defaults(intermixed=True)
    parser.add_argument(
        "--pretrained",
        metavar="NAME",
        help="weights that come with this version, or a .safetensors file that was made of a run",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of lines")
    parser.add_argument(
        "--picture", type=Path, help="PNG, PDF or SVG file to draw the first 16 results into"
    )


def run(args: argparse.Namespace) -> int:
    """Prints the likeliest classes of each image; returns 1 if any file could not be used."""
    given = _arguments(args)
    if args.picture:
        outfiles.check_file("--picture", args.picture, plots.SUFFIXES)
    compilation_cache.use_compilation_cache()
    source = _of_run(args.run) if args.pretrained is None else _of_weights(args.pretrained)
    images, used = [], []
    refused: list[str] = []

    def refuse(message: str) -> None:
        refused.append(message)
        warn(f"error: {message}")

    for path in image_files.find(given, refuse):
        try:
            images.append(image_files.read(path, source.image_shape))
            used.append(path)
        except image_files.Refused as error:
            refuse(str(error))
    results = []
    if images:
        title, network = source.network(min(len(images), _BATCH))
        probabilities = network.probabilities(np.stack(images))
        results = [
            _result(path, row, source.class_names)
            for path, row in zip(used, probabilities, strict=True)
        ]
    try:  # whichever of the two fails, the other one has the result
        if args.json:
            everything = {"run": source.name, "predictions": results, "refused": refused}
            print(json.dumps(everything, indent=2))
        else:
            print(*map(_line, results), sep="\n", end="\n" if results else "")
    finally:
        if args.picture and images:
            items = [
                plots.Prediction(image, row, caption=shown(Path(path.name)))
                for image, row, path in zip(images[:16], probabilities, used, strict=False)
            ]
            plots.save(plots.predictions(items, source.class_names, title), args.picture)
    return 1 if refused else 0


class _Source(NamedTuple):
    """A network that classifies.

    Attributes:
        name: Of the run or the weights.
        class_names: A name for each class.
        image_shape: (H, W, C).
        network: Gives (title of a picture, network) for batches of a size.
    """

    name: str
    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]
    network: Callable[[int], tuple[str, Classifier]]


def _arguments(args: argparse.Namespace) -> list[str]:
    """Returns the names of the images; a usage mistake if there is none."""
    first = [args.run] if args.pretrained is not None and args.run is not None else []
    if images := [*first, *args.images]:
        return images
    missing = "run, images" if args.pretrained is None and args.run is None else "images"
    usage_error(f"the following arguments are required: {missing}; see jaxcnn predict --help")


def _of_run(path: str) -> _Source:
    run = Run(locate.expanded(path))

    def network(batch_size: int) -> tuple[str, Classifier]:
        step, made = evaluation.classifier(run, warn, batch_size)
        return f"{run.model_name}, step {step}", made

    return _Source(run.name, run.class_names, run.image_shape, network)


def _of_weights(name: str) -> _Source:
    weights = load_pretrained(str(locate.expanded(name)))

    def network(batch_size: int) -> tuple[str, Classifier]:
        shape = weights.image_shape
        made = Classifier(
            weights.module, weights.variables, weights.pixel_stats, shape, batch_size=batch_size
        )
        return f"{weights.card['network']['name']}, pretrained", made

    return _Source(name, weights.class_names, weights.image_shape, network)


def _line(result: dict[str, Any]) -> str:
    """Returns a file's likeliest classes in words."""
    likeliest = [f"{top['class']} {100 * top['probability']:.1f} %" for top in result["top"]]
    return f"{result['file']}: {', '.join(likeliest)}"


def _result(path: Path, probabilities: np.ndarray, class_names: tuple[str, ...]) -> dict[str, Any]:
    """Returns a file's class and its five likeliest classes, as JSON has them.

    Args:
        path: The image file.
        probabilities: float [classes].
        class_names: A name for each class.
    """
    top = np.argsort(-probabilities, kind="stable")[:5]
    likeliest = [{"class": class_names[i], "probability": float(probabilities[i])} for i in top]
    return {"file": str(path), "class": class_names[top[0]], "top": likeliest}
