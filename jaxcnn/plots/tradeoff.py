"""Networks against each other: accuracy against cost, gradient norms by depth."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from jaxcnn.plots import style

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def tradeoff(
    costs: Mapping[str, Mapping[str, float]], accuracies: Mapping[str, float], title: str = ""
) -> "Figure":
    """Returns accuracy against each cost.

    Args:
        costs: For each kind of cost, such as "parameters", the cost of each network by name.
        accuracies: Accuracy of each network by name, 0..1.
        title: Of the figure.
    """
    from matplotlib.ticker import NullFormatter

    with style.styled():
        drawn = style.figure(9.0, 3.9, title)
        panels = drawn.subplots(1, len(costs), squeeze=False, sharey=True)[0]
        for axes, (kind, values) in zip(panels, costs.items(), strict=True):
            for index, (name, accuracy) in enumerate(accuracies.items()):
                axes.plot(
                    values[name],
                    accuracy,
                    linestyle="",
                    marker=style.MARKERS[index % len(style.MARKERS)],
                    markersize=8,
                    color=style.colour(index),
                    label=style.literal(name),
                )
            axes.set_xscale("log")
            axes.xaxis.set_minor_formatter(NullFormatter())
            axes.set_xlabel(kind)
        panels[0].set_ylabel("validation accuracy, last epoch")
        handles, names = panels[0].get_legend_handles_labels()
        drawn.legend(handles, names, loc="outside lower center", ncols=min(4, max(1, len(names))))
        return drawn


def gradients(panels: Mapping[str, Mapping[str, Sequence[float]]], title: str = "") -> "Figure":
    """Returns gradient norms by layer: for each panel's name, a line for each network's name."""
    with style.styled():
        drawn = style.figure(9.0, 4.4, title)
        grid = drawn.subplots(1, len(panels), squeeze=False, sharey=True)[0]
        for axes, (words, lines) in zip(grid, panels.items(), strict=True):
            for index, (name, norms) in enumerate(lines.items()):
                axes.plot(
                    range(1, len(norms) + 1),
                    norms,
                    color=style.colour(index),
                    linestyle=style.line(index),
                    label=style.literal(name),
                )
            axes.set_yscale("log")
            axes.set_title(words)
            axes.set_xlabel("convolution, counted from the image")
            axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.17), ncols=2)
        grid[0].set_ylabel("norm of the gradient")
        return drawn
