"""Whether training here and in PyTorch, by the same recipe, reaches the same accuracy.

python scripts/checks/torch_training.py lenet --seeds 8
python scripts/checks/torch_training.py mobilenet --seeds 4 --set train.epochs=10
python scripts/checks/torch_training.py --table docs/results/torch-training.json

Both train the configuration's network on its training split and are evaluated on its evaluation
split after the last epoch. PyTorch's loop, in torch_loop.py, is written with PyTorch alone (eager,
channels_last): its own shuffling, crops, flips, loss, `torch.optim.SGD` and batch norm. It shares
with ours the data, the learning rate of each step and the distribution of the initial values, which
are drawn by the flax network from a seed of its own. Means are compared by Welch's standard error.

Needs `pip install jaxcnn[bench]`. The same command continues: a seed that is done is not trained
again. Exits with 1 if the means of a network differ by more than two standard errors or a point.
"""

import argparse
import json
import math
import os
import statistics
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
from absl import flags
from ml_collections import config_dict

from jaxcnn import cli, data
from jaxcnn.commands import config_flag, outfiles, training
from jaxcnn.commands.parser import at_least, script_parser
from jaxcnn.config import schema
from jaxcnn.config.settings import Settings
from jaxcnn.errors import UserError
from jaxcnn.run import observers
from jaxcnn.runtime import environment
from jaxcnn.study import tables
from jaxcnn.train import fit

ROOT = Path(__file__).resolve().parents[2]
MOST_ERRORS, MOST_POINTS = 2.0, 1.0

# What PyTorch's loop does by these keys. Any other has to have its default, which changes nothing.
UNDERSTOOD = {
    "seed", "dataset.name", "dataset.data_dir", "dataset.train_split", "dataset.eval_split",
    "augment.crop_padding", "augment.flip", "model.name", "model.dtype", "model.width",
    "optim.peak_lr", "optim.momentum", "optim.nesterov", "optim.weight_decay", "optim.schedule",
    "optim.warmup_epochs", "optim.milestones", "optim.decay_factor", "train.epochs",
    "train.batch_size", "train.eval_batch_size", "train.label_smoothing", "train.log_every_steps",
    "train.checkpoint_minutes", "train.keep_checkpoints", "train.plots", "train.steps_per_call",
}  # fmt: skip


def check_understood(config: config_dict.ConfigDict) -> None:
    """Raises UserError if the recipe has something that PyTorch's loop does not do."""
    for key, declared in schema.walk():
        section, _, last = key.rpartition(".")
        value = config[section][last] if section else config[last]
        if key not in UNDERSTOOD and value != declared.default:
            raise UserError(
                f"{key}={value!r} is not part of the comparison with PyTorch: leave it out, so "
                f"that it is {declared.default!r}"
            )


def compared(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, Any]:
    """Returns the difference of two means of accuracies with Welch's standard error (1947).

    `within` is None as long as one of them has a single value. A difference passes that is at most
    `MOST_ERRORS` standard errors and at most `MOST_POINTS` percentage points.
    """
    found: dict[str, Any] = {"jaxcnn": tables.spread(ours), "torch": tables.spread(theirs)}
    if min(len(ours), len(theirs)) < 2:
        return {**found, "within": None}
    difference = statistics.fmean(ours) - statistics.fmean(theirs)
    parts = [statistics.variance(values) / len(values) for values in (ours, theirs)]
    error = math.sqrt(sum(parts))
    freedom = [part**2 / (len(v) - 1) for part, v in zip(parts, (ours, theirs), strict=True)]
    return {
        **found,
        "difference": difference,
        "standard_error": error,
        "degrees_of_freedom": sum(parts) ** 2 / sum(freedom) if error else None,
        "within": abs(difference) <= MOST_ERRORS * error and 100 * abs(difference) <= MOST_POINTS,
    }


def table(report: dict[str, Any]) -> str:
    """Returns the comparison as a Markdown table."""
    lines = [
        "| network | epochs | jaxcnn, % | n | PyTorch, % | n | difference | standard error |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for name, row in report["networks"].items():
        ours, theirs = row["jaxcnn"], row["torch"]
        known = row["within"] is not None
        cells = [
            f"{100 * row['difference']:+.2f}" if known else "-",
            f"{100 * row['standard_error']:.2f}" if known else "-",
        ]
        lines.append(
            f"| {name} | {row['recipe']['train']['epochs']} | {tables.shown(ours, 2, 100)} "
            f"| {ours['n']} | {tables.shown(theirs, 2, 100)} | {theirs['n']} "
            f"| {' | '.join(cells)} |"
        )
    data_sets = {row["recipe"]["dataset"]["fingerprint"] for row in report["networks"].values()}
    note = " (JPEG copy)" if any("modified" in data_set for data_set in data_sets) else ""
    origin = f"{report['machine']}, jax {report['jax']}, {report['torch']}"
    return "\n".join([*lines, "", f"{origin}; data: {', '.join(sorted(data_sets))}{note}."])


def trained(
    config: config_dict.ConfigDict, dataset: data.Dataset, seeds: int, out: Path
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields ("jaxcnn" or "torch", scores) of each training, those done before at once."""
    import torch_loop

    recipe = Settings.resolve(config, dataset)
    check_understood(config)
    for seed in range(seeds):
        config.seed = seed
        path = out / f"{recipe.model.name}-seed{seed}"
        summary_ = fit.fit(config, dataset, path, observers.LineReporter())
        yield "jaxcnn", {"seed": seed, **{key: summary_[key] for key in _SCORES}}
        file = out / f"{recipe.model.name}-torch-seed{seed}.json"
        # The run folder beside it belongs to this recipe, or `fit` would have refused it; a longer
        # training makes the file old.
        done = outfiles.read(file, dict) if file.exists() else {}
        if done.get("recipe") != (whole := {**recipe.to_json(), "seed": seed}):
            done = {"recipe": whole, "scores": torch_loop.train(recipe, dataset, seed)}
            outfiles.write("--out", file, json.dumps(done, indent=1) + "\n")
        yield "torch", done["scores"]


_SCORES = ("epoch", "train_loss", "eval_loss", "eval_accuracy", "total_seconds")


def report_of(
    recipe: dict[str, Any], runs: dict[str, list[dict[str, Any]]], before: dict[str, Any]
) -> dict[str, Any]:
    """Returns the content of the output: `before`, with one network's results put in."""
    accuracies = {side: [run["eval_accuracy"] for run in runs[side]] for side in runs}
    row = compared(accuracies["jaxcnn"], accuracies["torch"])
    name = recipe["model"]["name"]
    networks = before.get("networks", {}) | {name: {**row, "recipe": recipe, "runs": runs}}
    return {
        "machine": environment.machine(),
        "git_revision": environment.git_revision(),
        "jax": jax.__version__,
        "torch": f"torch {metadata.version('torch')}",
        "networks": networks,
    }


def main() -> int:
    """Runs the program; returns 1 if the means of a network differ too much."""
    parser = script_parser(__doc__)
    parser.add_argument("config", nargs="?", help="configuration, such as lenet or lenet:digits")
    parser.add_argument("--seeds", type=at_least(1), default=2)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--threads", type=at_least(1), default=os.cpu_count(), help="of PyTorch")
    parser.add_argument("--out", type=Path, default=Path("runs/torch-training"), help="run folders")
    parser.add_argument(
        "--output", type=Path, default=ROOT / "docs" / "results" / "torch-training.json"
    )
    parser.add_argument("--table", type=Path, help="print the table of this file, and end")
    args = parser.parse_args()
    if args.table:
        print(outfiles.read(args.table, table))
        return 0
    if args.config is None:
        raise UserError("name a configuration, such as lenet, or give --table FILE")
    return compare(args)


def compare(args: argparse.Namespace) -> int:
    """Trains what is left, writes the comparison after each seed, and prints it."""
    try:
        import torch_loop
    except ImportError as error:
        raise UserError("PyTorch is missing: pip install 'jaxcnn[bench]'") from error
    given = [f"--{text}" for text in ("train.epochs=10", "train.plots=False", *args.set)]
    config = config_flag.parse([f"--config={args.config}", *given], flags.FlagValues()).config
    outfiles.check_file("--output", args.output, (".json",))
    before: dict[str, Any] = {}
    if args.output.exists():
        before = outfiles.read(args.output, lambda found: found if table(found) else {})
    training.prepare([config])
    torch_loop.use_threads(args.threads)
    dataset = data.load(**config.dataset)
    args.out.mkdir(parents=True, exist_ok=True)
    recipe = Settings.resolve(config, dataset).to_json()
    runs: dict[str, list[dict[str, Any]]] = {"jaxcnn": [], "torch": []}
    report = before
    for side, scores in trained(config, dataset, args.seeds, args.out):
        runs[side].append(scores)
        if side == "torch":
            report = report_of(recipe, runs, before)
            outfiles.write("--output", args.output, json.dumps(report, indent=1) + "\n")
    print(table(report))
    return 0 if report["networks"][recipe["model"]["name"]]["within"] is not False else 1


if __name__ == "__main__":
    cli.script(main)
