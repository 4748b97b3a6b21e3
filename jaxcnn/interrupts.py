"""SIGINT and SIGTERM: the first one is noted, the second one ends the process at once."""

import os
import signal
import sys
import threading
from types import FrameType, TracebackType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(Exception):
    """A signal ended the run early; everything up to `step` is saved.

    Attributes:
        signum: The signal's number.
        step: Steps taken.
    """

    def __init__(self, signum: int, step: int) -> None:
        """Keeps the signal's number and the step."""
        super().__init__(f"signal {signum} at step {step}")
        self.signum = signum
        self.step = step


class Interrupts:
    """While entered, notes a signal in `received` in place of stopping the program.

    Attributes:
        received: Number of the signal that arrived, or None.
    """

    def __init__(self) -> None:
        """Notes nothing yet."""
        self.received: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Interrupts":
        """Takes over both signals, if this is the main thread; Python forbids it elsewhere."""
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in _SIGNALS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Gives both signals back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if self.received is not None:
            os._exit(128 + signum)
        self.received = signum
        print("\nsaving; once more to stop without", file=sys.stderr, flush=True)
