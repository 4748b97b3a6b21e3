"""Starts several processes of one program on this machine, as the processes of one run.

jaxcnn launch 4 -- jaxcnn train --config lenet:digits
jaxcnn launch 8 --gpus -- jaxcnn train --config resnet --train.batch_size=1024

Each gets --coordinator, --num_processes and --process_id after its own arguments, with
a free port of the loopback interface. Lines of output are prefixed with the process's
number, signals are passed on to all, and the exit code is that of the first process
that failed. Without --gpus, all processes see all GPUs.
"""

import argparse
import signal
import subprocess
import sys
import threading
from types import FrameType

from jaxcnn.commands import streams
from jaxcnn.runtime import launch


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the verb."""
    parser.usage = "jaxcnn launch [-h] [--devices N] [--gpus] COUNT -- PROGRAM [ARGUMENTS]"
    parser.add_argument("count", metavar="COUNT", type=int, help="number of processes")
    parser.set_defaults(program=[])  # all that follows --
    parser.add_argument(
        "--devices", metavar="N", type=int, help="CPU devices of each process, to try things out"
    )
    parser.add_argument("--gpus", action="store_true", help="process n sees GPU n alone")


def run(args: argparse.Namespace) -> int:
    """Starts the processes, passes on output and signals, and returns the first failure's code."""
    program = args.program
    if program[0] == "jaxcnn":  # this installation, whether it is on the PATH or not
        program = [sys.executable, "-m", "jaxcnn", *program[1:]]
    processes: list[subprocess.Popen[str]] = []

    def forward(signum: int, frame: FrameType | None) -> None:
        for process in processes:
            if process.poll() is None:
                process.send_signal(signum)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, forward)
    streams.go_on_without_output()  # the processes would wait for somebody who reads theirs
    processes.extend(launch.start(args.count, program, args.devices, args.gpus))
    readers = []
    for index, process in enumerate(processes):
        assert process.stdout is not None
        readers.append(threading.Thread(target=launch.forward_lines, args=(index, process.stdout)))
        readers[-1].start()
    code = launch.wait(processes)
    for reader in readers:
        reader.join()
    return code
