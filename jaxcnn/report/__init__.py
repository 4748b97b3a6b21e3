"""The comparison of runs: one HTML file with curves, tables, predictions and checked claims."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from jaxcnn import plots
from jaxcnn.evaluate.run import Run
from jaxcnn.report import claims, facts, measure, page, samples
from jaxcnn.run.folder import write_atomically

__all__ = ["FILES", "write"]

_PICTURES = ("curves.png", "accuracy_against_cost.png", "gradients.png")
FILES = ("report.html", "report.json", *_PICTURES)
"""What `write` writes."""


def write(
    runs: Mapping[str, Run],
    out: str | Path,
    *,
    data_dir: str = "",
    depths: Sequence[int] = measure.DEPTHS,
    say: Callable[[str], None] = lambda _: None,
) -> Path:
    """Compares runs and returns the path of report.html, in `out` with its figures and numbers.

    Args:
        runs: The runs by name, from `runs.named`.
        out: Folder for report.html, report.json and PNG figures; nothing else is written.
        data_dir: A TFDS directory; empty for each run's own.
        depths: Layers of the untrained networks whose gradients are compared, a minute or more for
            deep ones.
        say: Told of the progress, since measuring takes minutes.

    Raises:
        UserError: If a run has no epoch or no checkpoint yet, or its data cannot be had.
    """
    found = {name: facts.of_run(run) for name, run in runs.items()}
    say("counting operations")
    counted = measure.counts(runs)
    say("timing convolutions")
    timed = measure.separable_times()
    say("measuring gradients")
    gradients = measure.gradients(runs, data_dir, say, depths)
    say("predicting")
    shown = samples.of_runs(runs, data_dir, say)
    checked = claims.all_claims(found, counted, timed, gradients)

    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    numbers = {
        "runs": found,
        "counts": counted,
        "separable": timed,
        "gradients": gradients,
        "claims": [claim._asdict() for claim in checked],
    }
    write_atomically(out / "report.json", json.dumps(numbers, indent=2, allow_nan=False) + "\n")
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
                words: {line["name"]: line["norms"] for line in gradients if line["when"] == when}
                for when, words in measure.STAGES.items()
                if any(line["when"] == when for line in gradients)
            }
        ),
        out / "gradients.png",
    )
    path = out / "report.html"
    write_atomically(path, page.render(found, counted, gradients, checked, shown))
    return path
