"""How good are predictions: loss, accuracies, figures for each class, calibration."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

BINS = 15


class Scores(NamedTuple):
    """What logits are worth against labels.

    Attributes:
        examples: N.
        loss: Mean cross-entropy in nats, without smoothing.
        top1: Fraction whose likeliest class is the true one.
        top5: Fraction with the true class among the five likeliest (all, with fewer classes).
        calibration_error: Expected calibration error, see `calibration`.
        confusion: int [K, K], rows: true classes.
        precision: float [K]; 0 where a class is never predicted.
        recall: float [K]; 0 where a class has no example.
        f1: float [K].
        support: int [K], examples of each class.
    """

    examples: int
    loss: float
    top1: float
    top5: float
    calibration_error: float
    confusion: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray
    support: np.ndarray


class Bins(NamedTuple):
    """Predictions by the probability of their likeliest class, in bins of equal width over 0..1.

    Attributes:
        examples: int [bins].
        correct: float [bins], those whose likeliest class is the true one.
        confidence: float [bins], sums of the likeliest class's probability.
    """

    examples: np.ndarray
    correct: np.ndarray
    confidence: np.ndarray


def score(logits: np.ndarray, labels: np.ndarray) -> Scores:
    """Returns the scores of float logits [N, K] against int labels [N], N > 0."""
    # Imported here, as it takes long: a training needs it at its end, not at its start.
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    classes = logits.shape[1]
    log_probabilities = log_softmax(logits)
    predicted = logits.argmax(1)
    true = np.take_along_axis(logits, labels[:, None].astype(np.int64), 1)
    # Rank by counting: equal logits are in favor of the true class, in whatever order they stand.
    above = (logits > true).sum(1)
    precision, recall, f1, support = precision_recall_fscore_support(
        labels, predicted, labels=range(classes), zero_division=0.0
    )
    return Scores(
        examples=len(labels),
        loss=loss(log_probabilities, labels),
        top1=float((predicted == labels).mean()),
        top5=float((above < 5).mean()),
        calibration_error=calibration(np.exp(log_probabilities), labels),
        confusion=confusion_matrix(labels, predicted, labels=range(classes)),
        precision=np.asarray(precision),
        recall=np.asarray(recall),
        f1=np.asarray(f1),
        support=np.asarray(support),
    )


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Returns the logarithms of the probabilities of float logits [N, K], float64 [N, K]."""
    wide = logits.astype(np.float64)
    # exp of the largest is then 1: nothing overflows, and the probabilities are the same.
    wide -= wide.max(1, keepdims=True)
    return np.asarray(wide - np.log(np.exp(wide).sum(1, keepdims=True)))


def loss(log_probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Returns the mean cross-entropy in nats of float [N, K] against int labels [N]."""
    return float(-np.take_along_axis(log_probabilities, labels[:, None], 1).mean())


def confidence_bins(probabilities: np.ndarray, labels: np.ndarray, bins: int = BINS) -> Bins:
    """Returns the predictions in bins of equal width; arguments as for `calibration`."""
    confidence = probabilities.max(1)
    correct = probabilities.argmax(1) == labels
    # Bins are closed above, as in the paper: ((m - 1) / M, m / M].
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    return Bins(
        np.bincount(place, minlength=bins),
        np.bincount(place, weights=correct, minlength=bins),
        np.bincount(place, weights=confidence, minlength=bins),
    )


def calibration(probabilities: np.ndarray, labels: np.ndarray, bins: int = BINS) -> float:
    """Returns the expected calibration error, 0..1 (Guo et al. 2017, arXiv:1706.04599, eq. 3).

    Predictions are put into `bins` bins of equal width by the probability of their likeliest
    class; the error is the mean distance between a bin's accuracy and its mean probability,
    weighted by its predictions.

    Args:
        probabilities: float [N, K].
        labels: int [N].
        bins: Number of bins over 0..1.
    """
    _, correct, confidence = confidence_bins(probabilities, labels, bins)
    # A bin's weight, its predictions over N, times the distance of two means over its predictions.
    return float(np.abs(correct - confidence).sum() / len(labels))


def as_json(scores: Scores, names: Sequence[str]) -> dict[str, Any]:
    """Returns the scores as JSON's kinds of values."""
    per_class = [
        {
            "class": name,
            "precision": float(scores.precision[i]),
            "recall": float(scores.recall[i]),
            "f1": float(scores.f1[i]),
            "examples": int(scores.support[i]),
        }
        for i, name in enumerate(names)
    ]
    return {
        "examples": scores.examples,
        "loss": scores.loss,
        "top1": scores.top1,
        "top5": scores.top5,
        "calibration_error": scores.calibration_error,
        "per_class": per_class,
        "confusion": scores.confusion.tolist(),
    }


def headline(scores: Scores) -> str:
    """Returns the scores over all classes as a line of text."""
    return (
        f"examples {scores.examples:,}  loss {scores.loss:.4f}  top-1 {100 * scores.top1:.2f} %  "
        f"top-5 {100 * scores.top5:.2f} %  "
        f"calibration error {100 * scores.calibration_error:.2f} %"
    )


def table(scores: Scores, names: Sequence[str]) -> str:
    """Returns the scores as plain text: a line of means, then a line for each class."""
    width = max(len("class"), *(len(name) for name in names))
    lines = [
        headline(scores),
        "",
        f"{'class':<{width}}  precision  recall      F1  examples",
    ]
    for i, name in enumerate(names):
        lines.append(
            f"{name:<{width}}  {scores.precision[i]:9.3f}  {scores.recall[i]:6.3f}  "
            f"{scores.f1[i]:6.3f}  {scores.support[i]:8,}"
        )
    return "\n".join(lines)
