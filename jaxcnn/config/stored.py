"""Whether values that a file holds are such as a run writes: the types and limits of settings."""

from typing import Any

from jaxcnn.config.declare import Setting


def check_value(key: str, declared: Setting, value: Any) -> None:
    """Raises ValueError for a value that `schema.validate` would not have let pass."""
    if value is None and declared.default is None:
        return
    kinds = (int, float) if declared.kind is float else (declared.kind,)
    if not isinstance(value, kinds) or not declared.check.accepts(value):
        raise ValueError(f"{key} is {value!r}")


def check_facts(facts: Any) -> None:
    """Raises ValueError if facts of the data are of another kind than `Settings.resolve` finds."""
    channels = facts.image_shape[-1] if _is_list(facts.image_shape, int, 3) else 0
    right = {
        "fingerprint": isinstance(facts.fingerprint, str),
        "class_names": _is_list(facts.class_names, str) and len(facts.class_names) > 0,
        "image_shape": channels > 0 and min(facts.image_shape) > 0,
        "train_examples": isinstance(facts.train_examples, int) and facts.train_examples > 0,
        "eval_examples": isinstance(facts.eval_examples, int) and facts.eval_examples > 0,
        "mean": _is_list(facts.mean, float | int, channels),
        "std": _is_list(facts.std, float | int, channels),
    }
    for name, is_right in right.items():
        if not is_right:
            raise ValueError(f"dataset.{name} is {getattr(facts, name)!r}")


def _is_list(values: Any, kind: Any, length: int | None = None) -> bool:
    return (
        isinstance(values, tuple)
        and all(isinstance(value, kind) for value in values)
        and length in (None, len(values))
    )
