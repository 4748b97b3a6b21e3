"""How long it takes from the command `jaxcnn train` to the first step, first and later times.

    python scripts/bench/start.py
    python scripts/bench/start.py --network lenet --dataset digits --rounds 1
    python scripts/bench/start.py --table docs/results/start.json

Of each network, with oneDNN and without: a start with an empty compilation cache, then others, the
two in turn. The seconds, and on what they were spent, are those that `--dry_run` prints. Of
CIFAR-10 256 images are taken; the programs are those of all.
"""

import os
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import reports

from jaxcnn import cli, ops
from jaxcnn.commands.parser import at_least
from jaxcnn.errors import UserError
from jaxcnn.study import tables

# Each with the configuration that has it.
NETWORKS = {
    "lenet": "lenet",
    "mobilenet": "mobilenet",
    "resnet20": "resnet",
    "resnet18": "resnet",
    "densenet40_k12": "densenet",
    "densenet_bc100_k12": "densenet",
}
_FEW = ("--dataset.train_split=train[:256]", "--dataset.eval_split=test[:256]")
_STAGES = ("imports", "data", "training step", "evaluation", "initial state", "other")
_LINE = re.compile(r"^start: .+$", re.M)


def stages(line: str) -> dict[str, float]:
    """Returns the seconds by stage of the line that `train.plan.start` has made."""
    whole, _, listed = line.removeprefix("start: ").partition(": ")
    found = {name: float(number) for name, number in re.findall(r"([a-z ]+) ([\d.]+)", listed)}
    return {"all": float(whole.split()[0]), **{k.strip(): v for k, v in found.items()}}


def start(network: str, dataset: str, onednn: bool, cache: Path) -> dict[str, float]:
    """Returns the seconds by stage of one start, in a process of its own."""
    command = [sys.executable, "-m", "jaxcnn", "train", "--dry_run"]
    command += [f"--config={NETWORKS[network]}:{dataset}", f"--model.name={network}"]
    command += [f"--train.onednn={onednn}", f"--workdir={cache / 'run'}"]
    if dataset == "cifar10":
        command += _FEW
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(cache)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise UserError(f"{network}: {done.stderr.strip().splitlines()[-1]}")
    return stages(_LINE.findall(done.stdout)[0])


def measured(network: str, dataset: str, rounds: int) -> dict[str, Any]:
    """Returns {"with" or "without": {"first": stages, "later": [stages, ...]}}."""
    kinds = {"with": True, "without": False} if ops.has_onednn() else {"without": False}
    with tempfile.TemporaryDirectory() as folder:
        caches = {kind: Path(folder, kind) for kind in kinds}
        first = {k: start(network, dataset, kinds[k], cache) for k, cache in caches.items()}
        later: dict[str, list[Any]] = {kind: [] for kind in kinds}
        for _ in range(rounds):
            for kind, cache in caches.items():
                later[kind].append(start(network, dataset, kinds[kind], cache))
    return {kind: {"first": first[kind], "later": later[kind]} for kind in kinds}


def table(report: dict[str, Any]) -> str:
    """Returns the report in Markdown, a row for each network."""
    rows = []
    for network, kinds in report["networks"].items():
        row = [network]
        for kind in ("with", "without"):
            found = kinds.get(kind)
            row.append(f"{found['first']['all']:.1f}" if found else "-")
            row.append(f"{_later(found, 'all'):.1f}" if found else "-")
        rows.append([*row, *(f"{_later(kinds['without'], name):.1f}" for name in _STAGES)])
    head = ["network", "with oneDNN: first, s", "later", "without: first", "later"]
    head += [f"of it {_STAGES[0]}", *_STAGES[1:]]
    return "\n".join(
        [
            tables.markdown(head, rows),
            "",
            f"Batch 128 of {report['dataset']}; one first start, medians of {report['rounds']} "
            f"later ones; {report['machine']}, jax {report['jax']}.",
        ]
    )


def _later(found: dict[str, Any], stage: str) -> float:
    return statistics.median(each[stage] for each in found["later"])


def main() -> None:
    """Runs the program."""
    parser = reports.parser(__doc__, "start.json")
    parser.add_argument("--network", action="append", choices=list(NETWORKS), help="repeatable")
    parser.add_argument("--dataset", choices=("cifar10", "digits"), default="cifar10")
    parser.add_argument("--rounds", type=at_least(1), default=3)
    args = reports.parsed(parser, table)
    networks = {}
    for network in args.network or NETWORKS:
        networks[network] = measured(network, args.dataset, args.rounds)
        print(network, networks[network], flush=True)
    report = {"dataset": args.dataset, "rounds": args.rounds, "networks": networks}
    print(table(report | reports.made_by()))
    reports.write(args.out, report)


if __name__ == "__main__":
    cli.script(main)
