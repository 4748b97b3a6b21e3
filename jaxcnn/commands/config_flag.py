"""The flag --config: finds, executes and overrides a configuration, and explains every mistake.

ml_collections does the work. It executes the file and defines a flag for each override while it
parses --config, from the whole list of arguments; its errors are turned into one line here.
"""

import difflib
import re
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from absl import flags
from ml_collections import config_dict, config_flags

from jaxcnn.commands.console import warn
from jaxcnn.config import compat, files, schema
from jaxcnn.errors import UserError

_KEYS = [key for key, _ in schema.walk()]
_SECTIONS = "|".join(dict.fromkeys(key.partition(".")[0] for key in _KEYS if "." in key))
_TOP_LEVEL = "|".join(key for key in _KEYS if "." not in key)
_KEY = re.compile(rf"(--?)(no)?((?:{_SECTIONS})\.|(?:{_TOP_LEVEL})(?:=|$))")


class Parsed(NamedTuple):
    """What a command line says.

    Attributes:
        config: The configuration with its overrides; not validated.
        source: What was given as --config: a path or a name, with :DATASET or without.
        rest: The arguments that are no flags.
    """

    config: config_dict.ConfigDict
    source: str
    rest: list[str]


def parse(arguments: Sequence[str], values: flags.FlagValues) -> Parsed:
    """Parses a command line and executes the configuration file that it names.

    Args:
        arguments: The command line without the program. `--train.epochs=3` is short for
            `--config.train.epochs=3`.
        values: The flags that the program has defined; --config is added to them.

    Raises:
        UserError: For any mistake in the arguments or in the file, in one line.
    """
    source, others = _split(arguments)
    try:
        path = files.find(source) if source else ""
    except UserError as error:
        raise UserError(f"--config={error}") from None
    others = [_rename(argument) for argument in others]
    argv = ["jaxcnn", *([f"--config={path}"] if path else []), *map(_lengthen, others)]
    config = config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=argv)
    file = path.partition(":")[0]
    try:
        rest = values(argv)
    except Exception as error:  # a configuration file is a program: it can raise anything
        raise UserError(_explain(others, file, error)) from error
    if config.value is None:
        raise UserError(
            f"--config is missing: give one of {', '.join(files.names())}, or a file such as "
            "configs/mobilenet.py"
        )
    return Parsed(config.value, source, rest[1:])


def load(source: str) -> config_dict.ConfigDict:
    """Returns the configuration of FILE, FILE:DATASET, NAME or NAME:DATASET; not validated.

    Raises:
        UserError: If there is none, or for a mistake in the file.
    """
    try:
        return parse([f"--config={source}"], flags.FlagValues()).config
    except UserError as error:
        raise UserError(str(error).removeprefix("--config=")) from error


def _split(arguments: Sequence[str]) -> tuple[str, list[str]]:
    """Returns the value of the last --config, "" if there is none, and the other arguments."""
    source, others = "", []
    left = iter(arguments)
    for argument in left:
        if argument in ("--config", "-config"):
            source = next(left, "")
        elif re.match(r"--?config=", argument):
            source = argument.partition("=")[2]
        else:
            others.append(argument)
    return source, others


def _lengthen(argument: str) -> str:
    """Returns `--config.KEY=VALUE` for `--KEY=VALUE` if KEY is of the configuration."""
    return _KEY.sub(r"\1\2config.\3", argument) if _KEY.match(argument) else argument


def _rename(argument: str) -> str:
    """Returns `argument` with a key's current name in place of an old one, and says so."""
    for old, current in compat.RENAMED.items():
        if found := re.match(rf"--?(?:config\.)?{re.escape(old)}(?==|$)", argument):
            flag = found[0].removesuffix(old) + current
            warn(f"note: {found[0]} is now called {flag}")
            return flag + argument[found.end() :]
    return argument


def _explain(arguments: Sequence[str], file: str, error: Exception) -> str:
    """Returns what is wrong with the flags, or with the configuration file, in one line."""
    for argument in arguments:
        found = re.match(r"--?(config\.)([\w.]+)(?:=(.*))?$", _lengthen(argument))
        if not found:
            continue
        _, key, value = found.groups()
        given = argument.partition("=")[0]
        if key not in _KEYS:
            close = difflib.get_close_matches(key, _KEYS, n=1)
            hint = f"did you mean {close[0]}?" if close else "see --help for all keys"
            return f"{given} is not a key of the configuration: {hint}"
        if f"--config.{key}={value}" in str(error):
            return f"{given}={value} is not allowed: {schema.describe(key)}"
    if isinstance(error, flags.UnrecognizedFlagError) or not file:
        return _one_line(error)
    # The libraries in between raise errors of their own about the first one; the innermost with a
    # line of the configuration file is the one that its author can understand.
    chain: list[BaseException] = [error]
    while inner := chain[-1].__cause__ or chain[-1].__context__:
        chain.append(inner)
    for cause in reversed(chain):
        lines = [
            frame.lineno
            for frame in traceback.extract_tb(cause.__traceback__)
            if Path(frame.filename).resolve() == Path(file).resolve()
        ]
        if isinstance(cause, SyntaxError):
            lines = [cause.lineno]
        if lines:
            return f"{file} line {lines[-1]}: {type(cause).__name__}: {_one_line(cause)}"
    return f"{file}: {_one_line(error)}"


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
