"""Which epoch of a run is the best, may one choose it, and is a better one still expected?"""

from collections.abc import Iterable, Sequence
from typing import Any


def is_held_out(split: str) -> bool:
    """Whether a split names examples of training and validation splits alone, to choose by.

    Choosing an epoch, or a value, by the test split would be training on it: its accuracy would no
    longer say what the network does on images that had no part in its making.

    Args:
        split: A TFDS split string, such as `train[45000:]` or `train[:10%]+train[90%:]`.
    """
    names = {part.partition("[")[0].strip() for part in split.split("+")}
    return names <= {"train", "validation"}


def best_record(records: Iterable[dict[str, Any]]) -> dict[str, Any] | None:
    """Returns the record of the highest accuracy, the first of equals; None where there is none."""
    return max(records, key=lambda record: record["eval_accuracy"], default=None)


def is_exhausted(records: Sequence[dict[str, Any]], patience: int) -> bool:
    """Whether the last `patience` epochs were no better than one before; never with 0."""
    best = best_record(records)
    return bool(patience) and best is not None and len(records) - best["epoch"] >= patience
