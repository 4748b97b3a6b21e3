"""The learning-rate range test: loss against learning rate."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from jaxcnn.plots import style

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def lr_range(
    rates: Sequence[float],
    losses: Sequence[float],
    smoothed: Sequence[float],
    marks: Mapping[str, float],
    title: str = "",
) -> "Figure":
    """Returns the losses of a range test.

    Args:
        rates: Learning rate of each step, rising.
        losses: Loss of each step, in nats.
        smoothed: The same without noise.
        marks: Rates to be marked, by what they are called.
        title: Of the figure.
    """
    with style.styled():
        drawn = style.figure(7.0, 4.2, style.literal(title))
        axes = drawn.subplots()
        axes.plot(rates, losses, color=style.colour(0), alpha=0.35, linewidth=0.8, label="loss")
        axes.plot(rates, smoothed, color=style.colour(0), label="smoothed")
        for index, (name, rate) in enumerate(marks.items(), 1):
            axes.axvline(
                rate, color=style.colour(index), linestyle="--", label=f"{name}: {rate:.2g}"
            )
        # What the loss does after the network has diverged would press the rest flat.
        low, high = min(smoothed), smoothed[0]
        axes.set_ylim(low - 0.2 * (high - low) - 0.05, high + 0.5 * (high - low) + 0.05)
        axes.set_xscale("log")
        axes.set_xlabel("learning rate")
        axes.set_ylabel("training loss (nats)")
        axes.legend()
        return drawn
