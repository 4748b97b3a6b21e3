"""How far some trainings are, and how long the rest will take, read from their run folders."""

import statistics
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from jaxcnn.run.files import RunFiles
from jaxcnn.study import tables
from jaxcnn.study.jobs import Job


class State(NamedTuple):
    """How far a training is.

    Attributes:
        name: Of the training.
        network: What it trains.
        done: Epochs so far.
        epochs: Epochs in all.
        seconds: Of each epoch so far.
        accuracy: On the evaluation split after the last epoch so far, or None.
    """

    name: str
    network: str
    done: int
    epochs: int
    seconds: tuple[float, ...]
    accuracy: float | None


def states(jobs: Iterable[Job]) -> list[State]:
    """Returns the state of each training.

    Raises:
        UserError: If a file of a run is damaged.
    """
    found = []
    for job in jobs:
        records = RunFiles(job.path).read_metrics()
        seconds = tuple(record["seconds"] for record in records)
        accuracy = records[-1]["eval_accuracy"] if records else None
        network, epochs = job.config.model.name, job.config.train.epochs
        found.append(State(job.name, network, len(records), epochs, seconds, accuracy))
    return found


def paces(found: Sequence[State]) -> dict[str, float]:
    """Returns the seconds of an epoch of each network that has one: the median of all its runs'."""
    seconds: dict[str, list[float]] = {}
    for state in found:
        seconds.setdefault(state.network, []).extend(state.seconds)
    return {network: statistics.median(values) for network, values in seconds.items() if values}


def left(found: Sequence[State]) -> tuple[float, list[str]]:
    """Returns the seconds that are left, and the networks whose epochs are not known to last."""
    pace = paces(found)
    open_states = [state for state in found if state.done < state.epochs]
    seconds = sum((s.epochs - s.done) * pace.get(s.network, 0.0) for s in open_states)
    unknown = dict.fromkeys(state.network for state in open_states if state.network not in pace)
    return seconds, list(unknown)


def remaining(found: Sequence[State]) -> str:
    """Returns what is left, in words."""
    seconds, unknown = left(found)
    trainings = sum(state.done < state.epochs for state in found)
    if not trainings:
        return "nothing is left to train"
    words = f"about {duration(seconds)} for" if seconds else "for"
    if not unknown:
        return f"left: {words} {trainings} of {len(found)} trainings"
    known = f"about {duration(seconds)} and " if seconds else ""
    return (
        f"left: {trainings} of {len(found)} trainings, {known}that of {', '.join(unknown)}, known "
        "after an epoch of each"
    )


def table(found: Sequence[State]) -> str:
    """Returns a line for each training: epochs, seconds of one, accuracy, time that is left."""
    pace = paces(found)
    rows = []
    for state in found:
        seconds = pace.get(state.network)
        rest = state.epochs - state.done
        known = "unknown" if seconds is None else f"about {duration(rest * seconds)}"
        rows.append(
            [
                state.name,
                f"{state.done} of {state.epochs}",
                "-" if seconds is None else f"{seconds:.1f}",
                "-" if state.accuracy is None else f"{100 * state.accuracy:.2f}",
                known if rest else "done",
            ]
        )
    return tables.text(["training", "epochs", "s per epoch", "accuracy, %", "left"], rows)


def duration(seconds: float) -> str:
    """Returns a length of time in its two largest units, such as `3 h 05 min`."""
    if round(seconds) < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"
