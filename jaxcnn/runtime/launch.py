"""Several processes of one program on this machine, which find each other as those of one run."""

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import IO

from jaxcnn.errors import UserError

# More than a machine has CPUs or GPUs, less than what would bring it to a halt.
MOST_PROCESSES = MOST_DEVICES = 512
# After the first failure the others notice by themselves; those that have not are killed then.
PATIENCE_SECONDS = 90


def free_port() -> int:
    """Returns a port of the loopback interface that nothing listens on."""
    # Another program may take the port before process 0 does; then the start fails, and says so.
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def environment(index: int, devices: int | None, gpus: bool) -> dict[str, str]:
    """Returns the environment of process `index`."""
    result = dict(os.environ, PYTHONUNBUFFERED="1")
    if devices is not None:
        flags = result.get("XLA_FLAGS", "")
        flag = f"--xla_force_host_platform_device_count={devices}"
        # Added to the caller's own flags, which must not be lost.
        result |= {"XLA_FLAGS": f"{flags} {flag}".strip(), "JAX_PLATFORMS": "cpu"}
    if gpus:
        result["CUDA_VISIBLE_DEVICES"] = str(index)
    return result


def start(
    count: int, command: Sequence[str], devices: int | None = None, gpus: bool = False
) -> list[subprocess.Popen[str]]:
    """Starts `count` processes of `command`; their output is to be read from `stdout`.

    Raises:
        UserError: If the numbers make no sense, or the program cannot be started.
    """
    if not 1 <= count <= MOST_PROCESSES:
        raise UserError(f"{count} processes are not allowed: 1 to {MOST_PROCESSES}")
    if devices is not None and not 1 <= devices <= MOST_DEVICES:
        raise UserError(f"--devices={devices} is not allowed: 1 to {MOST_DEVICES}")
    if devices is not None and gpus:
        raise UserError("--devices is for trials on the CPU, --gpus for GPUs: give one of them")
    coordinator = f"127.0.0.1:{free_port()}"
    processes: list[subprocess.Popen[str]] = []
    try:
        for index in range(count):
            flags = (f"--num_processes={count}", f"--process_id={index}")
            processes.append(
                subprocess.Popen(
                    [*command, f"--coordinator={coordinator}", *flags],
                    env=environment(index, devices, gpus),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    encoding="utf-8",
                    errors="replace",  # a reader that fails would leave the process waiting
                    # A group of its own: the terminal's Ctrl-C reaches it through this program
                    # alone.
                    start_new_session=True,
                )
            )
    except (OSError, ValueError) as error:  # ValueError: a zero byte in an argument
        for process in processes:
            process.kill()
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(
            f"{command[0]} cannot be started ({reason}): name a program that is on the PATH, or "
            "jaxcnn"
        ) from error
    return processes


def forward_lines(index: int, lines: IO[str]) -> None:
    """Prints each line with the process's number before it.

    Lines are read on when none can be printed anymore: a full pipe would stop the process.
    """
    encoding = sys.stdout.encoding
    for line in lines:
        with contextlib.suppress(OSError):  # such as `| head`: the reader has seen enough
            sys.stdout.write(f"[{index}] {line}".encode(encoding, "replace").decode(encoding))
            sys.stdout.flush()


def wait(processes: Sequence[subprocess.Popen[str]], patience: float = PATIENCE_SECONDS) -> int:
    """Waits for all and returns the exit code of the first that failed, else 0.

    A process that was ended by signal n counts as 128 + n, as in a shell.
    """
    first, deadline = 0, None
    running = list(processes)
    while running:
        for process in list(running):
            if (code := process.poll()) is not None:
                running.remove(process)
                if code and not first:
                    # `subprocess` gives -n for signal n.
                    first = 128 - code if code < 0 else code
                    deadline = time.monotonic() + patience
        if deadline is not None and time.monotonic() > deadline:
            for process in running:
                process.kill()
        time.sleep(0.05)
    return first
