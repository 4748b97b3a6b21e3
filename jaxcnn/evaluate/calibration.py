"""How far a network's probabilities can be trusted, and one number that mends them.

Temperature scaling (Guo et al. 2017, arXiv:1706.04599, sec. 4.2): all logits are divided by one
number, which changes no prediction.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from jaxcnn.data.held_out import held_out
from jaxcnn.errors import UserError
from jaxcnn.evaluate import evaluation, scores
from jaxcnn.evaluate.classifier import softmax
from jaxcnn.evaluate.run import Run

LEAST, MOST = 0.01, 100.0
"""Temperatures among which one is looked for."""

_HALVINGS = 60  # of the logarithm of the temperature: to the last digits of float64


class Reliability(NamedTuple):
    """What probabilities are worth on some images.

    Attributes:
        loss: Mean negative log-likelihood in nats.
        calibration_error: Expected calibration error, see `scores.calibration`.
        bins: The figures of each bin.
    """

    loss: float
    calibration_error: float
    bins: scores.Bins


class Calibration(NamedTuple):
    """The temperature of a run, and what it does on its evaluation split.

    Attributes:
        step: Of the checkpoint.
        temperature: All logits are divided by it.
        split: The images that it was fitted to.
        fitted_on: Number of them.
        eval_split: The images that it is judged by.
        examples: Number of them.
        top1: Fraction of them that is classified right, before and after.
        before: With the network's own probabilities.
        after: With the logits divided.
    """

    step: int
    temperature: float
    split: str
    fitted_on: int
    eval_split: str
    examples: int
    top1: float
    before: Reliability
    after: Reliability


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """Returns the temperature with the least negative log-likelihood, the same every time.

    The likelihood is concave in the temperature's inverse, so its derivative has one zero, which
    bisection of the temperature's logarithm finds.

    Args:
        logits: float [N, K], N > 0.
        labels: int [N].

    Raises:
        UserError: If there is none between `LEAST` and `MOST`: the more extreme, the likelier.
    """
    wide = logits.astype(np.float64)
    true = np.take_along_axis(wide, labels[:, None].astype(np.int64), 1)[:, 0]

    def slope(temperature: float) -> float:
        """Returns the derivative of the loss by the temperature's inverse: rising in that."""
        return float(((softmax(wide / temperature) * wide).sum(1) - true).mean())

    if not slope(LEAST) > 0 > slope(MOST):
        raise UserError(
            f"the {len(labels):,} held-out images have no best temperature between {LEAST:g} and "
            f"{MOST:g} (they are all classified right, or no better than by chance): hold out more "
            "images, or train longer"
        )
    low, high = np.log(LEAST), np.log(MOST)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        # A slope above 0: the inverse is too large, the temperature too low.
        low, high = (middle, high) if slope(float(np.exp(middle))) > 0 else (low, middle)
    return float(np.exp((low + high) / 2))


def reliability(logits: np.ndarray, labels: np.ndarray) -> Reliability:
    """Returns what the probabilities of float logits [N, K] are worth against int labels [N]."""
    log_probabilities = scores.log_softmax(logits)
    probabilities = np.exp(log_probabilities)
    return Reliability(
        scores.loss(log_probabilities, labels),
        scores.calibration(probabilities, labels),
        scores.confidence_bins(probabilities, labels),
    )


def calibrate(
    run: Run,
    warn: Callable[[str], None],
    selection: evaluation.Selection,
) -> Calibration:
    """Fits the temperature of a run to held-out images and judges it by the evaluation split.

    Args:
        run: A run, finished or not.
        warn: As for `evaluation.evaluate`.
        selection: As for `evaluation.evaluate`; its split is what the temperature is judged by.

    Raises:
        UserError: If no image was held out, or as for `evaluation.evaluate` and `fit_temperature`.
    """
    section = run.settings.dataset
    given = dataclasses.asdict(section)
    given |= {
        "data_dir": selection.data_dir or section.data_dir,
        "eval_split": selection.split or section.eval_split,
    }
    rest = held_out(**given)
    if not rest:
        raise UserError(
            f"{run.path} has no held-out training images to fit a temperature to: it was trained "
            f"on {section.train_split!r} and is evaluated on {given['eval_split']!r}; evaluate it "
            "with --split=test, or train with dataset.train_split=train[:90%]"
        )
    judged = evaluation.evaluate(run, warn, selection)
    fitted = run.dataset(rest, selection.data_dir).eval
    size = min(run.settings.train.eval_batch_size, len(fitted.labels))
    _, network = evaluation.classifier(run, warn, size, selection.best)
    temperature = fit_temperature(network.logits(fitted.images), fitted.labels)
    labels = judged.dataset.eval.labels
    return Calibration(
        judged.step,
        temperature,
        rest,
        len(fitted.labels),
        judged.dataset.eval_split,
        len(labels),
        judged.scores.top1,
        reliability(judged.logits, labels),
        reliability(judged.logits.astype(np.float64) / temperature, labels),
    )


def as_json(run: Run, found: Calibration) -> dict[str, Any]:
    """Returns the calibration as JSON's kinds of values."""
    return {
        "run": run.name,
        "model": run.model_name,
        "step": found.step,
        "temperature": found.temperature,
        "fitted_on": {"split": found.split, "examples": found.fitted_on},
        "split": found.eval_split,
        "examples": found.examples,
        "top1": found.top1,
        "bins": scores.BINS,
        **{
            name: {
                "loss": part.loss,
                "calibration_error": part.calibration_error,
                "per_bin": [
                    {"examples": int(count), "correct": int(hits), "confidence": float(confidence)}
                    for count, hits, confidence in zip(*part.bins, strict=True)
                ],
            }
            for name, part in (("before", found.before), ("after", found.after))
        },
    }


def as_text(found: Calibration) -> str:
    """Returns the calibration as plain text."""
    lines = [
        f"temperature {found.temperature:.4f}, fitted to {found.fitted_on:,} held-out images, "
        f"{found.split}",
        "",
        f"on {found.examples:,} images of {found.eval_split}, top-1 {100 * found.top1:.2f} %:",
        "             loss  calibration error",
    ]
    for name, part in (("before", found.before), ("after", found.after)):
        lines.append(f"{name:<8} {part.loss:8.4f}  {100 * part.calibration_error:15.2f} %")
    return "\n".join(lines)
