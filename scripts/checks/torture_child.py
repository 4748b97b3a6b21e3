"""Runs jaxcnn.main and kills it with SIGKILL at an operation of its own; used by torture.py.

python scripts/checks/torture_child.py FAULT COUNT DELAY -- ARGUMENTS OF jaxcnn.main

At the COUNT-th operation of the kind FAULT, the process kills itself before that operation, or
DELAY seconds after it has begun. Python reports its own file operations through audit hooks,
so the program itself is not modified.
"""

import os
import re
import runpy
import signal
import sys
import threading
from typing import Any

# Name -> (audit event, pattern of its arguments joined by spaces).
OPERATIONS = {
    "save": ("os.mkdir", r"/checkpoints/\.tmp-\d+ "),
    "name": ("os.rename", r"/checkpoints/\.tmp-\d+ .*/checkpoints/\d+ "),
    "drop": ("os.rename", r"/checkpoints/\d+ .*/checkpoints/\.tmp-old-\d+ "),
    "delete": ("shutil.rmtree", r"/checkpoints/\.tmp-old-\d+ "),
    "start": ("os.rename", r"/environment\.json "),
    "cut": ("os.rename", r"/metrics\.jsonl "),
    "summary": ("os.rename", r"/summary\.json "),
}


def main(fault: str, count: int, delay: float) -> None:
    """Sets the trap, then runs the program as `python -m jaxcnn.main` does."""
    left = [count]

    def hit() -> None:
        left[0] -= 1
        if left[0] == 0:
            threading.Timer(delay, die).start() if delay else die()

    if fault == "metrics":
        original = os.fsync

        def fsync(handle: int) -> None:
            if os.readlink(f"/proc/self/fd/{handle}").endswith("/metrics.jsonl"):
                hit()
            original(handle)

        os.fsync = fsync  # type: ignore[assignment]  # the program passes numbers only
    elif fault == "position":
        shift_batches()
    else:
        event, pattern = OPERATIONS[fault]

        def watch(name: str, arguments: tuple[Any, ...]) -> None:
            if name == event and re.search(pattern, " ".join(map(str, arguments)) + " "):
                hit()

        sys.addaudithook(watch)
    runpy.run_module("jaxcnn.main", run_name="__main__", alter_sys=True)


def die() -> None:
    """Ends this process as a power cut would: nothing is flushed, no handler runs."""
    os.kill(os.getpid(), signal.SIGKILL)


def shift_batches() -> None:
    """Makes the data position wrong by one step: each batch is the one before its own."""
    import numpy as np

    from jaxcnn.data import batches

    original = batches.shuffled_batches
    batches.shuffled_batches = lambda *arguments: np.roll(original(*arguments), 1, axis=0)


if __name__ == "__main__":
    _, name, number, seconds, separator, *rest = sys.argv
    assert separator == "--", __doc__
    sys.argv = ["jaxcnn.main", *rest]
    main(name, int(number), float(seconds))
