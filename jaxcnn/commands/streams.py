"""Standard output and standard error that fit any text, and that can fail without harm.

A terminal may not have a character; a file name may be no text at all. A stream may be closed from
the beginning (`>&-`), become closed (`| head`), or have no place left (a full disk).
"""

import contextlib
import io
import os
import sys
from typing import Any, TextIO

_NAMES = {"stdout": "standard output", "stderr": "standard error"}
_DESCRIPTORS = {"stdout": 1, "stderr": 2}


class Stream:
    """A text stream of which only the first write that fails is noticed.

    Everything else is that of the stream below.

    Attributes:
        needed: Whether that failure is an error, with the name of the stream as the file's name;
            else it is told on standard error, and the program goes on.
        failure: The error; None as long as all is well.
    """

    def __init__(self, below: TextIO, name: str, needed: bool) -> None:
        """Writes to `below`, the stream called `name`."""
        self._below, self._name, self.needed = below, name, needed
        self.failure: OSError | None = None

    def __getattr__(self, name: str) -> Any:
        """Returns an attribute of the stream below."""
        return getattr(self._below, name)

    def write(self, text: str) -> int:
        """Writes the text."""
        try:
            if self.failure is None:
                self._below.write(text)
        except OSError as error:
            self._discard(error)
        return len(text)

    def flush(self) -> None:
        """Writes what has been kept back."""
        try:
            if self.failure is None:
                self._below.flush()
        except OSError as error:
            self._discard(error)

    def _discard(self, error: OSError) -> None:
        """Sends all that follows, and all that is kept back, nowhere."""
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, self._below.fileno())
        os.close(null)
        with contextlib.suppress(OSError):
            self._below.flush()
        error.filename, self.failure = self._name, error
        if self.needed:
            raise error
        if self._name != _NAMES["stderr"]:
            print(
                f"warning: {self._name} cannot be written ({error.strerror}): going on without it",
                file=sys.stderr,
                flush=True,
            )


def prepare() -> None:
    """Makes the process's standard streams fit for what is printed, whatever they are."""
    for name, descriptor in _DESCRIPTORS.items():
        stream = getattr(sys, name)
        if stream is None:
            stream = _nowhere(descriptor)
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
        setattr(sys, name, Stream(stream, _NAMES[name], needed=name == "stdout"))


def go_on_without_output() -> None:
    """From here on, standard output is a report that nothing depends on, as of a training."""
    if isinstance(sys.stdout, Stream):
        sys.stdout.needed = False


def finish() -> None:
    """Writes what standard output has kept back.

    Raises:
        OSError: If it could not take everything, even if somebody has hidden the failure before, as
            argparse does.
    """
    sys.stdout.flush()
    if isinstance(sys.stdout, Stream) and sys.stdout.needed and sys.stdout.failure:
        raise sys.stdout.failure


def _nowhere(descriptor: int) -> TextIO:
    """Returns a stream in place of one that is closed, on its descriptor if that is free.

    Otherwise the next file that is opened would get the descriptor, and with it all that a library
    prints.
    """
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        os.fstat(descriptor)
    except OSError:
        os.dup2(null, descriptor)
    if null == descriptor:
        return open(descriptor, "w", encoding="utf-8", closefd=False)
    return open(null, "w", encoding="utf-8")
