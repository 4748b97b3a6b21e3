"""The same images as every network classifies them, and where it looks."""

from collections.abc import Callable, Mapping
from typing import Any

from jaxcnn import plots
from jaxcnn.data.image_files import data_url
from jaxcnn.evaluate import sources
from jaxcnn.evaluate.chosen import spread
from jaxcnn.evaluate.classifier import Classifier
from jaxcnn.evaluate.grad_cam import GradCam
from jaxcnn.evaluate.run import Run

_SHOWN = 12


def of_runs(runs: Mapping[str, Run], data_dir: str, say: Callable[[str], None]) -> dict[str, Any]:
    """Returns images of the first run's evaluation split, and each run's answer to each.

    Runs with other classes or images than the first are left out, and named in "left_out".
    """
    first = next(iter(runs.values()))
    split = first.dataset(data_dir=data_dir).eval
    chosen = spread(len(split.labels), _SHOWN)
    images = split.images[chosen]
    answers, left_out = {}, []
    for name, run in runs.items():
        if (run.class_names, run.image_shape) != (first.class_names, first.image_shape):
            left_out.append(name)
            continue
        _, network = sources.trained(run, say)
        rows = Classifier(network, len(images)).probabilities(images)
        maps = GradCam(network, len(images)).maps(images, rows.argmax(1))
        answers[name] = [
            {
                "class": run.class_names[row.argmax()],
                "probability": float(row.max()),
                "map": data_url(plots.overlay(image, cam)),
            }
            for row, image, cam in zip(rows, images, maps, strict=True)
        ]
    return {
        "images": [data_url(image) for image in images],
        "labels": [first.class_names[label] for label in split.labels[chosen]],
        "answers": answers,
        "left_out": left_out,
    }
