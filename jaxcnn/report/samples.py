"""The same images as every network classifies them, and where it looks."""

import base64
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jaxcnn import plots
from jaxcnn.data import image_files
from jaxcnn.evaluate import evaluation
from jaxcnn.evaluate import run_plots as run_plots
from jaxcnn.evaluate.grad_cam import GradCam
from jaxcnn.evaluate.run import Run

_SHOWN = 12


def of_runs(runs: Mapping[str, Run], data_dir: str, say: Callable[[str], None]) -> dict[str, Any]:
    """Returns images of the first run's evaluation split, and each run's answer to each.

    Runs with other classes or images than the first are left out, and named in "left_out".
    """
    first = next(iter(runs.values()))
    split = first.dataset(data_dir=data_dir).eval
    chosen = run_plots.spread(len(split.labels), _SHOWN)
    images = split.images[chosen]
    answers, left_out = {}, []
    for name, run in runs.items():
        if (run.class_names, run.image_shape) != (first.class_names, first.image_shape):
            left_out.append(name)
            continue
        _, network = evaluation.classifier(run, say, len(images))
        rows = network.probabilities(images)
        maps = _looks(run, images, rows.argmax(1), say)
        answers[name] = [
            {
                "class": run.class_names[row.argmax()],
                "probability": float(row.max()),
                "map": _encoded(plots.overlay(image, cam)),
            }
            for row, image, cam in zip(rows, images, maps, strict=True)
        ]
    return {
        "images": [_encoded(image) for image in images],
        "labels": [first.class_names[label] for label in split.labels[chosen]],
        "answers": answers,
        "left_out": left_out,
    }


def _looks(
    run: Run, images: np.ndarray, classes: np.ndarray, say: Callable[[str], None]
) -> np.ndarray:
    """Returns the part of each image that speaks for a class, float32 [N, H, W], 0..1."""
    _, variables = run.newest(say)
    shape, stats = run.image_shape, run.settings.pixel_stats
    return GradCam(run.model, variables, stats, shape, batch_size=len(images)).maps(images, classes)


def _encoded(image: np.ndarray) -> str:
    """Returns uint8 [H, W, C] as a PNG file in base64."""
    return base64.b64encode(image_files.png(image)).decode()
