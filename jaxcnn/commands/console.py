"""Where messages of a verb go: standard output is for its results alone."""

import sys


def warn(text: str) -> None:
    """Prints a line of progress, or a warning, to standard error at once."""
    print(text, file=sys.stderr, flush=True)
