"""Whether one version of this project trains, and compiles, as fast as another.

    python scripts/bench/pairs.py 77ec5f3 HEAD --out docs/results/pairs.json
    python scripts/bench/pairs.py 77ec5f3 HEAD --network lenet --rounds 15 --compiles 7
    python scripts/bench/pairs.py --table docs/results/pairs.json

Both versions are checked out into folders of their own. Their training steps take turns, and each
round gives one ratio, second version over first; then they are started anew by turns, and each pair
of starts gives one ratio of the seconds of compilation. The medians are what counts: above 1 the
second version is slower.
"""

import json
import os
import statistics
from pathlib import Path
from typing import Any

import checkouts
import steps

from jaxcnn import cli
from jaxcnn.commands import outfiles
from jaxcnn.commands.parser import at_least, script_parser
from jaxcnn.runtime import environment

NETWORKS = ("lenet", "mobilenet", "resnet18", "densenet40_k12", "densenet_bc100_k12")


def measure(
    network: str, trees: tuple[Path, Path], batch: int, rounds: int, compiles: int
) -> dict[str, Any]:
    """Ratios of the second version to the first: of steps, and of compilations."""
    spec = {
        "network": network,
        "contender": "jaxcnn",
        "batch_size": batch,
        "dtype": "float32",
        "threads": len(os.sched_getaffinity(0)),
        "keep_memory": True,
    }
    results = steps.take_turns([steps.Contender(spec, tree) for tree in trees], rounds)
    first, second = (result["round_seconds"] for result in results)
    compilations: list[list[float]] = []
    for turn in range(compiles):
        pair = [0.0, 0.0]
        for index in (0, 1) if turn % 2 == 0 else (1, 0):  # neither is always the first
            contender = steps.Contender(spec, trees[index])
            pair[index] = contender.facts["compile_seconds"]
            contender.close()
        compilations.append(pair)
    return {
        "step_seconds": [result["step_seconds"] for result in results],
        "peak_bytes": [result["peak_bytes"] for result in results],
        "step_ratios": [b / a for a, b in zip(first, second, strict=True)],
        "compile_seconds": compilations,
        "compile_ratios": [b / a for a, b in compilations],
    }


def table(report: dict[str, Any]) -> str:
    """The report in Markdown."""
    lines = [
        "| network | step ms | ratio (middle half) | compile s | ratio (middle half) |",
        "|---|--:|--:|--:|--:|",
    ]
    for network, row in report["networks"].items():
        step = " / ".join(f"{1e3 * seconds:,.1f}" for seconds in row["step_seconds"])
        compiled = " / ".join(
            f"{statistics.median(column):.1f}"
            for column in zip(*row["compile_seconds"], strict=True)
        )
        lines.append(
            f"| {network} | {step} | {_spread(row['step_ratios'])} | {compiled} | "
            f"{_spread(row['compile_ratios'])} |"
        )
    (first, second), note = report["versions"], report
    lines.append(
        f"\n{second} over {first}: medians of {note['rounds']} rounds and {note['compiles']} pairs "
        f"of starts, batch {note['batch_size']}, float32, jax {note['jax']}, {note['machine']}."
    )
    return "\n".join(lines)


def _spread(ratios: list[float]) -> str:
    low, middle, high = statistics.quantiles(ratios, n=4)
    return f"{middle:.3f} ({low:.3f} to {high:.3f})"


def main() -> int:
    """Runs the program; returns its exit code."""
    parser = script_parser(__doc__)
    parser.add_argument("version", nargs="*", help="two git revisions")
    parser.add_argument("--network", action="append", help="repeatable")
    parser.add_argument("--batch_size", type=at_least(1), default=128)
    parser.add_argument("--rounds", type=int, default=11, help="rounds of steps")
    parser.add_argument("--compiles", type=int, default=5, help="pairs of starts")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--table", type=Path, help="print the table of such a file, no more")
    args = parser.parse_args()
    if args.table:
        print(outfiles.read(args.table, table))
        return 0
    if len(args.version) != 2 or args.rounds < 2 or args.compiles < 2:
        parser.error("give two revisions, and at least 2 rounds and pairs")
    networks = steps.known(args.network or NETWORKS)
    if args.out:
        outfiles.check_file("--out", args.out, (".json", ""))
    import jax

    report: dict[str, Any] = {
        "versions": [checkouts.git("rev-parse", "--short=7", version) for version in args.version],
        "machine": environment.machine(),
        "jax": jax.__version__,
        "batch_size": args.batch_size,
        "rounds": args.rounds,
        "compiles": args.compiles,
        "networks": {},
    }
    with checkouts.checked_out(report["versions"]) as (first, second):
        for network in networks:
            report["networks"][network] = measure(
                network, (first, second), args.batch_size, args.rounds, args.compiles
            )
            print(table({**report, "networks": {network: report["networks"][network]}}))
            if args.out:
                outfiles.write("--out", args.out, json.dumps(report, indent=1) + "\n")
    print(table(report))
    return 0


if __name__ == "__main__":
    cli.script(main)
