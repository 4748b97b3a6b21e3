"""The processes of a run: how they find each other, agree, and end together.

JAX's coordination service and collectives do the work. Process 0 alone prints, and writes all files
except the arrays of a checkpoint.
"""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NoReturn, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from jaxcnn.errors import PeerLostError, UserError
from jaxcnn.runtime import launchers, sharding

# After this time without a heartbeat a process counts as dead and the others end. JAX's default is
# 100 s; the documentation promises that a run ends within a minute.
HEARTBEAT_SECONDS = 45
# A process that starts late, or never, is waited for this long.
START_SECONDS = 300
# After this time it says that it waits.
TELL_SECONDS = 2
PARTING_SECONDS = 3

T = TypeVar("T")


def initialize(
    coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None
) -> None:
    """Joins the other processes of the run, if there are any; comes before JAX is used.

    While it waits it says so, and Ctrl-C ends the process.

    Args:
        coordinator: HOST:PORT of process 0, which listens there and nowhere else; an address of
            this machine or of a private network, since the service asks for no password.
        num_processes: Number of processes.
        process_id: From 0 on. Without all three, what the launcher says is used.

    Raises:
        UserError: For flags that do not go together, or if the others cannot be reached.
    """
    settings: dict[str, Any] = {
        "heartbeat_timeout_seconds": HEARTBEAT_SECONDS,
        # When its own time is over JAX ends the process with a stack trace, so ours comes first.
        "initialization_timeout": START_SECONDS + 60,
    }
    if coordinator is None and num_processes is None and process_id is None:
        launcher = launchers.launched_by(os.environ)
        if launcher is None:
            return
        launchers.check_complete(launcher, os.environ)
        alone = f"; {launchers.alone(launcher)}"
    else:
        coordinator, num_processes, process_id = launchers.checked_flags(
            coordinator, num_processes, process_id
        )
        if process_id == 0:
            launchers.check_free(coordinator)
        settings |= {"num_processes": num_processes, "process_id": process_id}
        # Without the second, JAX listens on all interfaces.
        settings |= {"coordinator_address": coordinator, "coordinator_bind_address": coordinator}
        launcher, alone = f"--coordinator={coordinator}", ""
    whom = "the other processes" if process_id == 0 else "process 0 and the others"
    try:
        _join(settings, f"{whom} ({launcher})")
    except Exception as error:  # the runtime's errors have no common class
        raise UserError(
            f"this process cannot join the others ({launcher}): {' '.join(str(error).split())}; "
            f"check that process 0 runs and that its address can be reached{alone}"
        ) from error


def _join(settings: dict[str, Any], whom: str) -> None:
    """Calls `jax.distributed.initialize`, which waits in C++, where no signal would be handled."""
    errors: list[Exception] = []

    def initialize_jax() -> None:
        try:
            jax.distributed.initialize(**settings)
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=initialize_jax, daemon=True)
    began, told = time.monotonic(), False
    thread.start()
    try:
        while thread.is_alive():
            thread.join(0.1)
            waited = time.monotonic() - began
            if waited > TELL_SECONDS and not told:
                told = True
                _tell(f"waiting for {whom}, at most {START_SECONDS} s; Ctrl-C stops")
            if waited > START_SECONDS:
                _leave(f"error: {whom} did not come within {START_SECONDS} s: start them all", 1)
    except KeyboardInterrupt:
        _leave(f"stopped while waiting for {whom}; nothing is lost", 128 + signal.SIGINT)
    if errors:
        raise errors[0]


def _tell(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def _leave(message: str, code: int) -> NoReturn:
    """Ends the process although one of its threads still waits for the others in C++."""
    _tell(message)
    sys.stdout.flush()
    os._exit(code)


def is_process_0() -> bool:
    """Whether this is process 0, which prints and writes files."""
    return jax.process_index() == 0


def joined() -> bool:
    """Whether this process has joined others."""
    return jax.distributed.is_initialized() and is_multiprocess()


def is_multiprocess() -> bool:
    """Whether the run has more than one process."""
    return jax.process_count() > 1


def broadcast_from_process_0(value: Callable[[], int | None]) -> int:
    """Returns the number `value()` of process 0, None as 0; the others wait and do not call it.

    Raises:
        Exception: In process 0, what `value` raises.
        PeerLostError: In the others, if it raised.
    """
    if not is_multiprocess():
        return value() or 0
    error, number = None, 0
    if is_process_0():
        # Raised below, when the others, who wait in the broadcast, have been told.
        try:
            number = value() or 0
        except BaseException as raised:
            error = raised
    number, failed = multihost_utils.broadcast_one_to_all(
        np.array([number, error is not None], np.int32)
    )
    if error is not None:
        raise error
    if failed:
        raise PeerLostError("process 0 has ended the run: its own message says why")
    return int(number)


def process_0_first(action: Callable[[], T]) -> T:
    """Returns `action()`, which process 0 has finished before the others begin."""
    results: list[T] = []
    broadcast_from_process_0(lambda: results.append(action()))
    return results[0] if results else action()


class SignalSync:
    """Makes all processes see the same requests, such as signals, at the same step.

    Each call submits this process's request, a number, and returns the largest that any process
    submitted at the previous call: the devices exchange the new ones after the step that is in
    progress, so that no process waits. With one process the request is returned at once.
    """

    def __init__(self, mesh: Mesh) -> None:
        """Compiles the exchange over the devices of `mesh`."""
        self._alone = not is_multiprocess()
        self._split, whole = sharding.split(mesh), sharding.replicated(mesh)
        self._size = mesh.size
        self._before: jax.Array | None = None
        # The second argument orders the exchange after what computes it: on CPUs two programs
        # that exchange data must not run at the same time.
        self._exchange = jax.jit(
            lambda requests, after: (requests.max(), after),
            in_shardings=(self._split, whole),
            out_shardings=whole,
        )

    def __call__(self, request: int, after: jax.Array, now: bool = False) -> int:
        """Returns the largest request of the call before.

        Args:
            request: From 0 on.
            after: A replicated number that the last program gives.
            now: Wait for the exchange, and return the largest request of this call.
        """
        if self._alone:
            return request
        # As many numbers as devices, since only arrays on all devices can be exchanged.
        requests = sharding.place(np.full(self._size, request, np.int32), self._split)
        before, (self._before, _) = self._before, self._exchange(requests, after)
        if now:
            return self.drain()
        return 0 if before is None else int(before)

    def drain(self) -> int:
        """Waits for the exchange that is under way and forgets it; returns its largest request."""
        before, self._before = self._before, None
        return 0 if before is None else int(before)


@contextlib.contextmanager
def translate_peer_failures() -> Iterator[None]:
    """Turns the errors of JAX's runtime after the loss of another process into PeerLostError."""
    try:
        yield
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        # Gloo, which exchanges between CPUs, raises ValueError (jax 0.10.2).
        is_ours = not isinstance(error, jax.errors.JaxRuntimeError) and "Gloo" not in str(error)
        if is_ours or not is_multiprocess():
            raise
        raise PeerLostError(
            f"another process of the run has ended ({_first_line(error)})"
        ) from error


def exit_without_peers(message: str) -> NoReturn:
    """Prints a message and ends this process with exit code 1, not waiting for the others.

    JAX waits at the end of a program for all processes; one that failed would wait for those that
    wait for its next step. They notice that it is gone.
    """
    if not joined():
        sys.exit(message)
    print(message, file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    if is_process_0():
        # Process 0 holds the coordination service, whose end the others would report at length;
        # those that fail for the same reason have said so by then.
        time.sleep(PARTING_SECONDS)
    # Not `sys.exit`, which would run JAX's own waiting for the others.
    os._exit(1)


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0][:200]
