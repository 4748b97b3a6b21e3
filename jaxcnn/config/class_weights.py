"""How much does an image of each class count in the training loss?

The loss of a batch is the sum of its images' losses, each times the weight of its class, over the
number of images (not over the sum of the weights, as PyTorch's CrossEntropyLoss(weight) has it).
So the gradients of micro-batches and of devices add up to that of the batch, an image counts the
same whichever others it meets, and weights of mean 1, as the balanced ones have over the training
split, leave the learning rate its meaning.
"""

import math

import numpy as np

from jaxcnn.config.declare import Check
from jaxcnn.data import Dataset
from jaxcnn.errors import UserError


def parse(text: str) -> tuple[float, ...] | None:
    """Returns the weights that a text such as `1,2,0.5` lists; None for `none`.

    Raises:
        ValueError: It is no such list.
    """
    if text == "none":
        return None
    weights = tuple(map(float, text.strip("()[] ").split(",")))
    if not all(0 <= weight < math.inf for weight in weights) or not any(weights):
        raise ValueError(f"weights are at least 0, and one is above: {text}")
    return weights


def _is_allowed(text: str) -> bool:
    try:
        if text != "balanced":
            parse(text)
    except ValueError:
        return False
    return True


ALLOWED = Check(_is_allowed, "none, balanced, or a number for each class, such as 1,2,0.5")


def decide(text: str, dataset: Dataset) -> str:
    """Returns what a setting means for a training split: `none` or a number for each class.

    Balanced weights are N / (K N_c) for N images of K classes, N_c of them of class c (King & Zeng
    2001, "Logistic Regression in Rare Events Data", sec. 4.2; scikit-learn's "balanced").

    Args:
        text: `none`, `balanced` or a list of numbers.
        dataset: The data, whose training split is meant.

    Raises:
        UserError: There are not as many numbers as classes, or a class without images.
    """
    labels, class_names = dataset.train.labels, dataset.class_names
    if text == "balanced":
        counts = np.bincount(labels, minlength=len(class_names))
        if not np.all(counts):
            raise UserError(
                "train.class_weights=balanced needs an image of each class to train on, there is "
                f"none of {class_names[int(np.argmin(counts))]}: take a larger training split, or "
                "list the weights"
            )
        return ",".join(repr(float(weight)) for weight in len(labels) / (len(counts) * counts))
    weights = parse(text)
    if weights is not None and len(weights) != len(class_names):
        raise UserError(
            f"train.class_weights={text} has {len(weights)} numbers, the data has "
            f"{len(class_names)} classes: give a number for each, in the order "
            f"{', '.join(class_names[:10])}{', ...' * (len(class_names) > 10)}"
        )
    return text
