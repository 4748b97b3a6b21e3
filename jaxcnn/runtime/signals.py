"""SIGINT and SIGTERM: the first is recorded, the second ends the process at once."""

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
        step: Steps taken; None of several runs.
    """

    def __init__(self, signum: int, step: int | None = None) -> None:
        """Stores the signal's number and the step."""
        super().__init__(f"signal {signum} at step {step}")
        self.signum = signum
        self.step = step


class Interrupts:
    """While entered, records a signal in `received` instead of ending the program.

    Python runs a signal's handler only between two instructions of the main thread, which can
    spend a minute inside a compilation. The interpreter's C part, however, writes the number to a
    pipe at once (`signal.set_wakeup_fd`). A thread reads that pipe, so that a second signal ends
    the process whatever the main thread is doing.

    Attributes:
        received: Number of the signal that arrived, or None.
    """

    def __init__(self) -> None:
        """Has received no signal yet."""
        self.received: int | None = None
        self._before: dict[int, Any] = {}
        self._wakeup_before = -1
        self._pipe: tuple[int, int] | None = None

    def __enter__(self) -> "Interrupts":
        """Installs the handlers, if this is the main thread; Python forbids it elsewhere."""
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
        """Restores the handlers that were installed before."""
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
