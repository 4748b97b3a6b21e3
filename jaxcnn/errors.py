"""What counts as the user's mistake rather than ours, and how a program ends for it."""

import os
import signal
import sys
from collections.abc import Callable
from typing import NoReturn


class UserError(ValueError):
    """Something a user can cause and mend.

    The message is one line that names the value, what is allowed and the remedy; the command-line
    programs print it without a traceback and exit with code 1.
    """


def run(program: Callable[[], int | None]) -> NoReturn:
    """Runs a command-line program and exits: with what it returns, or with one line and code 1."""
    try:
        sys.exit(program())
    except UserError as error:
        sys.exit(f"error: {error}")
    except BrokenPipeError:  # such as `| head`: the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        sys.exit(f"error: {error.filename or 'input or output'}: {error.strerror or error}")
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
