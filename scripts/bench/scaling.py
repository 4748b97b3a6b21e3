"""Measures the figures of docs/scaling.md: the cost of devices, of the input, and of calls.

python scripts/bench/scaling.py                     # all of it; writes docs/results/scaling.json
python scripts/bench/scaling.py --table             # prints the tables of that file, and ends
python scripts/bench/scaling.py --parts devices --networks lenet --steps 10

The variants that are compared take turns in one process; a figure is the median over the turns.
On the fake devices of one CPU, more devices mean overhead, not speed: they share the same cores.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

import steps

from jaxcnn import cli
from jaxcnn.commands import outfiles
from jaxcnn.commands.parser import at_least, script_parser
from jaxcnn.runtime import launch

ROOT = Path(__file__).resolve().parents[2]


PARTS = ("devices", "input", "calls")
EXAMPLES = 4096


def cases(part: str, batch: int) -> list[dict[str, Any]]:
    """Returns the variants that a part compares."""
    base = {"devices": 1, "batch": batch, "calls": 1, "constant": False}
    if part == "devices":
        whole = [{**base, "devices": n, "fixed": "global"} for n in (1, 2, 4, 8)]
        local = [{**w, "batch": batch // 8 * w["devices"], "fixed": "local"} for w in whole]
        return whole + local
    if part == "input":
        return [{**base, "constant": constant} for constant in (True, False)]
    return [{**base, "calls": calls} for calls in (1, 4, 16)]


def prepare(network: str, case: dict[str, Any]) -> tuple[Callable[[int], float], float]:
    """Compiles a variant.

    Returns:
        (turn, megabytes): `turn(steps)` trains and returns the seconds of a step; `megabytes` is
        what the compiled step takes on a device.
    """
    import jax
    import numpy as np

    from jaxcnn.config import default_config
    from jaxcnn.config.settings import Settings
    from jaxcnn.data import Dataset, Split
    from jaxcnn.runtime import sharding
    from jaxcnn.train import optim
    from jaxcnn.train.programs import Call, Programs

    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (EXAMPLES, 32, 32, 3), dtype=np.uint8)
    split = Split(images, rng.integers(0, 10, EXAMPLES).astype(np.int32))
    constant = case["constant"]
    config = default_config()
    config.model.name = network
    config.augment.crop_padding = 0 if constant else 4
    config.augment.flip = not constant
    config.train.batch_size, config.train.eval_batch_size = case["batch"], 8
    config.train.steps_per_call = case["calls"]
    dataset = Dataset(split, Split(images[:8], split.labels[:8]), tuple("abcdefghij"), "")
    settings = Settings.resolve(config, dataset)
    mesh = sharding.data_mesh(jax.devices()[: case["devices"]])
    optimizer = optim.constant_sgd(0.01, weight_decay=5e-4)
    programs = Programs(settings, settings.create_model(), optimizer, dataset, mesh)
    box = [programs.init()]
    # One batch, which lies on the devices already, not augmented; else all that training does.
    (first,) = programs.calls(np.zeros((case["calls"], case["batch"]), np.int32))

    def turn(steps: int) -> float:
        order = rng.integers(0, EXAMPLES, (steps, case["batch"]), dtype=np.int32)
        calls: Iterable[Call] = [first] * (steps // case["calls"])
        began = time.perf_counter()
        for call in calls if constant else programs.calls(order):
            box[0] = programs.train(box[0], call)
        jax.block_until_ready(box[0])
        return (time.perf_counter() - began) / steps

    turn(case["calls"])
    analysis: Any = programs.train_program.memory_analysis()
    used = analysis.argument_size_in_bytes + analysis.temp_size_in_bytes
    return turn, used / 1e6


def child(part: str, network: str, batch: int, turns: int, steps: int) -> None:
    """Measures the variants of a part for a network, and prints them as JSON."""
    import jax

    from jaxcnn.runtime import compilation_cache, memory

    memory.configure_malloc()
    compilation_cache.use_compilation_cache()
    variants = cases(part, batch)
    prepared = [prepare(network, case) for case in variants]
    seconds: list[list[float]] = [[] for _ in variants]
    for _ in range(turns):
        for measured, (turn, _) in zip(seconds, prepared, strict=True):
            measured.append(turn(steps))
    for case, measured, (_, megabytes) in zip(variants, seconds, prepared, strict=True):
        row = {"network": network, **case, "device_mb": round(megabytes, 2)}
        row |= {"step_ms": round(1e3 * statistics.median(measured), 3)}
        row |= {"fastest_ms": round(1e3 * min(measured), 3), "turns": turns, "steps": steps}
        print(json.dumps({**row, "device": jax.devices()[0].device_kind}), flush=True)


def measure(
    part: str, network: str, options: argparse.Namespace, devices: int | None
) -> list[dict[str, Any]]:
    """Returns the results of a part for a network, measured in a child process."""
    command = [sys.executable, str(Path(__file__).resolve()), f"--child={part},{network}"]
    numbers = [f"--{key}={getattr(options, key)}" for key in ("batch", "turns", "steps")]
    done = subprocess.run(
        [*command, *numbers],
        env=launch.environment(0, devices, False),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


def table(results: dict[str, list[dict[str, Any]]]) -> str:
    """Returns the results as Markdown tables."""
    if not set(PARTS) & set(results):
        raise ValueError(f"none of {', '.join(PARTS)}")
    lines = ["| network | constant | devices | batch | ms a step | MB a device |"]
    lines.append("|---|---|--:|--:|--:|--:|")
    for row in results.get("devices", []):
        lines.append(
            f"| {row['network']} | {row['fixed']} | {row['devices']} | {row['batch']} "
            f"| {row['step_ms']:.1f} | {row['device_mb']:.1f} |"
        )
    lines += ["", "| network | constant batch, ms | real data, ms | ratio |", "|---|--:|--:|--:|"]
    rows = results.get("input", [])
    for constant, real in zip(rows[::2], rows[1::2], strict=True):
        ratio = real["step_ms"] / constant["step_ms"]
        lines.append(
            f"| {real['network']} | {constant['step_ms']:.2f} | {real['step_ms']:.2f} "
            f"| {ratio:.3f} |"
        )
    lines += ["", "| network | steps a call | ms a step | gain |", "|---|--:|--:|--:|"]
    single: dict[str, float] = {}
    for row in results.get("calls", []):
        one = single.setdefault(row["network"], row["step_ms"])
        gain = one / row["step_ms"] - 1
        lines.append(f"| {row['network']} | {row['calls']} | {row['step_ms']:.2f} | {gain:+.1%} |")
    return "\n".join(lines)


def main() -> None:
    """Parses the command line, measures, prints the tables and writes the result."""
    parser = script_parser(__doc__)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--networks", nargs="+", help="instead of those of each part")
    parser.add_argument("--batch", type=at_least(1), default=128)
    parser.add_argument("--turns", type=at_least(1), default=9)
    parser.add_argument("--steps", type=at_least(1), default=16, help="of a turn, a multiple of 16")
    parser.add_argument("--real", action="store_true", help="the machine's own devices, not fake")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "results" / "scaling.json")
    parser.add_argument(
        "--table", action="store_true", help="print the tables of --output, and end"
    )
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child is not None:
        part, network = options.child.split(",")
        child(part, network, options.batch, options.turns, options.steps)
        return
    content: dict[str, Any] = {}
    if options.table or options.output.exists():
        content, text = outfiles.read(options.output, lambda found: (found, table(found)))
    if not options.table:
        outfiles.check_folder("--output", options.output.parent, [options.output.name])
        networks = {
            "devices": ["lenet", "mobilenet"],
            "input": ["mobilenet", "resnet18"],
            "calls": ["lenet", "mobilenet"],
        }
        for part in options.parts:
            devices = None if options.real else 8 if part == "devices" else 1
            content[part] = []
            for network in steps.known(options.networks or networks[part]):
                content[part] += measure(part, network, options, devices)
        content |= {"jax": metadata.version("jax"), "cpu_count": os.cpu_count()}
        options.output.parent.mkdir(parents=True, exist_ok=True)
        text = table(content)
        outfiles.write("--output", options.output, json.dumps(content, indent=1) + "\n")
    print(text)


if __name__ == "__main__":
    cli.script(main)
