"""Curves of training: of one run, and of several on the same axes."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from jaxcnn.plots import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WIDE = 20
"""Losses of which the largest is so many times the smallest are drawn on a logarithmic axis: one
network that begins with a loss of hundreds would press all others flat."""

Records = Sequence[Mapping[str, Any]]
"""The lines of a run's metrics.jsonl."""


def curves(records: Records, title: str) -> "Figure":
    """Returns loss, accuracy and learning rate over the epochs of one run."""
    with style.styled():
        drawn = style.figure(9.0, 3.1, title)
        loss, accuracy, rate = drawn.subplots(1, 3)
        for axes, name, label in (
            (loss, "loss", "loss (nats)"),
            (accuracy, "accuracy", "accuracy"),
        ):
            for index, (part, words) in enumerate((("train", "training"), ("eval", "validation"))):
                _plot(axes, records, f"{part}_{name}", words, index, dashed=part == "eval")
            axes.set_ylabel(label)
            axes.legend()
        _plot(rate, records, "learning_rate", "learning rate", 2)
        rate.set_ylabel("learning rate (last step)")
        rate.set_ylim(bottom=0)
        for axes in (loss, accuracy, rate):
            _epochs(axes)
        return drawn


def compared(runs: Mapping[str, Records], title: str = "") -> "Figure":
    """Returns training and validation curves of several runs, `runs` by name."""
    panels = (
        ("train_loss", "training loss (nats)"),
        ("eval_loss", "validation loss (nats)"),
        ("train_accuracy", "training accuracy"),
        ("eval_accuracy", "validation accuracy"),
    )
    with style.styled():
        legend_rows = (len(runs) + 2) // 3
        drawn = style.figure(9.0, 6.0 + 0.2 * legend_rows, title)
        grid = drawn.subplots(2, 2)
        for axes, (key, label) in zip(grid.flat, panels, strict=True):
            for index, (name, records) in enumerate(runs.items()):
                _plot(axes, records, key, style.literal(name), index)
            axes.set_ylabel(label)
            losses = [r[key] for records in runs.values() for r in records if r.get(key)]
            if key.endswith("loss") and losses and max(losses) > _WIDE * min(losses) > 0:
                axes.set_yscale("log")
            _epochs(axes)
        handles, names = grid.flat[0].get_legend_handles_labels()
        drawn.legend(handles, names, loc="outside lower center", ncols=min(3, max(1, len(runs))))
        return drawn


def _plot(
    axes: "Axes", records: Records, key: str, label: str, index: int, *, dashed: bool = False
) -> None:
    points = [(r["epoch"], r[key]) for r in records if r.get(key) is not None]
    # Markers show single epochs; in a long run they would hide the line.
    marker = style.MARKERS[index % len(style.MARKERS)] if len(points) <= 30 else None
    axes.plot(
        [x for x, _ in points],
        [y for _, y in points],
        color=style.colour(index),
        linestyle="--" if dashed else style.line(index),
        marker=marker,
        label=label,
    )


def _epochs(axes: "Axes") -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, min_n_ticks=1))
