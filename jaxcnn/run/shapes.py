"""Which JSON the files of a run hold: what is wrong with a content that no run has written.

A file can be JSON and yet not be what a run writes: cut and pasted, half restored, of another
program. Each function returns what is wrong, in a few words, or None.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from jaxcnn.config import compat

_SCORES = ("learning_rate", "train_loss", "train_accuracy", "eval_loss", "eval_accuracy", "seconds")
_SUMMARY = ("parameters", "flops", "total_seconds")


def config_fault(found: Any, config: Mapping[str, Any]) -> str | None:
    """Returns what keeps the content of config.json from being compared with `config`."""
    if not isinstance(found, dict):
        return "it is no JSON object"
    try:
        before = dict(compat.leaves(compat.upgrade(found)))
    except ValueError as error:
        return str(error)
    now = dict(compat.leaves(compat.upgrade(dict(config))))
    for key, value in now.items():
        if key not in before:
            return f"{key} is missing"
        if not _alike(before[key], value):
            return f"{key} is {before[key]!r}"
    return None


def record_fault(record: Any, epoch: int) -> str | None:
    """Returns what is wrong with the record of an epoch, counted from 1."""
    if not isinstance(record, dict):
        return "it is no JSON object"
    for key in ("epoch", "step"):
        if not _is_count(record.get(key)):
            return f"{key} is {record.get(key)!r}"
    if record["epoch"] != epoch:
        return f"epoch {record['epoch']} stands in place of epoch {epoch}"
    return _not_numbers(record, _SCORES) or _no_rate(record)


def summary_fault(content: Any) -> str | None:
    """Returns what is wrong with the content of summary.json; None, no file, is right."""
    if content is None:
        return None
    if not isinstance(content, dict):
        return "it is no JSON object"
    if not isinstance(content.get("model"), str):
        return f"model is {content.get('model')!r}"
    if not _is_count(content.get("epoch")):
        return f"epoch is {content.get('epoch')!r}"
    return record_fault(content, content["epoch"]) or _not_numbers(content, _SUMMARY)


def environment_fault(content: Any) -> str | None:
    """Returns what is wrong with the content of environment.json; None, no file, is right."""
    if content is None:
        return None
    starts = content.get("starts") if isinstance(content, dict) else None
    if not isinstance(starts, list) or not all(isinstance(start, dict) for start in starts):
        return "it is no JSON object with a list of starts"
    for start in starts:
        devices = start.get("devices", [])
        if not isinstance(devices, list):
            return f"devices is {devices!r}"
        warnings = start.get("warnings", [])
        if not isinstance(warnings, list) or not all(isinstance(text, str) for text in warnings):
            return f"warnings is {warnings!r}"
    return None


def _not_numbers(content: Mapping[str, Any], keys: Iterable[str]) -> str | None:
    for key in keys:
        if not _is_number(content.get(key)):
            return f"{key} is {content.get(key)!r}"
    return None


def _no_rate(record: Mapping[str, Any]) -> str | None:
    rate = record.get("images_per_second", math.nan)
    return None if rate is None or _is_number(rate) else "images_per_second is no number"


def _alike(one: Any, other: Any) -> bool:
    """Tells whether two values of a configuration are of one kind; a value may be unset."""
    if one is None or other is None:
        return True
    if isinstance(one, list) and isinstance(other, list):
        return all(_alike(x, y) for x, y in zip(one, other, strict=False))
    return (_is_number(one) and _is_number(other)) or type(one) is type(other)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
