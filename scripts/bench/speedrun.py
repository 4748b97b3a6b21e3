"""How accurate and how fast is the recipe of configs/speedrun.py, over several seeds?

python scripts/bench/speedrun.py --seeds 5 --peer            # writes docs/results/speedrun.json
python scripts/bench/speedrun.py --dtype bfloat16 --seeds 20 # on a GPU
python scripts/bench/speedrun.py --images 2000 --epochs 1 --seeds 1 --out tiny.json
python scripts/bench/speedrun.py --table docs/results/speedrun.json

Each training is that of `jaxcnn train`, in a folder that is removed, and is evaluated without and
with the six views of `jaxcnn evaluate --tta mirror-shifts`. The seconds of its steps are those from
the first to the last, evaluations left out. Those before the first step, mostly compilation, are
shown for the first training alone: the others take the compiled program from the cache. With
`--peer` an implementation in PyTorch (float32, channels_last, eager) takes turns with ours.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import reports

from jaxcnn import cli, data
from jaxcnn.commands import training
from jaxcnn.commands.parser import at_least
from jaxcnn.config import execute, schema
from jaxcnn.config.settings import Settings
from jaxcnn.data import Dataset
from jaxcnn.errors import UserError
from jaxcnn.evaluate import evaluation
from jaxcnn.evaluate.run import Run
from jaxcnn.run.observers import Observer
from jaxcnn.study import tables
from jaxcnn.train import fit

ROOT = Path(__file__).resolve().parents[2]
VIEWS = "mirror-shifts"
_TEST_IMAGES = 10_000


class Stopwatch(Observer):
    """Measures the seconds from its creation to the first step."""

    def __init__(self) -> None:
        """Starts."""
        self.seconds = -time.perf_counter()

    def start(self, *, epochs: int, steps_per_epoch: int, step: int) -> None:
        """Stops before the first step."""
        self.seconds += time.perf_counter()


def recipe(options: argparse.Namespace) -> Any:
    """Returns the configuration that the options describe.

    Raises:
        UserError: If a value is not allowed.
    """
    config = execute.configuration(str(ROOT / "configs" / "speedrun.py"), "", "")
    config.model.name, config.model.dtype = options.network, options.dtype
    config.train.plots = False
    if options.epochs is not None:
        config.train.epochs = options.epochs
    if options.images is not None:
        config.dataset.train_split = f"train[:{options.images}]"
        config.dataset.eval_split = f"test[:{min(options.images, _TEST_IMAGES)}]"
        config.train.batch_size = min(config.train.batch_size, options.images)
    schema.validate(config)
    return config


def train(config: Any, dataset: Dataset, seed: int) -> dict[str, Any]:
    """Trains with one seed; returns accuracies, and seconds of the steps and before them."""
    config.seed = seed
    watch = Stopwatch()
    with tempfile.TemporaryDirectory() as folder:
        fit.fit(config, dataset, Path(folder) / "run", watch)
        run = Run(Path(folder) / "run")
        found = evaluation.evaluate(run, print, views=VIEWS)
        assert found.tta_scores is not None
        settings = run.settings
        images = settings.steps_per_epoch * settings.train.batch_size
        return {
            "seed": seed,
            "accuracy": found.scores.top1,
            "accuracy_with_views": found.tta_scores.top1,
            "train_seconds": round(sum(images / r["images_per_second"] for r in run.records), 3),
            "seconds_before": round(watch.seconds, 3),
        }


def measure(config: Any, dataset: Dataset, seeds: int, peer: bool) -> dict[str, Any]:
    """Returns the trainings of all seeds: ours, and with `peer` PyTorch's, in turns."""
    found: dict[str, list[dict[str, Any]]] = {"jaxcnn": []}
    if peer:
        found["torch"] = []
    for seed in range(seeds):
        found["jaxcnn"].append(train(config, dataset, seed))
        print(json.dumps(found["jaxcnn"][-1]), flush=True)
        if peer:
            import torch_speedrun

            settings = Settings.resolve(config, dataset)
            found["torch"].append(torch_speedrun.train(settings, dataset, seed))
            print(json.dumps({"torch": found["torch"][-1]}), flush=True)
    return found


def table(report: dict[str, Any]) -> str:
    """Returns the report in Markdown."""
    rows = []
    for name, runs in report["trainings"].items():
        columns = [
            tables.shown(tables.spread([run[key] for run in runs]), digits, scale)
            for key, digits, scale in (
                ("accuracy", 2, 100), ("accuracy_with_views", 2, 100), ("train_seconds", 1, 1),
            )
        ]  # fmt: skip
        rows.append([name, str(len(runs)), *columns])
    header = ["", "n", "accuracy, %", "with views, %", "seconds of the steps"]
    first = report["trainings"]["jaxcnn"][0]["seconds_before"]
    return "\n".join(
        [
            tables.markdown(header, rows),
            "",
            f"{report['network']}, {report['epochs']} epochs of {report['images']:,} images, "
            f"{report['dtype']}; before the first step: {first:.1f} s. {report['machine']}, "
            f"jax {report['jax']}; data: {report['data']}.",
        ]
    )


def main() -> None:
    """Runs the program."""
    parser = reports.parser(__doc__, "speedrun.json")
    parser.add_argument("--network", choices=["speedrun", "speedrun96"], default="speedrun")
    parser.add_argument("--seeds", type=at_least(1), default=5)
    parser.add_argument("--dtype", choices=["auto", "float32", "bfloat16"], default="auto")
    parser.add_argument("--images", type=at_least(1), help="the first ones only, for tiny tries")
    parser.add_argument("--epochs", type=at_least(1), help="default: the recipe's")
    parser.add_argument("--peer", action="store_true", help="PyTorch on the CPU, in turns")
    parser.add_argument("--data_dir", default="", help="TFDS directory")
    options = reports.parsed(parser, table)
    config = recipe(options)
    training.prepare([config])
    config.dataset.data_dir = options.data_dir
    dataset = data.load(**config.dataset)
    if options.peer and jax.default_backend() != "cpu":
        raise UserError("--peer computes on the CPU: set JAX_PLATFORMS=cpu, or leave it out")
    settings = Settings.resolve(config, dataset)
    report = {
        "network": options.network,
        "epochs": settings.train.epochs,
        "images": settings.facts.train_examples,
        "dtype": settings.model.dtype,
        "data": settings.facts.fingerprint,
        "trainings": measure(config, dataset, options.seeds, options.peer),
    }
    print(table(report | reports.made_by()))
    reports.write(options.out, report)


if __name__ == "__main__":
    cli.script(main)
