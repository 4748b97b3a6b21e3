"""How a value of the configuration is declared: type, default, limits and help in one place."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple


class Check(NamedTuple):
    """What a value must be: a test and the same in words."""

    accepts: Callable[[Any], bool]
    words: str


class Setting(NamedTuple):
    """The declaration of one value; the default None means that it is unset.

    Attributes:
        kind: Type of the value.
        default: The default value, or None.
        check: What is allowed.
        help: Meaning, unit and source, in a line.
        unset: Whose value is taken where it is unset.
    """

    kind: type
    default: Any
    check: Check
    help: str
    unset: str


def setting(default: Any, check: Check, help: str, unset: str = "the network's own") -> Any:
    """Declares a field of a section.

    Args:
        default: A value, or a type: then the field is unset and takes values of that type.
        check: What is allowed.
        help: Meaning, unit and source, in a line.
        unset: Whose value is taken where the field is unset.
    """
    is_unset = isinstance(default, type)
    kind, value = (default, None) if is_unset else (type(default), default)
    declared = Setting(kind, value, check, help, unset)
    return dataclasses.field(default=value, metadata={"setting": declared})


def at_least(low: float) -> Check:
    """From `low` on, finite."""
    return Check(lambda v: low <= v < math.inf, f"at least {low}")


def between(low: float, high: float) -> Check:
    """From `low` on, below `high`."""
    return Check(lambda v: low <= v < high, f"at least {low} and below {high}")


def within(low: float, high: float) -> Check:
    """From `low` to `high`."""
    return Check(lambda v: low <= v <= high, f"{low} to {high}")


def one_of(*names: str) -> Check:
    """One of `names`."""
    return Check(lambda v: v in names, "one of " + ", ".join(names))


ANY = Check(lambda v: True, "any")
TEXT = Check(bool, "not empty")
POSITIVE = Check(lambda v: 0 < v < math.inf, "above 0")
FRACTIONS = Check(
    lambda v: all(isinstance(x, float) and 0 < x < 1 for x in v) and list(v) == sorted(set(v)),
    "fractions between 0 and 1, rising, such as (0.5,0.75)",
)
