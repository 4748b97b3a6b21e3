"""The comparison of runs: one HTML file with curves, tables, predictions and checked claims."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxcnn import plots
from jaxcnn.evaluate.run import Run
from jaxcnn.report import claims, counts, facts, gradients, page, samples, times
from jaxcnn.run.folder import write_atomically
from jaxcnn.runtime.kept import Keeper

__all__ = ["FILES", "steps", "write"]

_PICTURES = ("curves.png", "accuracy_against_cost.png", "gradients.png")
FILES = ("report.html", "report.json", *_PICTURES)
"""What `write` writes."""


def steps(runs: Mapping[str, Run], depths: Sequence[int] = gradients.DEPTHS) -> int:
    """Returns how often `write` calls `advance`."""
    return len(counts.mobilenet_blocks()) + gradients.steps(runs, depths) + 1


def write(
    runs: Mapping[str, Run],
    out: str | Path,
    *,
    data_dir: str = "",
    depths: Sequence[int] = gradients.DEPTHS,
    say: Callable[[str], None] = lambda _: None,
    advance: Callable[[], None] = lambda: None,
    keeper: Keeper | None = None,
) -> Path:
    """Compares runs and returns the path of report.html, in `out` with its figures and numbers.

    Args:
        runs: The runs by name, from `runs.named`.
        out: Folder for report.html, report.json and PNG figures; nothing else is written.
        data_dir: A TFDS directory; empty for each run's own.
        depths: Layers of the untrained networks whose gradients are compared, a minute or more for
            deep ones.
        say: Gets a warning of a damaged checkpoint, and a line on what was not measured anew.
        advance: Called `steps` times, since measuring takes minutes.
        keeper: Takes the measurements; without one, all are taken anew unless they are kept in the
            user's cache.

    Raises:
        UserError: If a run has no epoch or no checkpoint yet, or its data cannot be had.
    """
    keeper = keeper or Keeper()
    found = {name: facts.of_run(run, data_dir, say) for name, run in runs.items()}
    # Imported weights have had no training here, of which curves and claims tell.
    trained = {name: fact for name, fact in found.items() if fact["records"]}
    counted = counts.of_runs(runs)
    timed = times.of_blocks(keeper, advance)
    norms = gradients.of_networks(runs, data_dir, say, keeper, advance, depths)
    shown = samples.of_runs(runs, data_dir, say)
    advance()
    checked = claims.all_claims(trained, counted, timed, norms)

    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    numbers = {
        "runs": found,
        "counts": counted,
        "separable": timed,
        "gradients": norms,
        "claims": [claim._asdict() for claim in checked],
        "measured_earlier": keeper.found,
    }
    write_atomically(out / "report.json", json.dumps(numbers, indent=2, allow_nan=False) + "\n")
    _draw(trained, norms, out)
    path = out / "report.html"
    earlier = earlier_words(keeper.found)
    write_atomically(path, page.render(found, counted, norms, checked, shown, earlier))
    if earlier:
        say(earlier)
    return path


def earlier_words(found: Mapping[str, Sequence[str]]) -> str:
    """Returns a sentence on measurements that are kept ones, with their dates; "" if none is."""
    if not found:
        return ""
    parts = []
    for kind, dates in found.items():
        days = sorted({time.partition("T")[0] for time in dates})
        parts.append(f"{kind} ({days[0] if len(days) == 1 else f'{days[0]} to {days[-1]}'})")
    return f"Measured earlier on this machine with the same program, and kept: {', '.join(parts)}."


def _draw(
    found: Mapping[str, dict[str, Any]], norms: Sequence[Mapping[str, Any]], out: Path
) -> None:
    """Draws the pictures into the folder `out`."""
    records = {name: fact["records"] for name, fact in found.items()}
    plots.save(plots.compared(records), out / "curves.png")
    costs = {
        label: {name: fact[key] for name, fact in found.items()}
        for key, label in facts.COSTS.items()
    }
    accuracies = {name: fact["eval_accuracy"] for name, fact in found.items()}
    plots.save(plots.tradeoff(costs, accuracies), out / "accuracy_against_cost.png")
    plots.save(
        plots.gradients(
            {
                words: {line["name"]: line["norms"] for line in norms if line["when"] == when}
                for when, words in gradients.STAGES.items()
                if any(line["when"] == when for line in norms)
            }
        ),
        out / "gradients.png",
    )
