"""Where messages of a verb go: standard output is for its results alone."""

import sys
from typing import NoReturn


def warn(text: str) -> None:
    """Prints a line of progress, or a warning, to standard error at once."""
    print(text, file=sys.stderr, flush=True)


def usage_error(text: str) -> NoReturn:
    """Exits with code 2, that of a usage mistake, after one line."""
    warn(f"error: {text}")
    sys.exit(2)
