"""What older configurations mean today, and whether two configurations belong to the same run.

A run folder may be years old. Its config.json is read through `upgrade`, which gives renamed keys
their current names and missing ones the value that was in force before they existed. To rename a
key, add it to `RENAMED`; to add one, give the value without its effect in `ADDED`.
"""

import hashlib
import json
from collections.abc import Iterator
from typing import Any

RENAMED = {
    "train.accumulate": "train.grad_accum_steps",
    "train.log_steps": "train.log_every_steps",
}
"""Current dotted key by old one."""

ADDED: dict[str, Any] = {
    "dataset.image_size": 32,
    "dataset.holdout": 0.1,
    "dataset.holdout_seed": 0,
    "dataset.unreadable": "refuse",
    "augment.crop_mode": "zeros",
    "augment.flip_mode": "random",
    "augment.cutout": 0,
    "augment.random_erasing": 0.0,
    "augment.brightness": 0.0,
    "augment.contrast": 0.0,
    "augment.randaugment": [],
    "augment.mixup": 0.0,
    "augment.cutmix": 0.0,
    "model.bn_momentum": 0.9,
    "optim.weight_decay_depthwise": None,
    "optim.weight_decay_head": None,
    "optim.weight_decay_norm": 0.0,
    "optim.head_lr": None,
    "optim.bias_lr": None,
    "optim.whiten_bias_epochs": 0.0,
    "optim.sgd_momentum": 0.85,
    "optim.lookahead_steps": 0,
    "optim.lookahead_alpha": 0.5,
    "optim.peak_at": 0.2,
    "optim.cooldown": 0.2,
    "train.class_weights": "none",
    "train.init_from": "",
    "train.onednn": True,
    "train.ema_warmup": False,
    "train.keep_best": False,
    "train.patience": 0,
}
"""Dotted keys that older config.json files lack, with the value that was in force then."""

# These do not influence the numbers, as long as they are finite; `train.onednn` rounds them in
# another way, as another number of devices does, which a run may change as well.
_FREE = (
    "dataset.data_dir",
    "train.log_every_steps",
    "train.checkpoint_minutes",
    "train.keep_checkpoints",
    "train.keep_best",
    "train.plots",
    "train.tensorboard",
    "train.on_nonfinite",
    "train.max_nonfinite",
    "train.data_gigabytes",
    "train.onednn",
)
# May rise: the run goes on with the learning rates of the longer schedule.
_EPOCHS = "train.epochs"

MAY_CHANGE = f"what may change: {', '.join(_FREE)}, and {_EPOCHS} upwards"


def upgrade(config: dict[str, Any]) -> dict[str, Any]:
    """Returns the content of a config.json of any version with today's keys.

    Raises:
        ValueError: If its keys are no configuration's.
    """
    upgraded: dict[str, Any] = {}
    try:
        for key, value in leaves(config):
            _put(upgraded, RENAMED.get(key, key), value)
    except (AttributeError, TypeError, RecursionError) as error:
        # No object, "a.b" beside "a", or a thousand levels.
        raise ValueError("its keys are no configuration's") from error
    present = {key for key, _ in leaves(upgraded)}
    for key, value in ADDED.items():
        # A section that is no object is a fault that others name; nothing can be added to it.
        if key not in present and isinstance(upgraded.get(key.partition(".")[0], {}), dict):
            _put(upgraded, key, value)
    return upgraded


def refusals(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Returns why `new` cannot continue a run that was begun with `old`, a phrase for each key."""
    found = []
    for key, before, after in differences(upgrade(old), upgrade(new)):
        if key in _FREE or (key == _EPOCHS and after > before):
            continue
        rise = " and may only rise" if key == _EPOCHS else ""
        found.append(f"{key} was {before!r}, is {after!r}{rise}")
    return found


def fingerprint(config: dict[str, Any]) -> str:
    """Returns the SHA-256 of all values that may not change, which every checkpoint carries.

    Checkpoints of older versions carry it, too, so it must not depend on the version: keys count
    under the names that they had at first, and a key that was added later counts only where its
    value differs from the one that was in force before.
    """
    first_names = {current: old for old, current in RENAMED.items()}
    fixed = sorted(
        (first_names.get(key, key), value)
        for key, value in leaves(upgrade(config))
        if key not in (*_FREE, _EPOCHS) and not (key in ADDED and value == ADDED[key])
    )
    return hashlib.sha256(json.dumps(fixed).encode()).hexdigest()


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """Returns (dotted key, old value, new value) where two configurations differ."""
    before, after = dict(leaves(old)), dict(leaves(new))
    return [
        (key, before.get(key), after.get(key))
        for key in {**before, **after}
        if before.get(key) != after.get(key)
    ]


def leaves(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields (dotted key, value) of nested sections."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _put(tree: dict[str, Any], key: str, value: Any) -> None:
    *sections, last = key.split(".")
    for section in sections:
        tree = tree.setdefault(section, {})
    tree[last] = value
