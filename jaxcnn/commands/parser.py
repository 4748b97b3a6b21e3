"""The arguments of a verb: its docstring is the help, and a mistake is one line."""

import argparse
from collections.abc import Sequence
from typing import NoReturn

from jaxcnn.commands.console import usage_error


class Parser(argparse.ArgumentParser):
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
        """Parses the arguments of the verb.

        A verb that sets a default for `program` gets there all that follows the first `--`, as it
        is; argparse itself drops a later `--`, which belongs to the program.
        """
        if self.get_default("program") is None:
            return self.parse_args(arguments)
        given = list(arguments)
        first = given.index("--") if "--" in given else len(given)
        result = self.parse_args(given[:first])
        result.program = given[first + 1 :]
        if not result.program:
            self.error("a program is required after --")
        return result

    def error(self, message: str) -> NoReturn:
        """Exits with code 2 after one line."""
        usage_error(f"{message}; see {self.prog} --help")
