"""A trained run on a split of its data: what `jaxcnn evaluate` prints."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from jaxcnn.data import Dataset
from jaxcnn.evaluate import scores
from jaxcnn.evaluate.classifier import Classifier
from jaxcnn.evaluate.run import Run


class Evaluation(NamedTuple):
    """One run, one split.

    Attributes:
        step: Of the checkpoint that was evaluated.
        dataset: The data, its `eval` split the evaluated one.
        logits: float32 [N, K].
        scores: Of the logits.
    """

    step: int
    dataset: Dataset
    logits: np.ndarray
    scores: scores.Scores


def classifier(run: Run, warn: Callable[[str], None], batch_size: int) -> tuple[int, Classifier]:
    """Returns (step, network) of the run's newest checkpoint, compiled for `batch_size` images."""
    step, variables = run.newest(warn)
    made = Classifier(
        run.model, variables, run.settings.pixel_stats, run.image_shape, batch_size=batch_size
    )
    return step, made


def evaluate(
    run: Run, warn: Callable[[str], None], *, split: str = "", data_dir: str = ""
) -> Evaluation:
    """Evaluates the newest checkpoint of `run` on `split`, by default the run's own.

    Args:
        run: A run, finished or not.
        warn: Gets a warning of a damaged checkpoint, and of other data than the run's.
        split: A TFDS split string.
        data_dir: A TFDS directory; empty for the run's own.

    Raises:
        UserError: If there is no checkpoint, or the data cannot be had.
    """
    dataset = run.dataset(split, data_dir)
    trained_on = run.settings.facts.fingerprint
    if dataset.fingerprint != trained_on:
        warn(f"warning: the run's data are {trained_on}, these are {dataset.fingerprint}")
    size = min(run.settings.train.eval_batch_size, len(dataset.eval.labels))
    step, network = classifier(run, warn, size)
    logits = network.logits(dataset.eval.images)
    return Evaluation(step, dataset, logits, scores.score(logits, dataset.eval.labels))


def as_json(run: Run, evaluation: Evaluation, split: str = "") -> dict[str, Any]:
    """Returns the evaluation as JSON's kinds of values."""
    return {
        "run": run.name,
        "model": run.model_name,
        "step": evaluation.step,
        "split": split or run.settings.dataset.eval_split,
        "data": evaluation.dataset.fingerprint,
        **scores.as_json(evaluation.scores, run.class_names),
    }
