"""Classifies image files with the network of a run.

jaxcnn predict runs/mobilenet car.jpg ship.png holidays/ '*.webp'
jaxcnn predict runs/mobilenet car.jpg --json --picture car_classified.png
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from jaxcnn import plots
from jaxcnn.commands import outfiles
from jaxcnn.commands.console import warn
from jaxcnn.data import image_files
from jaxcnn.evaluate import evaluation
from jaxcnn.evaluate.run import Run
from jaxcnn.run.files import shown
from jaxcnn.runtime import compilation_cache

_BATCH = 100


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the verb."""
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument("images", nargs="+", help="image files, folders, or patterns in quotes")
    parser.add_argument("--json", action="store_true", help="print JSON instead of lines")
    parser.add_argument(
        "--picture", type=Path, help="PNG, PDF or SVG file to draw the first 16 results into"
    )


def run(args: argparse.Namespace) -> int:
    """Prints the likeliest classes of each image; returns 1 if any file could not be used."""
    if args.picture:
        outfiles.check_file("--picture", args.picture, plots.SUFFIXES)
    compilation_cache.use_compilation_cache()
    run = Run(args.run)
    images, used = [], []
    refused: list[str] = []

    def refuse(message: str) -> None:
        refused.append(message)
        warn(f"error: {message}")

    for path in image_files.find(args.images, refuse):
        try:
            images.append(image_files.read(path, run.image_shape))
            used.append(path)
        except image_files.Refused as error:
            refuse(str(error))
    results = []
    if images:
        step, network = evaluation.classifier(run, warn, min(len(images), _BATCH))
        probabilities = network.probabilities(np.stack(images))
        results = [
            _result(path, row, run.class_names)
            for path, row in zip(used, probabilities, strict=True)
        ]
    try:  # whichever of the two fails, the other one has the result
        if args.json:
            everything = {"run": run.name, "predictions": results, "refused": refused}
            print(json.dumps(everything, indent=2))
        else:
            print(*map(_line, results), sep="\n", end="\n" if results else "")
    finally:
        if args.picture and images:
            items = [
                plots.Prediction(image, row, caption=shown(Path(path.name)))
                for image, row, path in zip(images[:16], probabilities, used, strict=False)
            ]
            title = f"{run.model_name}, step {step}"
            plots.save(plots.predictions(items, run.class_names, title), args.picture)
    return 1 if refused else 0


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
