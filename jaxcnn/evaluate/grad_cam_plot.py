"""The picture of where a trained network looks: at its worst mistakes, and at images it knows."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from flax import linen as nn

from jaxcnn import plots
from jaxcnn.data.augment import PixelStats
from jaxcnn.data.splits import Split
from jaxcnn.evaluate.grad_cam import GradCam

SHOWN = 8
"""Images of each kind."""


def draw(
    network: tuple[nn.Module, Any, PixelStats],
    split: Split,
    probabilities: np.ndarray,
    mistakes: Sequence[int],
    names: Sequence[str],
    title: str,
) -> Any:
    """Returns the picture.

    Args:
        network: Module, variables and the stats of the pixels.
        split: The images that were classified.
        probabilities: float [N, K], of the classes of each.
        mistakes: The mistakes to be shown.
        names: K names.
        title: What looks where.
    """
    module, variables, stats = network
    images, labels = split
    predicted = probabilities.argmax(1)
    right = np.flatnonzero(predicted == labels)
    right = (
        right[np.unique(np.linspace(0, len(right) - 1, SHOWN).astype(int))] if len(right) else right
    )
    wrong = np.asarray(mistakes[:SHOWN], np.int64)
    looks = GradCam(module, variables, stats, images.shape[1:], batch_size=SHOWN)
    chosen = np.concatenate([wrong, wrong, right])
    classes = np.concatenate([predicted[wrong], labels[wrong], predicted[right]])
    maps = looks.maps(images[chosen], classes)

    def words(image: int, label: int) -> str:
        return f"{names[label]}: {100 * probabilities[image, label]:.0f} %"

    count = len(wrong)
    mistaken = [
        plots.Look(
            images[image],
            f"is {names[labels[image]]}",
            {
                words(image, predicted[image]): maps[place],
                words(image, labels[image]): maps[count + place],
            },
        )
        for place, image in enumerate(map(int, wrong))
    ]
    known = [
        plots.Look(images[i], f"is {names[labels[i]]}", {words(i, predicted[i]): cam})
        for i, cam in zip(right, maps[2 * count :], strict=True)
    ]
    height, width, _ = looks.layer.shape
    sections = {
        "worst mistakes: what speaks for the predicted class, and for the true one": mistaken,
        "classified right: what speaks for the class": known,
    }
    return plots.grad_cam(
        sections, f"where {title} looks (Grad-CAM of {looks.layer.name}, {height}x{width})"
    )
