"""How fast each version of this project was, on today's machine, in one interleaved run.

    python scripts/bench/history.py --out docs/results/cpu-history.json
    python scripts/bench/history.py --network lenet 13088df HEAD
    python scripts/bench/history.py --table docs/results/cpu-history.json

Each version is checked out into a folder of its own, and its own training step is timed (see
steps.py). A few at a time take turns, because all of them would not fit into memory, and the last
version is always among them: results are ratios of a version's step time to that of the last one.
Without arguments: the versions of docs/cpu-history.md.
"""

import json
import os
from pathlib import Path
from typing import Any

import checkouts
import steps

from jaxcnn import cli
from jaxcnn.commands import outfiles
from jaxcnn.commands.parser import at_least, script_parser
from jaxcnn.runtime import environment

VERSIONS = (
    "bba18d2",
    "f17c4d7",
    "13088df",
    "8ea1ab7",
    "190a22c",
    "0702ebc",
    "68a670b",
    "a6eade3",
    "ac16b35",
    "faf4d0a",
    "595e08a",
    "2f6a175",
    "c4de9f3",
    "7d91b35",
    "bf6c946",
    "9b41e56",
    "d2bb846",
    "531a3d9",
    "02e43cf",
)
AT_ONCE = 4
NETWORKS = ("lenet", "mobilenet", "resnet18", "densenet40_k12")


def measure(network: str, trees: dict[str, Path], rounds: int) -> dict[str, Any]:
    """The step of each version, and how many times as long as the last one's it takes."""
    spec = {
        "network": network,
        "contender": "jaxcnn",
        "batch_size": 128,
        "dtype": "float32",
        "threads": len(os.sched_getaffinity(0)),
        "keep_memory": True,
    }
    *earlier, last = trees
    measured: dict[str, Any] = {}
    for first in range(0, len(earlier), AT_ONCE - 1):
        group = [*earlier[first : first + AT_ONCE - 1], last]
        running = [steps.Contender(spec, trees[version]) for version in group]
        results = steps.take_turns(running, rounds)
        for version, result in zip(group, results, strict=True):
            keys = ("step_seconds", "compile_seconds", "peak_bytes")
            measured[version] = {key: result[key] for key in keys}
            measured[version]["times_last"] = result["step_seconds"] / results[-1]["step_seconds"]
    return measured


def table(report: dict[str, Any]) -> str:
    """The report in Markdown."""
    networks = list(report["networks"])
    lines = ["| version | " + " | ".join(networks) + " |", "|---|" + "--:|" * len(networks)]
    for version, title in report["versions"].items():
        times = (f"{report['networks'][name][version]['times_last']:.2f}" for name in networks)
        lines.append(f"| {version} {title} | " + " | ".join(times) + " |")
    lines.append("")
    lines.append(
        f"Times the last version's step, batch 128, float32, medians of {report['rounds']} rounds, "
        f"{report['machine']}."
    )
    return "\n".join(lines)


def main() -> int:
    """Runs the program; returns its exit code."""
    parser = script_parser(__doc__)
    parser.add_argument("version", nargs="*", default=list(VERSIONS), help="git revisions")
    parser.add_argument("--network", action="append", help="repeatable")
    parser.add_argument(
        "--rounds", type=at_least(1), default=5, help="rounds of which medians are taken"
    )
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument(
        "--table", type=Path, help="prints the table of such a file; measures nothing"
    )
    args = parser.parse_args()
    if args.table:
        print(outfiles.read(args.table, table))
        return 0
    networks = steps.known(args.network or NETWORKS)
    if args.out:
        outfiles.check_file("--out", args.out, (".json", ""))
    report: dict[str, Any] = {
        "machine": environment.machine(),
        "rounds": args.rounds,
        "versions": {v: checkouts.git("log", "-1", "--format=%s", v) for v in args.version},
        "networks": {},
    }
    with checkouts.checked_out(args.version) as folders:
        trees = dict(zip(args.version, folders, strict=True))
        for network in networks:
            report["networks"][network] = measure(network, trees, args.rounds)
            if args.out:
                outfiles.write("--out", args.out, json.dumps(report, indent=1) + "\n")
    print(table(report))
    return 0


if __name__ == "__main__":
    cli.script(main)
