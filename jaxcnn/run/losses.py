"""Why do the training and the evaluation loss of a run differ? One line, where it is not plain.

Training reports the loss that it minimizes, as the mean over an epoch's steps. That is not the loss
of the network after the epoch, and need not be the same function.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from jaxcnn.config.settings import Settings
from jaxcnn.models.summary import BlockSummary

# Ratio of evaluation to training loss after epoch 1, above which the running statistics are named.
_STRIKING = 2.0


def difference(
    settings: Settings, rows: Sequence[BlockSummary], records: Sequence[Mapping[str, Any]]
) -> str:
    """Returns what makes the two losses of a run differ, as a sentence; "" for nothing special.

    Label smoothing adds to the training loss alone: its least value is not 0 (Szegedy et al. 2016,
    arXiv:1512.00567, sec. 7). Batch norm's running statistics are a moving average (Ioffe & Szegedy
    2015, arXiv:1502.03167, sec. 3.1) of the latest steps, whose weights change fastest at first.

    Args:
        settings: Of the run.
        rows: Its network's blocks.
        records: Of metrics.jsonl, at least one.
    """
    reasons = []
    if smoothing := settings.train.label_smoothing:
        reasons.append(f"label smoothing ({smoothing:g}) counts in the training loss alone")
    if settings.train.class_weights != "none":
        reasons.append("classes have weights in the training loss alone")
    if settings.augment.mixup or settings.augment.cutmix:
        reasons.append("images are mixed in training alone")
    first = records[0]
    is_striking = first["eval_loss"] > _STRIKING * first["train_loss"]
    if is_striking and any(row.norms for row in rows):
        reasons.append(
            "evaluation uses batch norm's running statistics, which in the first epochs lag behind "
            "the weights"
        )
    return f"why the two losses differ: {'; '.join(reasons)}" if reasons else ""
