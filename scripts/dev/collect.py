r"""Collects finished runs into one JSON file and prints the README's table of them.

python scripts/dev/collect.py runs/lenet runs/mobilenet --out docs/results/cifar10.json
python scripts/dev/collect.py --table docs/results/cifar10.json \
    --speeds docs/results/cpu-steps-*.json

Speeds are not those of the runs, which other programs may have slowed down, but come from files of
scripts/bench/steps.py: float32, batch 128, the median of several files.
"""

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

from jaxcnn.errors import UserError


def collect(run: Path) -> dict[str, Any]:
    """Returns what a finished run says of itself: command-line facts, environment and result."""
    content = {}
    for name in ("config", "environment", "summary"):
        path = run / f"{name}.json"
        if not path.is_file():
            raise UserError(f"{run} is no finished run folder: it has no {name}.json")
        content[name] = json.loads(path.read_text())
    start = content["environment"]["starts"][-1]
    return {
        "run": run.name,
        "data": content["config"]["dataset"]["fingerprint"],
        "train_split": content["config"]["dataset"]["train_split"],
        "starts": len(content["environment"]["starts"]),
        **{key: start[key] for key in ("git_revision", "packages", "platform", "cpu", "cpu_count")},
        "summary": content["summary"],
    }


def speeds(files: list[Path]) -> dict[str, float]:
    """Returns training images/s of each network in files of scripts/bench/steps.py."""
    found: dict[str, list[float]] = {}
    for path in files:
        for report in json.loads(path.read_text()):
            if (report["batch_size"], report["dtype"]) == (128, "float32"):
                rate = report["results"][0]["images_per_second"]
                found.setdefault(report["network"], []).append(rate)
    return {network: statistics.median(rates) for network, rates in found.items()}


def table(results: list[dict[str, Any]], rates: dict[str, float]) -> str:
    """Returns the results as a Markdown table with a line on how they were made."""
    lines = [
        "| network | parameters | multiply-adds | epochs | training images | test accuracy "
        "| test loss | images/s |",
        "|---|--:|--:|--:|---|--:|--:|--:|",
    ]
    for result in results:
        row = result["summary"]
        rate = f"{rates[row['model']]:,.0f}" if row["model"] in rates else "-"
        lines.append(
            f"| {row['model']} | {row['parameters']:,} | {row['flops'] / 1e6:.1f} M "
            f"| {row['epoch']} | `{result['train_split']}` | {100 * row['eval_accuracy']:.2f} % "
            f"| {row['eval_loss']:.3f} | {rate} |"
        )
    first = results[0]
    copies = sorted({result["data"] for result in results})
    note = " (JPEG copy)" if any("modified" in copy for copy in copies) else ""
    lines.append(
        f"\nOne run each, {first['cpu_count']} cores of {first['cpu']}, "
        f"jax {first['packages']['jax']}, flax {first['packages']['flax']}; "
        f"data: {', '.join(copies)}{note}."
    )
    return "\n".join(lines)


def main() -> None:
    """Runs the program."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", nargs="*", type=Path, help="finished run folders")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--table", type=Path, help="print the table of this JSON file")
    parser.add_argument(
        "--speeds", type=Path, nargs="+", default=[], help="files of scripts/bench/steps.py"
    )
    args = parser.parse_args()
    try:
        if bool(args.runs) == bool(args.table):
            raise UserError("give run folders, or --table with a file that was collected before")
        if args.table:
            results = json.loads(args.table.read_text())
        else:
            results = [collect(run) for run in args.runs]
            if args.out:
                args.out.parent.mkdir(parents=True, exist_ok=True)
                args.out.write_text(json.dumps(results, indent=2) + "\n")
        print(table(results, speeds(args.speeds)))
    except UserError as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        sys.exit(f"error: {error.filename}: {error.strerror}")


if __name__ == "__main__":
    main()
