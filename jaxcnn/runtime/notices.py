"""Warnings of this program's own code: each is shown once, on one line, and kept for the run.

Every module of the package warns through `logging.getLogger(__name__)`, below the logger "jaxcnn".
The command enters `shown`, which is apart from all other libraries' logging: their noise stays as
muted as it is. Where nothing enters it, as in a notebook, Python's logging prints the warnings.
"""

import contextlib
import logging
import sys
from collections.abc import Iterator


class _Notices(logging.Handler):
    """Prints each message once and keeps it.

    Attributes:
        kept: The messages, in order.
        silent: Whether to keep without printing.
    """

    def __init__(self) -> None:
        """Has no message yet."""
        super().__init__(logging.WARNING)
        self.kept: list[str] = []
        self.silent = False

    def emit(self, record: logging.LogRecord) -> None:
        """Handles a warning or an error."""
        text = " ".join(record.getMessage().split())
        if text in self.kept:
            return
        self.kept.append(text)
        if not self.silent:
            print(f"warning: {text}", file=sys.stderr, flush=True)


_current: list[_Notices] = []


@contextlib.contextmanager
def shown() -> Iterator[None]:
    """While entered, prints this package's warnings to standard error and keeps them."""
    logger = logging.getLogger("jaxcnn")
    before = logger.level, logger.propagate
    notices = _Notices()
    _current.append(notices)
    logger.addHandler(notices)
    # A level and an end of its own: what other libraries make of the root logger changes nothing.
    logger.setLevel(logging.WARNING)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(notices)
        logger.setLevel(before[0])
        logger.propagate = before[1]
        _current.remove(notices)


def silence() -> None:
    """Prints no further warnings, as in a process whose warnings process 0 prints, too."""
    for notices in _current:
        notices.silent = True


def kept() -> list[str]:
    """Returns the warnings so far, in order; none outside of `shown`."""
    return list(_current[-1].kept) if _current else []
