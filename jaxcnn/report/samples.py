"""The same images as every network classifies them."""

import base64
from collections.abc import Callable, Mapping
from typing import Any

from jaxcnn.data import image_files
from jaxcnn.evaluate import evaluation
from jaxcnn.evaluate import run_plots as run_plots
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
        answers[name] = [
            {"class": run.class_names[row.argmax()], "probability": float(row.max())}
            for row in rows
        ]
    return {
        "images": [base64.b64encode(image_files.png(image)).decode() for image in images],
        "labels": [first.class_names[label] for label in split.labels[chosen]],
        "answers": answers,
        "left_out": left_out,
    }
