"""The arguments of a verb: its docstring is the help, and a mistake is one line."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from jaxcnn.commands.console import usage_error

# Before an argument that is none of the options, whatever it looks like; no argument can hold it.
_NO_OPTION = "\0"


class OneLineParser(argparse.ArgumentParser):
    """A parser whose errors are one line; for scripts as it is."""

    def error(self, message: str) -> NoReturn:
        """Exits with code 2 after one line."""
        usage_error(f"{message}; see {self.prog} --help")


def script_parser(documentation: str | None) -> OneLineParser:
    """Returns the parser of a script with this docstring."""
    return OneLineParser(
        description=documentation, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def at_least(low: int) -> Callable[[str], int]:
    """Returns what reads a whole number from `low` on, as the `type` of an argument."""

    def read(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = low - 1
        if number < low:
            raise argparse.ArgumentTypeError(
                f"{text!r} is not allowed: a whole number, at least {low}"
            )
        return number

    return read


class Parser(OneLineParser):
    """A parser whose help is a module's docstring, and whose errors are one line."""

    def __init__(self, verb: str, documentation: str) -> None:
        """Takes the description, the examples and notes from the paragraphs of `documentation`."""
        description, examples, *notes = documentation.strip().split("\n\n")
        indented = "\n".join(f"  {line}" for line in examples.splitlines())
        super().__init__(
            prog=f"jaxcnn {verb}",
            description=description,
            epilog="\n\n".join([f"examples:\n{indented}", *notes]),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def parse(self, arguments: Sequence[str]) -> argparse.Namespace:
        """Parses the arguments of the verb; a path may begin with ~, the home directory.

        A verb that sets a default for `program` gets there all that follows the first `--`, as it
        is; argparse itself drops a later `--`, which belongs to the program. One that sets a
        default for `intermixed` has positional arguments that may be missing, before and after
        options.
        """
        if self.get_default("program") is None:
            intermixed = self.get_default("intermixed")
            result = (self._intermixed if intermixed else self.parse_args)(arguments)
            for name, value in vars(result).items():
                setattr(result, name, self._expanded(value))
            return result
        given = list(arguments)
        first = given.index("--") if "--" in given else len(given)
        result = self.parse_args(given[:first])
        result.program = given[first + 1 :]
        if not result.program:
            self.error("a program is required after --")
        return result

    def _intermixed(self, arguments: Sequence[str]) -> argparse.Namespace:
        """As `parse_intermixed_args`, which takes what follows `--` for options again."""
        given = list(arguments)
        first = given.index("--") if "--" in given else len(given)
        marked = [_NO_OPTION + argument for argument in given[first + 1 :]]
        result = self.parse_intermixed_args([*given[:first], *marked])
        for name, value in vars(result).items():
            setattr(result, name, _without_mark(value))
        return result

    def _expanded(self, value: Any) -> Any:
        """Returns the value of an argument, if it is a path or several with ~ expanded."""
        if isinstance(value, list):
            return [self._expanded(item) for item in value]
        if not isinstance(value, Path):
            return value
        try:
            return value.expanduser()
        except RuntimeError:
            self.error(f"the home directory in {value} is not known here: write the whole path")


def _without_mark(value: Any) -> Any:
    """Returns the value of an argument, or several, as it is without `_NO_OPTION`."""
    if isinstance(value, list):
        return [_without_mark(item) for item in value]
    if isinstance(value, Path):
        return Path(str(value).removeprefix(_NO_OPTION))
    return value.removeprefix(_NO_OPTION) if isinstance(value, str) else value
