"""The picture of where a trained network looks: at its worst mistakes, and at images it knows."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxcnn import plots
from jaxcnn.data.splits import Split
from jaxcnn.evaluate.chosen import spread, worst
from jaxcnn.evaluate.classifier import Network
from jaxcnn.evaluate.grad_cam import GradCam

SHOWN = 8
"""Images of each kind."""


def draw(network: Network, split: Split, probabilities: np.ndarray, names: Sequence[str]) -> Any:
    """Returns the picture.

    Args:
        network: What looks.
        split: The images that it has classified.
        probabilities: float [N, K], of the classes of each.
        names: K names.
    """
    images, labels = split
    predicted = probabilities.argmax(1)
    correct = np.flatnonzero(predicted == labels)
    right = correct[spread(len(correct), SHOWN)].tolist()
    wrong = worst(probabilities, labels, SHOWN)
    looks = GradCam(network, SHOWN)
    chosen = [*wrong, *wrong, *right]
    classes = np.concatenate([predicted[wrong], labels[wrong], predicted[right]])
    maps = looks.maps(images[chosen], classes)

    def words(image: int, label: int) -> str:
        return f"{names[label]}: {100 * probabilities[image, label]:.0f} %"

    of_true = maps[len(wrong) :]
    mistaken = [
        plots.Attribution(
            images[i],
            f"is {names[labels[i]]}",
            {words(i, predicted[i]): cam, words(i, labels[i]): cam_of_true},
        )
        for i, cam, cam_of_true in zip(wrong, maps, of_true, strict=False)
    ]
    known = [
        plots.Attribution(images[i], f"is {names[labels[i]]}", {words(i, predicted[i]): cam})
        for i, cam in zip(right, maps[2 * len(wrong) :], strict=True)
    ]
    height, width, _ = looks.layer.shape
    sections = {
        "worst mistakes: what speaks for the predicted class, and for the true one": mistaken,
        "classified right: what speaks for the class": known,
    }
    return plots.grad_cam(
        sections, f"where {network.title} looks (Grad-CAM of {looks.layer.name}, {height}x{width})"
    )
