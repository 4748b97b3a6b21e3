"""Networks against each other: accuracy against cost, gradient norms by depth."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from jaxcnn.plots import style

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def tradeoff(
    costs: Mapping[str, Mapping[str, float]], accuracies: Mapping[str, float], title: str = ""
) -> "Figure":
    """Returns accuracy against each cost.

    Args:
        costs: For each kind of cost, such as "parameters", the cost of each network by name.
        accuracies: Best accuracy of each network by name, 0..1.
        title: Of the figure.
    """
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
                    label=name,
                )
            axes.set_xscale("log")
            axes.set_xlabel(kind)
        panels[0].set_ylabel("best validation accuracy")
        handles, names = panels[0].get_legend_handles_labels()
        drawn.legend(handles, names, loc="outside lower center", ncols=min(4, len(names)))
        return drawn


def gradients(panels: Mapping[str, Mapping[str, Sequence[float]]], title: str = "") -> "Figure":
    """Returns gradient norms by layer: for each panel's name, a line for each network's name."""
    with style.styled():
        drawn = style.figure(9.0, 3.7, title)
        names = list(dict.fromkeys(name for lines in panels.values() for name in lines))
        grid = drawn.subplots(1, len(panels), squeeze=False, sharey=True)[0]
        for axes, (words, lines) in zip(grid, panels.items(), strict=True):
            for name, norms in lines.items():
                index = names.index(name)
                axes.plot(
                    range(1, len(norms) + 1),
                    norms,
                    color=style.colour(index),
                    linestyle=style.line(index),
                    label=name,
                )
            axes.set_yscale("log")
            axes.set_title(words)
            axes.set_xlabel("convolution, counted from the image")
        grid[0].set_ylabel("norm of the gradient")
        seen: dict[str, Any] = {}
        for axes in grid:
            for handle, name in zip(*axes.get_legend_handles_labels(), strict=True):
                seen.setdefault(name, handle)
        handles: list[Any] = list(seen.values())
        drawn.legend(handles=handles, labels=list(seen), loc="outside lower center", ncols=4)
        return drawn
