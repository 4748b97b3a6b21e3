"""Classifies image files with the network of a run, or with weights of this package.

jaxcnn predict runs/mobilenet car.jpg ship.png holidays/ '*.webp'
jaxcnn predict runs/mobilenet car.jpg --json --picture car_classified.png
jaxcnn predict --pretrained mobilenet.safetensors car.jpg
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from jaxcnn import plots
from jaxcnn.commands import outfiles
from jaxcnn.commands.console import usage_error, warn
from jaxcnn.data import image_files, image_paths, locate
from jaxcnn.evaluate import sources
from jaxcnn.evaluate.classifier import Classifier, likeliest
from jaxcnn.evaluate.run import Run
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
    source = (
        sources.of_run(Run(locate.expanded(args.run)), warn)
        if args.pretrained is None
        else sources.of_weights(args.pretrained)
    )
    images, used = [], []
    refused: list[str] = []

    def refuse(message: str) -> None:
        refused.append(message)
        warn(f"error: {message}")

    for path in image_paths.find(given, refuse):
        try:
            images.append(image_files.read(path, source.image_shape))
            used.append(path)
        except image_files.Refused as error:
            refuse(str(error))
    results = []
    if images:
        network = source.load()
        classifier = Classifier(network, min(len(images), _BATCH))
        probabilities = classifier.probabilities(np.stack(images))
        results = [
            {"file": str(path), **likeliest(row, source.class_names)}
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
            plots.save(plots.predictions(items, source.class_names, network.title), args.picture)
    return 1 if refused else 0


def _arguments(args: argparse.Namespace) -> list[str]:
    """Returns the names of the images; a usage mistake if there is none."""
    first = [args.run] if args.pretrained is not None and args.run is not None else []
    if images := [*first, *args.images]:
        return images
    missing = "run, images" if args.pretrained is None and args.run is None else "images"
    usage_error(f"the following arguments are required: {missing}; see jaxcnn predict --help")


def _line(result: dict[str, Any]) -> str:
    """Returns a file's likeliest classes in words."""
    likeliest = [f"{top['class']} {100 * top['probability']:.1f} %" for top in result["top"]]
    return f"{result['file']}: {', '.join(likeliest)}"
