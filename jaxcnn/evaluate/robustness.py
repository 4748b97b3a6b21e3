"""How much of its accuracy a network keeps on images that are corrupted."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from jaxcnn.data import batches
from jaxcnn.evaluate import evaluation
from jaxcnn.evaluate.corruptions import table
from jaxcnn.evaluate.run import Run

# Images at once: no more are in memory, whatever the split. It is fixed, and not the run's own, as
# a program for another number may round differently.
_CHUNK = 200

NOTE = (
    "The corruptions are computed anew, by this program, from the images of the split: these are "
    "not the published files of CIFAR-10-C, and frost is drawn without its photographs."
)


class Robustness(NamedTuple):
    """The errors of a network on corrupted images.

    Attributes:
        step: Of the checkpoint.
        split: The images.
        examples: Number of them.
        clean_error: Fraction of the images as they are that is classified wrong.
        errors: float [corruptions, severities], the same of the corrupted ones.
        shown: uint8 [corruptions, severities + 1, H, W, C], the first image: as it is, and
            corrupted.
    """

    step: int
    split: str
    examples: int
    clean_error: float
    errors: np.ndarray
    shown: np.ndarray

    @property
    def mean_error(self) -> float:
        """The mean corruption error: over all corruptions and severities."""
        return float(self.errors.mean())


def evaluate(
    run: Run,
    say: Callable[[str], None],
    selection: evaluation.Selection,
    limit: int | None = None,
) -> Robustness:
    """Evaluates a run on images under each corruption, the same ones each time.

    Args:
        run: A run, finished or not.
        say: Gets warnings as in `evaluation.evaluate`, and a line after each corruption.
        selection: As for `evaluation.evaluate`.
        limit: Take the first images only, so many of them; None for all.

    Raises:
        UserError: As `evaluation.evaluate`, or if such images cannot be corrupted.
    """
    table.check_shape(run.image_shape)
    dataset = evaluation.load(run, say, selection)
    images, labels = (array[:limit] for array in dataset.eval)
    step, network = evaluation.classifier(run, say, _CHUNK, selection.best)
    clean = _error(network.logits, lambda images, first: images, images, labels)
    names, severities = table.NAMES, table.SEVERITIES
    errors = np.zeros((len(names), len(severities)))
    shown = np.repeat(images[:1], len(names) * (1 + len(severities)), 0)
    shown = shown.reshape(len(names), 1 + len(severities), *run.image_shape)
    for row, name in enumerate(names):
        corrupt = table.corruptor(name, run.image_shape, _CHUNK)
        for column, severity in enumerate(severities):
            change = partial(corrupt, severity=severity)
            errors[row, column] = _error(network.logits, change, images, labels)
            shown[row, 1 + column] = change(np.repeat(images[:1], _CHUNK, 0), first=0)[0]
        say(f"{name}: mean error {100 * errors[row].mean():.1f} %")
    return Robustness(step, dataset.eval_split, len(labels), clean, errors, shown)


def _error(
    logits: Callable[[np.ndarray], np.ndarray],
    change: Callable[..., np.ndarray],
    images: np.ndarray,
    labels: np.ndarray,
) -> float:
    """Returns the fraction of changed images that is classified wrong."""
    wrong = 0
    for indices, mask in batches.sequential_batches(len(labels), _CHUNK):
        predicted = logits(change(images[indices], first=int(indices[0]))).argmax(1)
        wrong += int(((predicted != labels[indices]) & mask).sum())
    return wrong / len(labels)


def as_json(run: Run, found: Robustness) -> dict[str, Any]:
    """Returns the errors as JSON's kinds of values."""
    return {
        "run": run.name,
        "model": run.model_name,
        "step": found.step,
        "split": found.split,
        "examples": found.examples,
        "note": NOTE,
        "severities": list(table.SEVERITIES),
        "clean_error": found.clean_error,
        "mean_corruption_error": found.mean_error,
        "relative_mean_corruption_error": found.mean_error - found.clean_error,
        "errors": dict(zip(table.NAMES, found.errors.tolist(), strict=True)),
    }


def as_text(found: Robustness) -> str:
    """Returns the errors, in percent, as plain text: a line for each corruption."""
    width = max(map(len, table.NAMES))
    lines = [
        f"errors in % on {found.examples:,} images of {found.split}",
        "",
        f"{'severity':<{width}}" + "".join(f"{s:>7}" for s in (*table.SEVERITIES, "mean")),
    ]
    rows = [*zip(table.NAMES, found.errors, strict=True), ("mean", found.errors.mean(0))]
    for name, row in rows:
        cells = "".join(f"{100 * value:7.1f}" for value in (*row, row.mean()))
        lines.append(f"{name:<{width}}{cells}")
    lines += [
        "",
        f"clean error {100 * found.clean_error:.1f} %, mean corruption error "
        f"{100 * found.mean_error:.1f} %: "
        f"{100 * (found.mean_error - found.clean_error):+.1f} points",
        NOTE,
    ]
    return "\n".join(lines)
