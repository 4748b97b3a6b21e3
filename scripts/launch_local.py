"""Starts N processes of one program on this machine, as the processes of one run.

python scripts/launch_local.py 4 -- python -m jaxcnn.main --config configs/lenet.py:digits

Each gets --coordinator, --num_processes and --process_id after its own arguments, with a free port
of the loopback interface. Lines of output are prefixed with the process's number, signals are
passed on to all, and the exit code is that of the first process that failed. With --devices, each
process has so many CPU devices (for trying things out); on GPUs, give each process its own through
--gpus, else all processes see all GPUs.
"""

import argparse
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from types import FrameType
from typing import IO

# After the first failure the others find out by themselves; whoever has not ended by then is ended.
PATIENCE_SECONDS = 90


def free_port() -> int:
    """Returns a port of the loopback interface that nothing listens on."""
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def environment(index: int, devices: int | None, gpus: bool) -> dict[str, str]:
    """Returns the environment of process `index`."""
    result = dict(os.environ, PYTHONUNBUFFERED="1")
    if devices is not None:
        flags = result.get("XLA_FLAGS", "")
        flag = f"--xla_force_host_platform_device_count={devices}"
        result |= {"XLA_FLAGS": f"{flags} {flag}".strip(), "JAX_PLATFORMS": "cpu"}
    if gpus:
        result["CUDA_VISIBLE_DEVICES"] = str(index)
    return result


def start(
    count: int, command: Sequence[str], devices: int | None = None, gpus: bool = False
) -> list[subprocess.Popen[str]]:
    """Starts `count` processes of `command`; their output is to be read from `stdout`."""
    coordinator = f"127.0.0.1:{free_port()}"
    return [
        subprocess.Popen(
            [
                *command,
                f"--coordinator={coordinator}",
                f"--num_processes={count}",
                f"--process_id={index}",
            ],
            env=environment(index, devices, gpus),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            # A group of its own: the terminal's Ctrl-C reaches it through this program alone.
            start_new_session=True,
        )
        for index in range(count)
    ]


def forward_lines(index: int, lines: IO[str]) -> None:
    """Prints each line with the process's number before it."""
    for line in lines:
        sys.stdout.write(f"[{index}] {line}")
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
                    first = 128 - code if code < 0 else code
                    deadline = time.monotonic() + patience
        if deadline is not None and time.monotonic() > deadline:
            for process in running:
                process.kill()
        time.sleep(0.05)
    return first


def main() -> int:
    """Parses the command line, starts the processes and waits for them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("count", type=int, help="number of processes")
    parser.add_argument("--devices", type=int, help="CPU devices of each process")
    parser.add_argument("--gpus", action="store_true", help="process n sees GPU n alone")
    parser.usage = f"{parser.format_usage()[7:].strip()} -- PROGRAM ARGUMENTS"
    where = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    options, command = parser.parse_args(sys.argv[1:where]), sys.argv[where + 1 :]
    if options.count < 1 or not command:
        parser.error("give a number of processes from 1 on, then -- and a command")

    processes: list[subprocess.Popen[str]] = []

    def forward(signum: int, frame: FrameType | None) -> None:
        for process in processes:
            if process.poll() is None:
                process.send_signal(signum)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, forward)
    processes.extend(start(options.count, command, options.devices, options.gpus))
    readers = []
    for index, process in enumerate(processes):
        assert process.stdout is not None
        readers.append(threading.Thread(target=forward_lines, args=(index, process.stdout)))
        readers[-1].start()
    code = wait(processes)
    for reader in readers:
        reader.join()
    return code


if __name__ == "__main__":
    sys.exit(main())
