"""How many steps should one compiled call take? Images per second by train.steps_per_call.

python scripts/bench/calls.py --network mobilenet --network lenet # docs/results/calls.json
python scripts/bench/calls.py --network lenet --images 2048 --calls 1 4 --out tiny.json
python scripts/bench/calls.py --table docs/results/calls.json

Each is a training of two epochs by `jaxcnn train`, from the same seed; what counts is the second,
without its evaluation. The values take turns, in `--rounds` rounds, of which medians are taken.
"""

import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

import jax
import reports

from jaxcnn import cli, data
from jaxcnn.commands import training
from jaxcnn.commands.parser import at_least
from jaxcnn.config import default_config, schema, use_dataset
from jaxcnn.data import Dataset
from jaxcnn.evaluate.run import Run
from jaxcnn.run.observers import Observer
from jaxcnn.study import tables
from jaxcnn.train import fit


def recipe(network: str, batch_size: int, dtype: str, images: int | None) -> Any:
    """Returns a training of two epochs.

    Raises:
        UserError: If a value is not allowed.
    """
    config = use_dataset(default_config(), "cifar10")
    config.model.name, config.model.dtype = network, dtype
    config.optim.peak_lr = 0.01  # speed is asked for: no training diverges
    config.train.batch_size, config.train.epochs, config.train.plots = batch_size, 2, False
    if images is not None:
        config.dataset.train_split = f"train[:{images}]"
    config.dataset.eval_split = "test[:1000]"
    schema.validate(config)
    return config


def speed(config: Any, dataset: Dataset, steps: int) -> float:
    """Returns the images per second of the second epoch, with so many steps in a call."""
    config.train.steps_per_call = steps
    with tempfile.TemporaryDirectory() as folder:
        fit.fit(config, dataset, Path(folder) / "run", Observer())
        return Run(Path(folder) / "run").records[-1]["images_per_second"]


def table(report: dict[str, Any]) -> str:
    """Returns the report in Markdown: images per second, a row for each network."""
    calls = [str(steps) for steps in report["calls"]]
    rows = [
        [network, *(f"{statistics.median(speeds[steps]):,.0f}" for steps in calls)]
        for network, speeds in report["images_per_second"].items()
    ]
    return "\n".join(
        [
            tables.markdown(["steps in a call", *calls], rows),
            "",
            f"Images per second, batch {report['batch_size']}, {report['dtype']}, medians of "
            f"{report['rounds']}; {report['device']}, {report['machine']}, jax {report['jax']}.",
        ]
    )


def main() -> None:
    """Runs the program."""
    parser = reports.parser(__doc__, "calls.json")
    parser.add_argument("--network", action="append", default=[], help="repeatable")
    parser.add_argument("--calls", nargs="+", type=at_least(1), default=[1, 2, 4, 8, 16, 32])
    parser.add_argument("--batch_size", type=at_least(1), default=512)
    parser.add_argument("--dtype", choices=["auto", "float32", "bfloat16"], default="auto")
    parser.add_argument("--images", type=at_least(1), help="the first ones only, for tiny tries")
    parser.add_argument("--rounds", type=at_least(1), default=3)
    parser.add_argument("--data_dir", default="", help="TFDS directory")
    args = reports.parsed(parser, table)
    if not args.network:
        parser.error("say which network: --network NAME")
    found = [recipe(name, args.batch_size, args.dtype, args.images) for name in args.network]
    training.prepare(found)
    for config in found:
        config.dataset.data_dir = args.data_dir
    dataset = data.load(**found[0].dataset)
    speeds: dict[str, dict[str, list[float]]] = {}
    for config in found:
        of_network = speeds.setdefault(config.model.name, {str(steps): [] for steps in args.calls})
        for _ in range(args.rounds):
            for steps in args.calls:
                of_network[str(steps)].append(speed(config, dataset, steps))
        print(json.dumps({config.model.name: of_network}), flush=True)
    report = {
        "calls": args.calls,
        "batch_size": args.batch_size,
        "dtype": args.dtype,
        "images": args.images,
        "rounds": args.rounds,
        "device": jax.devices()[0].device_kind,
        "images_per_second": speeds,
    }
    print(table(report | reports.made_by()))
    reports.write(args.out, report)


if __name__ == "__main__":
    cli.script(main)
