"""Results of several seeds as a table: mean, standard deviation and n, as text and Markdown."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from jaxcnn.runtime import environment

Row = Sequence[str]


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Returns {"mean", "std", "n"} of values; std, that of a sample, needs two, the mean one."""
    return {
        "mean": statistics.fmean(values) if values else None,
        "std": statistics.stdev(values) if len(values) > 1 else None,
        "n": len(values),
    }


def shown(found: dict[str, Any], digits: int, scale: float = 1.0) -> str:
    """Returns a spread as `MEAN ± STD`, without what there is none of; `-` for no value."""
    if found["mean"] is None:
        return "-"
    std = "" if found["std"] is None else f" ± {scale * found['std']:.{digits}f}"
    return f"{scale * found['mean']:.{digits}f}{std}"


def text(header: Row, rows: Sequence[Row]) -> str:
    """Returns a table for a terminal: the first column to the left, the others to the right."""
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if index else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in (header, *rows)
    )


def markdown(header: Row, rows: Sequence[Row]) -> str:
    """Returns a Markdown table, aligned as `text` is."""
    rule = ["---", *["--:"] * (len(header) - 1)]
    lines = [
        "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |"
        for row in (header, *rows)
    ]
    return "\n".join([lines[0], f"|{'|'.join(rule)}|", *lines[1:]])


def origin(results: Mapping[str, Any]) -> list[str]:
    """Returns lines on the data and the machine that `trainings.origin` found, if any."""
    notes = []
    if (data := results["dataset"]) is not None:
        notes.append(
            f"trained on {data['train_split']}, evaluated on {data['eval_split']} of "
            f"{data['fingerprint']}"
        )
    if (start := results["environment"]) is not None:
        devices = start.get("devices") or []
        on_cpu = start.get("platform") == "cpu"
        where = environment.cores_of(start.get("cpu_count"), start.get("cpu"))
        where = where if on_cpu or not devices else f"{len(devices)} x {devices[0]}"
        packages = start.get("packages", {})
        notes.append(f"{where}, jax {packages.get('jax')}, flax {packages.get('flax')}")
    return notes
