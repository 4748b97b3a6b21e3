"""Whether two configurations are those of one run: what may change between two of its starts."""

import hashlib
import json
from collections.abc import Iterator
from typing import Any

# None of these has a part in the numbers, as long as they are finite.
_FREE = (
    "dataset.data_dir",
    "train.log_every_steps",
    "train.checkpoint_minutes",
    "train.keep_checkpoints",
    "train.plots",
    "train.tensorboard",
    "train.on_nonfinite",
    "train.max_nonfinite",
    "train.data_gigabytes",
)
# May rise: the run goes on with the learning rates of the longer schedule.
_EPOCHS = "train.epochs"

MAY_CHANGE = f"what may change: {', '.join(_FREE)}, and {_EPOCHS} upwards"


def refusals(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Returns why `new` cannot continue a run that was begun with `old`, a phrase for each key."""
    found = []
    for key, before, after in differences(old, new):
        if key in _FREE or (key == _EPOCHS and after > before):
            continue
        rise = " and may only rise" if key == _EPOCHS else ""
        found.append(f"{key} was {before!r}, is {after!r}{rise}")
    return found


def fingerprint(config: dict[str, Any]) -> str:
    """Returns the SHA-256 of all that may not change."""
    fixed = sorted(item for item in _leaves(config) if item[0] not in (*_FREE, _EPOCHS))
    return hashlib.sha256(json.dumps(fixed).encode()).hexdigest()


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """Returns (dotted key, old value, new value) where two configurations differ."""
    before, after = dict(_leaves(old)), dict(_leaves(new))
    return [
        (key, before.get(key), after.get(key))
        for key in {**before, **after}
        if before.get(key) != after.get(key)
    ]


def _leaves(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
