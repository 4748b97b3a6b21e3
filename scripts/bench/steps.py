"""How fast a training step is, alone or against PyTorch and stock Flax, in one interleaved run.

    python scripts/bench/steps.py --network resnet18 --peer torch --peer flax
    python scripts/bench/steps.py --config configs/mobilenet.py --batch_size 512 --dtype bfloat16
    python scripts/bench/steps.py --table docs/results/cpu-steps-*.json

Contenders run the same step (see workers.py) in processes of their own that take turns,
so a busy moment of the machine meets all of them. `--peer torch` adds PyTorch eager (channels_last)
and `torch.compile`, and needs `pip install jaxcnn[bench]`; `--peer flax` adds the same flax network
with `lax.conv_general_dilated` and flax's pooling and batch norm; `--peer without_onednn` adds
jaxcnn itself without oneDNN. Prints a table; `--out` also
writes JSON.
Exits with 1 if jaxcnn is less than twice as fast as stock Flax on a CPU.
"""

import functools
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from jaxcnn import cli, models, ops
from jaxcnn.commands import config_flag, outfiles
from jaxcnn.commands.parser import at_least, script_parser
from jaxcnn.errors import UserError
from jaxcnn.runtime import environment

CONTENDERS = {
    "torch": ("torch_eager", "torch_compile"),
    "flax": ("flax",),
    "without_onednn": ("without_onednn",),
}
LEAST_RATIO_TO_FLAX = 2.0
ROOT = Path(__file__).parents[2]


class Contender:
    """A process that answers each `{"steps": n}` with the seconds of n training steps."""

    def __init__(self, spec: dict[str, Any], root: Path = ROOT) -> None:
        """Starts the process, of the source tree `root`, and waits until its first step is done."""
        threads = {name: str(spec["threads"]) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
        self.spec = spec
        self.process = subprocess.Popen(
            [sys.executable, str(_worker_of(root))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **threads, "PYTHONPATH": str(root)},
        )
        self.facts = self.ask(spec)
        self.seconds: list[float] = []
        self.handovers: list[float | None] = []
        self.peak_bytes = 0

    def ask(self, message: dict[str, Any]) -> dict[str, Any]:
        """Sends one line and returns the answer."""
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps(message) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise SystemExit(f"{self.spec['contender']} ended early; see its message above")
        return json.loads(answer)

    def run(self, steps: int) -> None:
        """Takes `steps` steps and keeps their median, and how near the cores are just before."""
        self.handovers.append(handover())
        answer = self.ask({"steps": steps})
        self.seconds.append(statistics.median(answer["seconds"]))
        self.peak_bytes = answer["peak_bytes"]

    def close(self) -> None:
        """Ends the process."""
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()

    def result(self) -> dict[str, Any]:
        """What was measured, for the JSON file."""
        median = statistics.median(self.seconds)
        return {
            **self.facts,
            "contender": self.spec["contender"],
            "step_seconds": median,
            "images_per_second": self.spec["batch_size"] / median,
            "round_seconds": self.seconds,
            "handover_bytes_per_second": self.handovers,
            "peak_bytes": self.peak_bytes,
        }


def _worker_of(root: Path) -> Path:
    """Returns a source tree's own worker; revisions up to 77ec5f3 keep it under its old name."""
    old = root / "scripts" / "benchmark_workers.py"
    return old if old.exists() else root / "scripts" / "bench" / "workers.py"


def handover() -> float | None:
    """Bytes a second at which one core reads what another wrote, or None with a single core.

    On a virtual machine it changes with the physical cores on which the host runs the virtual ones:
    those with a common third-level cache are quicker.
    """
    cores = sorted(os.sched_getaffinity(0))[:2]
    if len(cores) < 2:
        return None
    source, target = np.zeros((2, 1 << 20), np.float32)
    seconds = []

    def read() -> None:
        begin = time.perf_counter()
        np.copyto(target, source)
        seconds.append(time.perf_counter() - begin)

    def on(core: int, function: Callable[[], None]) -> None:
        def pinned() -> None:
            os.sched_setaffinity(0, {core})  # Of this thread alone.
            function()

        thread = threading.Thread(target=pinned)
        thread.start()
        thread.join()

    for turn in range(9):
        on(cores[0], functools.partial(source.fill, turn))
        on(cores[1], read)
    return source.nbytes / statistics.median(seconds)


def take_turns(running: list[Contender], rounds: int) -> list[dict[str, Any]]:
    """Times steps of all contenders in turn, ends them and returns what was measured of each."""
    try:
        steps = []
        for contender in running:  # Warm up, and see how many steps fill half a second.
            contender.run(2)
            steps.append(max(1, min(100, round(0.5 / contender.seconds[-1]))))
            contender.seconds.clear()
            contender.handovers.clear()
        for _ in range(rounds):
            for contender, count in zip(running, steps, strict=True):
                time.sleep(0.3)  # Threads of the last contender stop spinning.
                contender.run(count)
        return [contender.result() for contender in running]
    finally:
        for contender in running:
            contender.close()


def measure(spec: dict[str, Any], contenders: list[str], rounds: int) -> dict[str, Any]:
    """Runs all contenders and returns what was measured and the ratios."""
    results = take_turns([Contender({**spec, "contender": name}) for name in contenders], rounds)
    counts = {result["parameters"] for result in results}
    if len(counts) != 1:
        raise SystemExit(f"the networks differ: parameter counts {sorted(counts)}")
    ours = results[0]["images_per_second"]
    best = {
        peer: max(r["images_per_second"] for r in results if r["contender"].startswith(peer))
        for peer in CONTENDERS
        if any(r["contender"].startswith(peer) for r in results)
    }
    return {
        **spec,
        "rounds": rounds,
        "machine": environment.machine(),
        "git_revision": environment.git_revision(),
        "onednn": ops.has_onednn(),
        "python": platform.python_version(),
        "load_average": os.getloadavg()[0],
        "results": results,
        "ratios": {peer: ours / rate for peer, rate in best.items()},
    }


def table(report: dict[str, Any]) -> str:
    """The report as text, a line for each contender."""
    lines = [
        f"{report['network']}, batch {report['batch_size']}, {report['dtype']}, "
        f"{report['threads']} threads, medians of {report['rounds']}",
        f"{'':14}{'images/s':>10}{'ms/step':>10}{'first s':>9}{'compile s':>10}{'peak MB':>9}",
    ]
    for r in report["results"]:
        compiled = f"{r['compile_seconds']:.1f}" if r["compile_seconds"] else "-"
        lines.append(
            f"{r['contender']:14}{r['images_per_second']:10.1f}{1e3 * r['step_seconds']:10.1f}"
            f"{r['first_step_seconds']:9.1f}{compiled:>10}{r['peak_bytes'] / 2**20:9.0f}"
        )
    for peer, ratio in report["ratios"].items():
        lines.append(f"ratio to {peer}: {ratio:.2f}")
    return "\n".join(lines)


def markdown(files: list[Path]) -> str:
    """The ratios of files that `--out` wrote, a line for each network, batch and dtype.

    Of several runs of the same the lowest and the highest ratio are given.
    """
    runs: dict[tuple[str, int, str], list[dict[str, Any]]] = {}
    for file in files:
        for report in outfiles.read(file, _checked):
            key = report["network"], report["batch_size"], report["dtype"]
            runs.setdefault(key, []).append(report)
    return _markdown(runs)


def _checked(reports: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns the reports of a file, of which each alone can be printed."""
    if not reports:
        raise ValueError("there is none")
    for report in reports:
        _markdown({(report["network"], report["batch_size"], report["dtype"]): [report]})
    return reports


def _markdown(runs: dict[tuple[str, int, str], list[dict[str, Any]]]) -> str:
    lines = [
        "| network | batch | runs | images/s | to PyTorch | to stock Flax | to without oneDNN "
        "| compile s | peak MB | PyTorch's |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for (network, batch, dtype), reports in runs.items():
        ours = [report["results"][0] for report in reports]
        torch = [
            result["peak_bytes"] / 2**20
            for report in reports
            for result in report["results"]
            if result["contender"] == "torch_eager"
        ]
        columns = [
            network if dtype == "float32" else f"{network} ({dtype})",
            str(batch),
            str(len(reports)),
            _span([r["images_per_second"] for r in ours], ",.0f"),
            *(
                _span([r["ratios"][peer] for r in reports if peer in r["ratios"]], ".2f")
                for peer in CONTENDERS
            ),
            _span([r["compile_seconds"] for r in ours], ".0f"),
            _span([r["peak_bytes"] / 2**20 for r in ours], ",.0f"),
            _span(torch, ",.0f"),
        ]
        lines.append("| " + " | ".join(columns) + " |")
    machines = sorted({report["machine"] for reports in runs.values() for report in reports})
    handovers = [
        rate / 1e9
        for reports in runs.values()
        for report in reports
        for rate in report["results"][0].get("handover_bytes_per_second", [])
        if rate
    ]
    notes = ["; ".join(machines)]
    if handovers:
        notes.append(f"what one wrote, the other read at {_span(handovers, '.0f')} GB/s")
    return "\n".join([*lines, "", "; ".join(notes)])


def _span(numbers: list[float], form: str) -> str:
    if not numbers:
        return "-"
    low, high = format(min(numbers), form), format(max(numbers), form)
    return low if low == high else f"{low} to {high}"


def known(networks: Iterable[str]) -> list[str]:
    """Returns the names of networks; UserError for one that there is not."""
    for name in (names := list(networks)):
        models.create(name)
    return names


def check_peers(peers: Iterable[str]) -> None:
    """Raises UserError if a library to compare with is not installed."""
    if "torch" in peers and importlib.util.find_spec("torch") is None:
        raise UserError(
            "--peer torch needs PyTorch: install it with pip install 'jaxcnn[bench]', or leave "
            "--peer torch out"
        )


def main() -> int:
    """Runs the program; returns its exit code."""
    parser = script_parser(__doc__)
    parser.add_argument("--network", action="append", help="name from jaxcnn.models; repeatable")
    parser.add_argument("--config", help="name or file of a configuration whose network is taken")
    parser.add_argument("--batch_size", type=at_least(1), default=128)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--peer", action="append", choices=list(CONTENDERS), default=[])
    parser.add_argument(
        "--rounds",
        type=at_least(5),
        default=7,
        help="rounds of which medians are taken, at least 5",
    )
    parser.add_argument("--threads", type=at_least(1), default=len(os.sched_getaffinity(0)))
    parser.add_argument(
        "--keep_memory",
        action="store_true",
        help="the peers keep freed memory between steps as well, as jaxcnn does",
    )
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument(
        "--table", nargs="+", type=Path, help="prints such files as Markdown and measures nothing"
    )
    args = parser.parse_args()
    if args.table:
        print(markdown(args.table))
        return 0
    networks = args.network or []
    if args.config:
        networks.append(config_flag.load(args.config).model.name)
    if not networks:
        parser.error("say which network: --network NAME or --config FILE")
    known(networks)
    check_peers(args.peer)
    if args.out:
        outfiles.check_file("--out", args.out, (".json", ""))
    contenders = ["jaxcnn", *(name for peer in args.peer for name in CONTENDERS[peer])]
    reports, slow = [], False
    for network in networks:
        spec = {
            "network": network,
            "batch_size": args.batch_size,
            "dtype": args.dtype,
            "threads": args.threads,
            "keep_memory": args.keep_memory,
        }
        report = measure(spec, contenders, args.rounds)
        reports.append(report)
        print(table(report), flush=True)
        on_cpu = report["results"][0]["device"].startswith("cpu")
        slow |= on_cpu and report["ratios"].get("flax", LEAST_RATIO_TO_FLAX) < LEAST_RATIO_TO_FLAX
        if args.out:
            outfiles.write("--out", args.out, json.dumps(reports, indent=1) + "\n")
    if slow:
        print(f"error: less than {LEAST_RATIO_TO_FLAX} times stock Flax", file=sys.stderr)
    return int(slow)


if __name__ == "__main__":
    cli.script(main)
