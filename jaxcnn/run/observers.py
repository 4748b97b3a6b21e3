"""Observers of a run: a live display on a terminal, a line per epoch elsewhere."""

import sys
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from jaxcnn.models.summary import BlockSummary, totals


class Observer:
    """The interface of observers; this one reports nothing."""

    def say(self, text: str) -> None:
        """Handles a message for the user."""

    def network(self, name: str, rows: list[BlockSummary]) -> None:
        """Handles the table of the network's blocks, before training."""

    def start(self, *, epochs: int, steps_per_epoch: int, step: int) -> None:
        """Handles the start of training at `step`, which is above 0 for a resumed run."""

    def step(self, step: int, loss: float, accuracy: float, rate: float) -> None:
        """Handles the means of the epoch so far, and images per second, after `step` steps."""

    def epoch(self, record: dict[str, Any], epochs: int) -> None:
        """Handles the end of an epoch, with its record of metrics.jsonl."""

    def stop(self) -> None:
        """Handles the end of training, whatever the reason."""


class ObserverList(Observer):
    """Passes every call on to several observers, in order."""

    def __init__(self, *others: Observer) -> None:
        """Passes calls on to `others`."""
        self._others = others

    def say(self, text: str) -> None:
        """Handles a message for the user."""
        for other in self._others:
            other.say(text)

    def network(self, name: str, rows: list[BlockSummary]) -> None:
        """Passes on the table of the network's blocks."""
        for other in self._others:
            other.network(name, rows)

    def start(self, *, epochs: int, steps_per_epoch: int, step: int) -> None:
        """Passes on the start of training."""
        for other in self._others:
            other.start(epochs=epochs, steps_per_epoch=steps_per_epoch, step=step)

    def step(self, step: int, loss: float, accuracy: float, rate: float) -> None:
        """Passes on the means of the epoch so far."""
        for other in self._others:
            other.step(step, loss, accuracy, rate)

    def epoch(self, record: dict[str, Any], epochs: int) -> None:
        """Passes on the end of an epoch."""
        for other in self._others:
            other.epoch(record, epochs)

    def stop(self) -> None:
        """Passes on the end of training."""
        for other in self._others:
            other.stop()


class WarningKeeper(Observer):
    """Keeps the messages that are warnings.

    Attributes:
        kept: The warnings, in order, without the word before them.
    """

    def __init__(self) -> None:
        """Has no warning yet."""
        self.kept: list[str] = []

    def say(self, text: str) -> None:
        """Keeps a message that begins with "warning: "."""
        if text.startswith("warning: "):
            self.kept.append(text.removeprefix("warning: "))


class LineReporter(Observer):
    """One plain line per epoch, for files and pipes."""

    def say(self, text: str) -> None:
        """Prints a message."""
        print(text, flush=True)

    def start(self, *, epochs: int, steps_per_epoch: int, step: int) -> None:
        """Prints the first and the last step."""
        self.say(f"training from step {step} to {epochs * steps_per_epoch}")

    def epoch(self, record: dict[str, Any], epochs: int) -> None:
        """Prints the record."""
        self.say(epoch_line(record, epochs))


class Terminal(Observer):
    """A table of the network, a live bar, and a line per epoch above it."""

    def __init__(self) -> None:
        """Draws on standard output."""
        self._console = Console(highlight=False)
        self._bar: Progress | None = None
        self._steps_per_epoch = 1

    def say(self, text: str) -> None:
        """Prints a message above the bar."""
        self._console.print(text, markup=False, soft_wrap=True)

    def network(self, name: str, rows: list[BlockSummary]) -> None:
        """Prints a table with a line per block."""
        parameters, flops = totals(rows)
        table = Table(title=f"{name}, one image", title_justify="left", show_footer=True)
        table.add_column("block", footer="total")
        table.add_column("layers", justify="right", footer=str(sum(row.layers for row in rows)))
        table.add_column("output", justify="right")
        table.add_column("parameters", justify="right", footer=f"{parameters:,}")
        table.add_column("FLOPs (multiply-adds)", justify="right", footer=f"{flops:,}")
        for row in rows:
            shape = " x ".join(map(str, row.output))
            table.add_row(row.name, str(row.layers), shape, f"{row.parameters:,}", f"{row.flops:,}")
        self._console.print(table)

    def start(self, *, epochs: int, steps_per_epoch: int, step: int) -> None:
        """Shows the bar."""
        self._steps_per_epoch = steps_per_epoch
        self._bar = Progress(
            TextColumn("epoch {task.fields[epoch]}/" + str(epochs)),
            BarColumn(bar_width=None),
            TextColumn("step {task.completed}/{task.total}{task.fields[means]}"),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=self._console,
            transient=True,
            expand=True,
        )
        epoch = min(step // steps_per_epoch + 1, epochs)
        self._bar.add_task(
            "", total=epochs * steps_per_epoch, completed=step, epoch=epoch, means=""
        )
        self._bar.start()

    def step(self, step: int, loss: float, accuracy: float, rate: float) -> None:
        """Moves the bar."""
        assert self._bar is not None
        means = f"  loss {loss:.4f}  accuracy {accuracy:.4f}  {rate:,.0f} images/s"
        epoch = (step - 1) // self._steps_per_epoch + 1
        self._bar.update(self._bar.task_ids[0], completed=step, epoch=epoch, means=means)

    def epoch(self, record: dict[str, Any], epochs: int) -> None:
        """Prints the record above the bar."""
        self.say(epoch_line(record, epochs))

    def stop(self) -> None:
        """Removes the bar."""
        if self._bar is not None:
            self._bar.stop()


def create_reporter() -> Observer:
    """Returns a live display if standard output is a terminal, else a reporter of plain lines."""
    return Terminal() if sys.stdout.isatty() else LineReporter()


def epoch_line(record: dict[str, Any], epochs: int) -> str:
    """Returns one line for one record of metrics.jsonl."""
    rate = record["images_per_second"]
    speed = "" if rate is None else f"  {rate:,.0f} images/s"
    return (
        f"epoch {record['epoch']}/{epochs}  step {record['step']}  "
        f"train loss {record['train_loss']:.4f} accuracy {record['train_accuracy']:.4f}  "
        f"eval loss {record['eval_loss']:.4f} accuracy {record['eval_accuracy']:.4f}{speed}  "
        f"{record['seconds']:.1f} s"
    )
