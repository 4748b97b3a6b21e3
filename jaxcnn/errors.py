"""What counts as the user's mistake, or the machine's, rather than ours."""

import errno
import os

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

    The message is one line that names the value, what is allowed and the remedy; the command
    prints it without a traceback and exits with code 1.
    """


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
