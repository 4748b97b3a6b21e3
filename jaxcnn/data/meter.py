"""How does a person see how far a download or a preparation has come?"""

import sys
import time
from types import TracebackType
from typing import Self

_TERMINAL_INTERVAL_S = 0.2
_LOG_INTERVAL_S = 10.0


class Meter:
    """Writes progress, rate and remaining time to standard error.

    On a terminal one line is rewritten; elsewhere a line appears every 10 s and at the end.
    """

    def __init__(
        self, task: str, total: int, unit: str, scale: float = 1.0, start: int = 0
    ) -> None:
        """Starts the clock.

        Args:
            task: What is done, to start the line with.
            total: How many steps there are.
            unit: What `scale` steps are called, such as `MB`.
            scale: Steps per unit.
            start: How many steps were done before.
        """
        self._task, self._total, self._unit, self._scale = task, total, unit, scale
        self._start = self._done = start
        self._began = self._shown = time.monotonic()
        self._terminal = sys.stderr.isatty()

    def __enter__(self) -> Self:
        """Begins."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Writes the last line, so that an error message does not continue it."""
        if error is not None and self._done == self._start:
            return  # nothing was done, such as for a mistake that is found at once
        self._show(time.monotonic())
        if self._terminal:
            print(file=sys.stderr)

    def advance(self, steps: int = 1) -> None:
        """Adds finished steps; writes only if enough time has passed since the last line."""
        self._done += steps
        now = time.monotonic()
        if now - self._shown >= (_TERMINAL_INTERVAL_S if self._terminal else _LOG_INTERVAL_S):
            self._shown = now
            self._show(now)

    def say(self, text: str) -> None:
        """Writes a line of its own, above that of the progress."""
        print(f"\r{text}\x1b[K" if self._terminal else text, file=sys.stderr, flush=True)

    def _show(self, now: float) -> None:
        line = progress_line(
            self._task, self._done, self._total, self._unit, self._scale,
            self._done - self._start, now - self._began,
        )  # fmt: skip  # one argument a line would be longer than the function
        if self._terminal:
            print(f"\r{line}\x1b[K", end="", file=sys.stderr, flush=True)
        else:
            print(line, file=sys.stderr, flush=True)


def progress_line(
    task: str, done: int, total: int, unit: str, scale: float, steps: int, seconds: float
) -> str:
    """Returns `task: 1.5 of 170.1 MB, 0.06 MB/s, 47 min left`; `steps` took `seconds`."""
    digits = 1 if scale > 1 else 0
    line = f"{task}: {done / scale:,.{digits}f} of {total / scale:,.{digits}f} {unit}"
    if not steps or not seconds:
        return line
    rate = steps / seconds
    line += f", {rate / scale:,.{2 * digits}f} {unit}/s"
    # By the rate of this attempt alone: what an earlier one has brought took other time.
    left = (total - done) / rate
    if left <= 0:
        return f"{line}, took {_duration(seconds)}"
    return f"{line}, {_duration(left)} left"


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 6000:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
