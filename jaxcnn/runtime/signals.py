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

    Python runs a signal's handler only between two instructions of the main thread, which may be
    a minute inside a compilation. Its C part writes the number to a pipe at once, though
    (`signal.set_wakeup_fd`); a thread reads there, so that a second signal ends the process
    whatever the main thread is doing.

    Attributes:
        received: Number of the signal that arrived, or None.
    """

    def __init__(self) -> None:
        """Notes nothing yet."""
        self.received: int | None = None
        self._before: dict[int, Any] = {}
        self._wakeup_before = -1
        self._pipe: tuple[int, int] | None = None

    def __enter__(self) -> "Interrupts":
        """Takes over both signals, if this is the main thread; Python forbids it elsewhere."""
        if threading.current_thread() is threading.main_thread():
            self._pipe = os.pipe()
            os.set_blocking(self._pipe[1], False)
            threading.Thread(target=self._watch, args=self._pipe[:1], daemon=True).start()
            self._wakeup_before = signal.set_wakeup_fd(self._pipe[1], warn_on_full_buffer=False)
            self._before = {number: signal.signal(number, self._note) for number in _SIGNALS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Gives both signals back."""
        if self._pipe is not None:
            for number, handler in self._before.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(self._wakeup_before)
            os.close(self._pipe[1])  # ends the thread, which closes the other end

    def _note(self, signum: int, frame: FrameType | None) -> None:
        self.received = self.received or signum

    def _watch(self, pipe: int) -> None:
        first = True
        while data := os.read(pipe, 1):
            if data[0] not in _SIGNALS:
                continue
            if not first:
                os._exit(128 + data[0])
            first = False
            self.received = self.received or data[0]
            print("\nsaving; once more to stop without", file=sys.stderr, flush=True)
        os.close(pipe)
