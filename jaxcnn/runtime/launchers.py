"""How a process learns that it is one of several: from a launcher's variables, or from flags."""

import contextlib
import importlib.util
import os
import socket
from collections.abc import Mapping

from jaxcnn.errors import UserError

# By launcher: the variable that says that this is one of several processes, and the others that
# JAX needs to find them (`jax._src.clusters`, jax 0.10.2).
_VARIABLES = {
    "Slurm": (
        "SLURM_PROCID",
        ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_LOCALID"),
    ),
    "Open MPI": (
        "OMPI_COMM_WORLD_SIZE",
        ("OMPI_MCA_orte_hnp_uri", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK"),
    ),
    "Cloud TPU": ("TPU_WORKER_HOSTNAMES", ()),
    "Kubernetes": ("JOB_COMPLETION_INDEX", ()),
}
_FLAGS = "--coordinator, --num_processes and --process_id"


def launched_by(environment: Mapping[str, str]) -> str | None:
    """Returns which launcher started this as one of several processes, or None.

    These are the environments in which `jax.distributed.initialize()` needs no arguments. That a
    job of one task is left alone is the difference to JAX's own detection.

    Raises:
        UserError: If a number of processes is none.
    """
    if "SLURM_PROCID" in environment and _number(environment, "SLURM_STEP_NUM_TASKS", "Slurm") > 1:
        return "Slurm"
    if _number(environment, "OMPI_COMM_WORLD_SIZE", "Open MPI") > 1:
        return "Open MPI"
    if "," in environment.get("TPU_WORKER_HOSTNAMES", ""):
        return "Cloud TPU"
    if "KUBERNETES_SERVICE_HOST" in environment and "JOB_COMPLETION_INDEX" in environment:
        return "Kubernetes"
    return None


def check_complete(launcher: str, environment: Mapping[str, str]) -> None:
    """Raises UserError if a variable that the launcher sets is missing, or not what it sets."""
    sign, others = _VARIABLES[launcher]
    problem = None
    if missing := [name for name in others if not environment.get(name)]:
        problem = f"{', '.join(missing)} not set"
    elif launcher == "Kubernetes" and importlib.util.find_spec("kubernetes") is None:
        problem = "the package kubernetes is not installed (pip install kubernetes)"
    for name in (sign, *others):
        is_number = name.endswith(("ID", "RANK", "INDEX", "NTASKS"))
        value = environment.get(name, "0")
        if problem is None and is_number and not (value.isascii() and value.isdecimal()):
            problem = f"{name}={value} is not a number"
    if problem:
        raise UserError(
            f"{sign} says that {launcher} started this as one of several processes, but {problem}: "
            f"give {_FLAGS}; {alone(launcher)}"
        )


def alone(launcher: str) -> str:
    """Returns how to train in this process alone although a launcher's variables are set."""
    return f"to train alone, unset {_VARIABLES[launcher][0]}"


def checked_flags(
    coordinator: str | None, num_processes: int | None, process_id: int | None
) -> tuple[str, int, int]:
    """Returns the three flags, of which at least one was given; UserError names what is wrong."""
    given = {"coordinator": coordinator, "num_processes": num_processes, "process_id": process_id}
    if missing := [f"--{name}" for name, value in given.items() if value is None]:
        raise UserError(f"{' and '.join(missing)} missing: {_FLAGS} go together")
    assert coordinator is not None and num_processes is not None and process_id is not None
    host, _, port = coordinator.rpartition(":")
    if not host or not (port.isascii() and port.isdecimal()):
        raise UserError(
            f"--coordinator={coordinator} is not allowed: HOST:PORT of process 0, such as "
            "127.0.0.1:12345"
        )
    if not 1 <= int(port[:6]) <= 65535:
        raise UserError(f"--coordinator={coordinator} is not allowed: a port is from 1 to 65535")
    if num_processes < 1:
        raise UserError(f"--num_processes={num_processes} is not allowed: at least 1")
    if not 0 <= process_id < num_processes:
        raise UserError(
            f"--process_id={process_id} is not allowed: from 0 to {num_processes - 1}, one "
            f"for each of --num_processes={num_processes}"
        )
    return coordinator, num_processes, process_id


def check_free(coordinator: str) -> None:
    """Raises UserError unless process 0, which is this one, can listen at HOST:PORT."""
    host, _, port = coordinator.rpartition(":")
    try:
        found = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
        family, kind, protocol, _, address = found[0]
        with contextlib.closing(socket.socket(family, kind, protocol)) as probe:
            if os.name == "posix":  # a port that was just closed counts as free
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except (OSError, UnicodeError) as error:  # names are checked as IDNA
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(
            f"process 0 cannot listen at --coordinator={coordinator} ({reason}): name an address "
            "of this machine and a free port"
        ) from error


def _number(environment: Mapping[str, str], name: str, launcher: str) -> int:
    text = environment.get(name, "1")
    if not (text.isascii() and text.isdecimal()):
        raise UserError(f"{name}={text} is not a number of processes: {alone(launcher)}")
    return int(text[:9])
