"""Trainings side by side: each in a process of its own, on its own share of the CPU's cores.

Several cores seldom compute a step of a small network as many times as fast as one; several
trainings, one on each, do as many times as much. A result may depend on the number of cores, in the
last bits: the same number of trainings at a time gives the same bytes.
"""

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Any, NamedTuple

import jax
from ml_collections import config_dict

from jaxcnn import data
from jaxcnn.errors import UserError
from jaxcnn.run.files import RunFiles
from jaxcnn.run.observers import Observer, epoch_line
from jaxcnn.runtime.signals import Interrupted
from jaxcnn.study.jobs import Job, Outcome
from jaxcnn.train import fit

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Beside(NamedTuple):
    """Trainings at a time, and what a process does before its training.

    Attributes:
        number: From 1 on; see `shares`.
        prepare: Gets the configurations of a process's trainings; can be pickled.
    """

    number: int
    prepare: Callable[[Sequence[config_dict.ConfigDict]], None]


class _Messages(Observer):
    """Sends what a training has to say to the process that started it."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def say(self, text: str) -> None:
        self._connection.send(("say", text))

    def epoch(self, record: dict[str, Any], epochs: int) -> None:
        self._connection.send(("epoch", (record, epochs)))


def shares(count: int) -> list[set[int]]:
    """Returns the cores of each of `count` trainings: all that this process may use, divided.

    Raises:
        UserError: If there are fewer cores than trainings, or trainings do not use the CPU.
    """
    if count > 1 and jax.default_backend() != "cpu":
        raise UserError(
            f"--jobs={count} is for trainings on the CPU, and this is a {jax.default_backend()}: "
            "leave it out"
        )
    if not hasattr(os, "sched_setaffinity"):
        raise UserError(f"--jobs={count} needs Linux, which can divide the cores: leave it out")
    cores = sorted(os.sched_getaffinity(0))
    if count > len(cores):
        raise UserError(
            f"--jobs={count} is not allowed: this process may use {len(cores)} cores, so 1 to "
            f"{len(cores)}"
        )
    each = len(cores) // count
    return [set(cores[i * each : (i + 1) * each]) for i in range(count)]


def run(
    jobs: Sequence[Job], beside: Beside, observer: Observer, each_epoch: Observer
) -> Iterator[Outcome]:
    """Trains what is left and yields what became of each as it ends, finished ones at once.

    Args:
        jobs: The trainings, checked.
        beside: How many at a time.
        observer: Is told messages and epochs of all trainings as lines with their names.
        each_epoch: Is told every epoch.

    Raises:
        UserError: See `shares`.
        Interrupted: When SIGINT or SIGTERM arrived; everything so far is saved.
    """
    left = []
    free = shares(beside.number)
    for job in jobs:
        if job.is_finished:
            yield Outcome(job, RunFiles(job.path).summary(), "")
        else:
            left.append(job)
    with _Pool(free, beside.prepare) as pool:
        while pool.running or (left and pool.received is None):
            while left and pool.free and pool.received is None:
                pool.start(left.pop(0))
            for job, kind, content in pool.messages():
                if kind == "outcome":
                    yield Outcome(job, *content)
                elif kind == "epoch":
                    observer.say(f"{job.name}: {epoch_line(*content)}")
                    each_epoch.epoch(*content)
                else:
                    observer.say(f"{job.name}: {content}")
        if pool.received is not None:
            raise Interrupted(pool.received)


class _Pool:
    """The processes that train now, and the cores that are free."""

    def __init__(
        self, free: list[set[int]], prepare: Callable[[Sequence[config_dict.ConfigDict]], None]
    ) -> None:
        self.free = free
        self.received: int | None = None
        self.running: dict[Connection, tuple[Job, BaseProcess, set[int]]] = {}
        self._prepare = prepare
        # A fork would copy locks that threads of JAX hold.
        self._context = multiprocessing.get_context("spawn")

    def __enter__(self) -> "_Pool":
        self._before = {number: signal.signal(number, self._forward) for number in _SIGNALS}
        return self

    def __exit__(self, *error: object) -> None:
        for _, process, _ in self.running.values():
            process.kill()
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _forward(self, signum: int, frame: FrameType | None) -> None:
        self.received = self.received or signum
        for _, process, _ in list(self.running.values()):
            if process.is_alive() and process.pid is not None:
                os.kill(process.pid, signum)

    def start(self, job: Job) -> None:
        """Starts a training on cores that are free."""
        cores = self.free.pop(0)
        ours, theirs = self._context.Pipe(duplex=False)
        process = self._context.Process(target=_train, args=(job, cores, self._prepare, theirs))
        process.start()
        theirs.close()  # so that its end is seen here
        self.running[ours] = (job, process, cores)

    def messages(self) -> Iterator[tuple[Job, str, Any]]:
        """Waits for messages and yields them, (job, kind, content); the last is its outcome."""
        for connection in wait(list(self.running)):
            assert isinstance(connection, Connection)
            job, process, cores = self.running[connection]
            try:
                kind, content = connection.recv()
            except EOFError:
                # Ended without an outcome: stopped by a signal, or killed.
                process.join()
                kind, content = "outcome", (None, f"its process ended with {process.exitcode}")
                if self.received is not None:
                    kind = ""
            if kind in ("outcome", ""):
                process.join()
                connection.close()
                del self.running[connection]
                self.free.append(cores)
            if kind:
                yield job, kind, content


def _train(
    job: Job,
    cores: set[int],
    prepare: Callable[[Sequence[config_dict.ConfigDict]], None],
    connection: Connection,
) -> None:
    """What a process does: one training, whose outcome it sends as (summary, failure)."""
    os.setsid()  # a terminal's Ctrl-C reaches it through the first process alone
    os.sched_setaffinity(0, cores)
    try:
        prepare([job.config])
        dataset = data.load(**job.config.dataset)
        summary = fit.fit(job.config, dataset, job.path, _Messages(connection))
        connection.send(("outcome", (summary, "")))
    except (UserError, OSError) as error:
        with contextlib.suppress(OSError):  # such as a pipe whose other end has been killed
            connection.send(("outcome", (None, str(error))))
    except (Interrupted, KeyboardInterrupt):
        pass  # the end of the connection says it
