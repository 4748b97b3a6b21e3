"""The processes of a run: how they find each other, agree, and end together.

JAX's own coordination service and collectives do the work. Process 0 speaks for all: it alone
prints, and writes everything but the arrays of a checkpoint.
"""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from jaxcnn import parallel
from jaxcnn.errors import UserError

# A process that has been silent for so long is taken for dead, and ends the others. JAX's default
# is 100 s; a minute is what a user is told at most.
HEARTBEAT_SECONDS = 30
# A process that starts late, or never, is waited for this long.
START_SECONDS = 300

T = TypeVar("T")


def launched_by(environment: Mapping[str, str]) -> str | None:
    """Returns which launcher started this as one of several processes, or None.

    These are the environments in which `jax.distributed.initialize()` needs no arguments. That a
    job of one task is left alone is the difference to JAX's own detection.
    """
    if "SLURM_PROCID" in environment and int(environment.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        return "Slurm"
    if int(environment.get("OMPI_COMM_WORLD_SIZE", "1")) > 1:
        return "Open MPI"
    if "," in environment.get("TPU_WORKER_HOSTNAMES", ""):
        return "Cloud TPU"
    if "KUBERNETES_SERVICE_HOST" in environment and "JOB_COMPLETION_INDEX" in environment:
        return "Kubernetes"
    return None


def initialize(
    coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None
) -> None:
    """Joins the other processes of the run, if there are any; comes before JAX is used.

    Args:
        coordinator: HOST:PORT of process 0, which listens there and nowhere else; an address of
            this machine or of a private network, since the service asks for no password.
        num_processes: Number of processes.
        process_id: From 0 on. Without all three, what the launcher says is used.

    Raises:
        UserError: For flags that do not go together, or if the others cannot be reached.
    """
    given = {"coordinator": coordinator, "num_processes": num_processes, "process_id": process_id}
    missing = [f"--{name}" for name, value in given.items() if value is None]
    if len(missing) == 3 and (launcher := launched_by(os.environ)) is None:
        return
    settings: dict[str, Any] = {
        "heartbeat_timeout_seconds": HEARTBEAT_SECONDS,
        "initialization_timeout": START_SECONDS,
    }
    if len(missing) < 3:
        if missing:
            raise UserError(
                f"{' and '.join(missing)} missing: --coordinator, --num_processes and "
                "--process_id go together"
            )
        assert coordinator is not None and num_processes is not None and process_id is not None
        if not coordinator.rpartition(":")[2].isdecimal() or coordinator.startswith(":"):
            raise UserError(
                f"--coordinator={coordinator} is not allowed: HOST:PORT of process 0, such as "
                "127.0.0.1:12345"
            )
        if not 0 <= process_id < num_processes:
            raise UserError(
                f"--process_id={process_id} is not allowed: from 0 to {num_processes - 1}, one "
                f"for each of --num_processes={num_processes}"
            )
        # Without this JAX listens on all interfaces.
        settings |= {**given, "coordinator_bind_address": coordinator}
        settings["coordinator_address"] = settings.pop("coordinator")
        launcher = f"--coordinator={coordinator}"
    try:
        jax.distributed.initialize(**settings)
    except Exception as error:  # the runtime's errors have no common class
        raise UserError(
            f"this process cannot join the others ({launcher}): {' '.join(str(error).split())}; "
            "check that process 0 runs and that its address can be reached"
        ) from error


def is_first() -> bool:
    """Whether this is process 0, which speaks for all."""
    return jax.process_index() == 0


def from_first(value: Callable[[], int]) -> int:
    """Returns what `value()` is in process 0; the others wait and do not call it."""
    if jax.process_count() == 1:
        return value()
    number = value() if is_first() else 0
    return int(multihost_utils.broadcast_one_to_all(np.int32(number)))


def first_then_others(action: Callable[[], T]) -> T:
    """Returns `action()`, which process 0 has finished before the others begin."""
    if jax.process_count() == 1:
        return action()
    result = action() if is_first() else None
    wait("first")
    return action() if result is None else result


def wait(name: str) -> None:
    """Returns when all processes have come here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


class Agreement:
    """Has all processes see the same wishes at the same step.

    Each call hands in this process's wish, a number, and returns the largest that any process
    handed in at the call before: the devices exchange the new ones meanwhile, behind the step that
    is under way. With one process the wish itself is returned at once.
    """

    def __init__(self, mesh: Mesh) -> None:
        """Compiles the exchange over the devices of `mesh`."""
        self._alone = jax.process_count() == 1
        self._split, whole = parallel.split(mesh), parallel.replicated(mesh)
        self._size = mesh.size
        self._before: jax.Array | None = None
        # The second argument orders the exchange after what computes it: on CPUs two programs
        # that exchange data must not run at the same time.
        self._exchange = jax.jit(
            lambda wishes, after: (wishes.max(), after),
            in_shardings=(self._split, whole),
            out_shardings=whole,
        )

    def __call__(self, wish: int, after: jax.Array) -> int:
        """Returns the largest wish of the call before.

        Args:
            wish: From 0 on.
            after: A replicated number that the last step gives.
        """
        if self._alone:
            return wish
        wishes = parallel.place(np.full(self._size, wish, np.int32), self._split)
        before, (self._before, _) = self._before, self._exchange(wishes, after)
        return 0 if before is None else int(before)


@contextlib.contextmanager
def ending_together() -> Iterator[None]:
    """Ends this process at once, with its message, when it cannot go on with the others.

    JAX waits at the end of a program for all processes; one that failed would wait for those that
    wait for its next step. What it tells the system's way, they notice.
    """
    try:
        yield
    except SystemExit as error:
        if jax.process_count() > 1 and error.code not in (0, None):
            if isinstance(error.code, str):
                print(error.code, file=sys.stderr)
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(error.code if isinstance(error.code, int) else 1)
        raise
