"""Values of the configuration on the command line, such as --train.epochs=3."""

import difflib
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

from absl import flags
from ml_collections.config_flags import tuple_parser

from jaxcnn.commands.console import warn
from jaxcnn.config import compat, schema
from jaxcnn.errors import UserError

SETTINGS = dict(schema.walk())
_SECTIONS = "|".join(dict.fromkeys(key.partition(".")[0] for key in SETTINGS if "." in key))
# The other verbs' flag means the same here.
_ALIASES = {"data_dir": "dataset.data_dir"}
_TOP_LEVEL = "|".join([*(key for key in SETTINGS if "." not in key), *_ALIASES])
_KEY = re.compile(
    rf"(?P<flag>--?(?P<no>no)?(?:config\.(?P<long>[^=]*)|(?P<short>(?:{_SECTIONS})\.[^=]*"
    rf"|(?:{_TOP_LEVEL}))))(?:=(?P<value>.*))?",
    re.DOTALL,
)
_PARSERS: dict[type, flags.ArgumentParser] = {
    bool: flags.BooleanParser(),
    int: flags.IntegerParser(),
    float: flags.FloatParser(),
    str: flags.ArgumentParser(),
    tuple: tuple_parser.TupleParser(),
}


class Override(NamedTuple):
    """A value that the command line gives: the flag as it was written, the key, the value."""

    flag: str
    key: str
    value: Any


def split(arguments: Iterable[str]) -> tuple[list[Override], list[str]]:
    """Returns the values for the configuration, in order, and the other arguments.

    Raises:
        UserError: For a key that there is not, or a value of another type than the key's.
    """
    found: list[Override] = []
    others: list[str] = []
    left = iter(map(_rename, arguments))
    for argument in left:
        match = _KEY.fullmatch(argument)
        if argument == "--":  # what follows are no flags
            return found, [*others, argument, *left]
        if not match:
            others.append(argument)
            continue
        flag, key, value = match["flag"], match["long"] or match["short"] or "", match["value"]
        key = _ALIASES.get(key, key)
        if key not in SETTINGS:
            close = difflib.get_close_matches(key, SETTINGS, n=1)
            hint = f"did you mean {close[0]}?" if close else "see --help for all keys"
            raise UserError(f"{flag} is not a key of the configuration: {hint}")
        is_bool = SETTINGS[key].kind is bool
        if match["no"]:
            if not is_bool or value is not None:
                raise UserError(f"{argument} is not allowed: {key} is {schema.describe(key)}")
            value = "false"
        elif value is None:
            value = "true" if is_bool else next(left, None)
        if value is None:
            raise UserError(f"{flag} needs a value: {schema.describe(key)}")
        found.append(Override(flag, key, _value(flag, key, value)))
    return found, others


def _value(flag: str, key: str, text: str) -> Any:
    """Returns the value that a text means for a key; None unsets one that may be unset."""
    declared = SETTINGS[key]
    if text == "None" and declared.default is None:
        return None
    try:
        return _PARSERS[declared.kind].parse(text)
    except Exception as error:  # a tuple is evaluated as a literal, which raises many kinds
        given = " ".join(text[:60].split()) + "..." * (len(text) > 60)
        raise UserError(f"{flag}={given} is not allowed: {schema.describe(key)}") from error


def _rename(argument: str) -> str:
    """Returns `argument` with a key's current name in place of an old one, and says so."""
    for old, current in compat.RENAMED.items():
        if found := re.match(rf"--?(?:config\.)?{re.escape(old)}(?==|$)", argument):
            flag = found[0].removesuffix(old) + current
            warn(f"note: {found[0]} is now called {flag}")
            return flag + argument[found.end() :]
    return argument
