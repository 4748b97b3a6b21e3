"""What counts as the user's mistake, or the machine's, rather than ours; how a program ends."""

import errno
import os
import signal
import sys
from collections.abc import Callable
from typing import NoReturn

# What the machine or its owner can mend; anything else that a write raises is a mistake of ours.
_OUTSIDE = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.EIO,
    errno.ENOENT,
    errno.EMFILE,
)


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


class PeerLostError(Exception):
    """The run cannot go on because another of its processes has ended; the message says so."""


def outside_reason(error: BaseException) -> str | None:
    """Returns the system's words for an error that is not the program's fault, or None.

    TensorStore, below Orbax, raises ValueError with the system's words in its message.
    """
    if isinstance(error, OSError):
        return error.strerror or str(error)
    for number in _OUTSIDE:
        if os.strerror(number) in str(error):
            return os.strerror(number)
    return None
