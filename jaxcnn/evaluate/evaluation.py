"""A trained run on a split of its data: what `jaxcnn evaluate` prints."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from jaxcnn.data import Dataset
from jaxcnn.errors import UserError
from jaxcnn.evaluate import scores, sources, tta
from jaxcnn.evaluate.classifier import Classifier
from jaxcnn.evaluate.run import Run


class Selection(NamedTuple):
    """Which checkpoint of a run is evaluated, and on which images.

    Attributes:
        split: A TFDS split string; empty for the run's own evaluation split.
        data_dir: A TFDS directory; empty for the run's own.
        best: Take the best checkpoint, see `Run.best`, rather than the newest.
    """

    split: str = ""
    data_dir: str = ""
    best: bool = False


_NEWEST = Selection()


class Evaluation(NamedTuple):
    """One run, one split.

    Attributes:
        step: Of the checkpoint that was evaluated.
        dataset: The data, its `eval` split the evaluated one.
        logits: float32 [N, K].
        scores: Of the logits.
        views: Name of the test-time augmentation, "" for none.
        tta_scores: Of the mean of its views' logits; None for none.
    """

    step: int
    dataset: Dataset
    logits: np.ndarray
    scores: scores.Scores
    views: str = ""
    tta_scores: scores.Scores | None = None


def classifier(
    run: Run, warn: Callable[[str], None], batch_size: int, best: bool = False
) -> tuple[int, Classifier]:
    """Returns (step, network) as `sources.trained`, compiled for `batch_size` images."""
    step, network = sources.trained(run, warn, best)
    return step, Classifier(network, batch_size)


def evaluate(
    run: Run,
    warn: Callable[[str], None],
    selection: Selection = _NEWEST,
    views: str = "",
) -> Evaluation:
    """Evaluates a run.

    Args:
        run: A run, finished or not.
        warn: Gets a warning of a damaged checkpoint, and of other data than the run's.
        selection: What is evaluated; by default the newest checkpoint on the run's own split.
        views: A key of `tta.VIEWS`: evaluate their mean, too; "" for none.

    Raises:
        UserError: If there is no checkpoint, or the data cannot be had; for mirror views of images
            that were not mirrored in training.
    """
    if views and not run.settings.augment.flip:
        raise UserError(
            f"--tta={views}: {run.path} was trained without mirrored images "
            "(augment.flip is False), as those of its data may be of another class: leave out --tta"
        )
    dataset = load(run, warn, selection)
    size = min(run.settings.train.eval_batch_size, len(dataset.eval.labels))
    step, network = classifier(run, warn, size, selection.best)
    images, labels = dataset.eval
    logits = network.logits(images)
    with_views = None
    if views:
        with_views = scores.score(tta.mean_logits(network.logits, images, views), labels)
    return Evaluation(step, dataset, logits, scores.score(logits, labels), views, with_views)


def load(run: Run, warn: Callable[[str], None], selection: Selection) -> Dataset:
    """Returns `run.dataset`; `warn` gets a line if these are other data than the run's."""
    dataset = run.dataset(selection.split, selection.data_dir)
    trained_on = run.settings.facts.fingerprint
    if dataset.fingerprint != trained_on:
        warn(f"warning: the run's data are {trained_on}, these are {dataset.fingerprint}")
    return dataset


def as_json(run: Run, evaluation: Evaluation) -> dict[str, Any]:
    """Returns the evaluation as JSON's kinds of values."""
    augmented: dict[str, Any] = {}
    if evaluation.tta_scores:
        of_views = scores.as_json(evaluation.tta_scores, run.class_names)
        augmented = {"test_time_augmentation": {"views": evaluation.views, **of_views}}
    return {
        "run": run.name,
        "model": run.model_name,
        "step": evaluation.step,
        "split": evaluation.dataset.eval_split,
        "data": evaluation.dataset.fingerprint,
        **scores.as_json(evaluation.scores, run.class_names),
        **augmented,
    }


def as_text(run: Run, evaluation: Evaluation) -> str:
    """Returns the evaluation as plain text; what views give stands below what one image gives."""
    text = scores.table(evaluation.scores, run.class_names)
    if evaluation.tta_scores:
        first = scores.headline(evaluation.tta_scores)
        text += f"\n\nwith test-time augmentation ({evaluation.views}):\n{first}"
    return text
