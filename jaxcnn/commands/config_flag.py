"""The flag --config: finds, executes and overrides a configuration, and explains every mistake."""

import difflib
import re
from collections.abc import Sequence
from typing import NamedTuple

from absl import flags
from ml_collections import config_dict

from jaxcnn.commands import overrides
from jaxcnn.config import execute, files, schema
from jaxcnn.errors import UserError


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
        values: The flags that the program has defined.

    Raises:
        UserError: For any mistake in the arguments or in the file, in one line.
    """
    source, others = _split(arguments)
    given, own = overrides.split(others)
    rest = _flags(own, values)
    if not source:
        raise UserError(
            f"--config is missing: give one of {', '.join(files.names())}, or a file such as "
            "configs/mobilenet.py"
        )
    try:
        path, _, dataset = files.find(source).partition(":")
    except UserError as error:
        raise UserError(f"--config={error}") from None
    wanted = [override.value for override in given if override.key == "dataset.name"]
    config = execute.configuration(path, dataset, wanted[-1] if wanted else "")
    for override in given:
        try:
            schema.put(config, override.key, override.value)
        except (KeyError, AttributeError, TypeError) as error:
            raise UserError(
                f"{override.flag} cannot be set: the configuration of {path} has not the keys of "
                "default_config()"
            ) from error
    return Parsed(config, source, rest)


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


def _flags(arguments: Sequence[str], values: flags.FlagValues) -> list[str]:
    """Sets the program's own flags; returns the arguments that are no flags."""
    try:
        return values(["jaxcnn", *arguments])[1:]
    except flags.UnrecognizedFlagError as error:
        known = ["config", "data_dir", *values, *overrides.SETTINGS]
        close = difflib.get_close_matches(error.flagname, known, n=1)
        hint = f"did you mean --{close[0]}?" if close else "see --help for all flags and keys"
        raise UserError(f"Unknown command line flag '{error.flagname}': {hint}") from error
    except flags.Error as error:
        raise UserError(" ".join(str(error).split())) from error
