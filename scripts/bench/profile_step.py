"""Where the time of a training step goes on the CPU, by kind of work.

    python scripts/bench/profile_step.py --network resnet18 --out docs/results/cpu-profile.json
    python scripts/bench/profile_step.py --table docs/results/cpu-profile.json

XLA's runtime reports to JAX's profiler when each operation of a program runs. A moment is counted
for the operation that runs then; of several, for the longest; if none is seen (a loop on other
threads), for the one that began last. The step is that of steps.py, a little slower for profiling.
"""

import collections
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import steps
from workers import build_jax

from jaxcnn import cli
from jaxcnn.commands import outfiles
from jaxcnn.commands.parser import at_least, script_parser
from jaxcnn.runtime import environment, memory

STEPS = 5
# Parts of names of operations; the first that is found decides.
KINDS = {
    "onednn$matmul": "oneDNN's products",
    "onednn$convolution": "oneDNN's convolutions",
    "combine": "Winograd's transforms",
    "ynn_fusion": "YNNPACK's sums",
    "dot": "XLA's products",
    "conv_general_dilated": "XLA's convolutions",
}
OTHERS = "XLA's other loops"
COLUMNS = (*KINDS.values(), OTHERS)
# What only contains operations, or is none.
_CONTAINERS = (
    "ThunkExecutor",
    "ThreadpoolListener",
    "while",
    "cond",
    "call",
    "end:",
    "$",
    "Python",
)
_PROGRAM = "ThunkExecutor::Execute (wait for completion)"

Event = tuple[float, float, str]


def kind_of(name: str) -> str:
    """The kind of work of an operation."""
    return next((kind for part, kind in KINDS.items() if part in name), OTHERS)


def events_of(folder: Path) -> list[Event]:
    """Returns (begin, end, name), in seconds, of each CPU event in the profile in `folder`."""
    file = next(folder.rglob("*.xplane.pb"))
    profile = jax.profiler.ProfileData.from_file(str(file))
    return sorted(
        (event.start_ns / 1e9, (event.start_ns + event.duration_ns) / 1e9, event.name)
        for plane in profile.planes
        for line in plane.lines
        for event in line.events
    )


def moments(events: list[Event], begin: float, end: float) -> Iterator[tuple[str, float]]:
    """Names of operations and the seconds for which each was the one that counts."""
    turns = [(e[0], 1, e) for e in events] + [(e[1], 0, e) for e in events]
    running: set[Event] = set()
    last = ""
    before = begin
    for at, starts, event in sorted(turns):
        current = max(running, key=lambda e: e[1] - e[0])[2] if running else last
        yield current, at - before
        before = at
        if starts:
            running.add(event)
            last = event[2]
        else:
            running.discard(event)
    yield last, end - before


def median_step(events: list[Event]) -> tuple[float, float, list[Event]]:
    """Returns begin, end and operations of the step of median length.

    The step is the program with the most operations; the others only hand its arguments over, which
    on a busy machine may take longer than the step.
    """
    work = [e for e in events if not e[2].startswith(_CONTAINERS)]
    programs = []
    for begin, end, name in events:
        if name == _PROGRAM:
            programs.append((begin, end, [e for e in work if begin <= e[0] and e[1] <= end]))
    most = max(len(inside) for *_, inside in programs)
    taken = sorted((p for p in programs if 2 * len(p[2]) > most), key=lambda p: p[1] - p[0])
    return taken[len(taken) // 2]


def profile(network: str, batch_size: int) -> dict[str, Any]:
    """Seconds of a step for each kind of work: of the step of median length among a few."""
    spec = {
        "network": network,
        "contender": "jaxcnn",
        "batch_size": batch_size,
        "dtype": "float32",
    }
    step, _ = build_jax(spec)
    for index in range(3):
        step(index)
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for index in range(STEPS):
                step(index)
        events = events_of(Path(folder))
    begin, end, inside = median_step(events)
    seconds: dict[str, float] = collections.defaultdict(float)
    for name, duration in moments(inside, begin, end):
        seconds[kind_of(name)] += duration
    return {
        "network": network,
        "batch_size": batch_size,
        "machine": environment.machine(),
        "git_revision": environment.git_revision(),
        "jax": jax.__version__,
        "step_seconds": end - begin,
        "operations": len(inside),
        "seconds": seconds,
    }


def table(reports: list[dict[str, Any]]) -> str:
    """The reports in Markdown, in hundredths of the step; ValueError if there is none."""
    if not reports:
        raise ValueError("there is none")
    lines = [
        "| network | ms | operations | " + " | ".join(COLUMNS) + " |",
        "|---|" + "--:|" * (2 + len(COLUMNS)),
    ]
    for report in reports:
        total = report["step_seconds"]
        shares = (f"{report['seconds'].get(kind, 0) / total:.0%}" for kind in COLUMNS)
        lines.append(
            f"| {report['network']} | {1e3 * total:,.1f} | {report['operations']:,} | "
            + " | ".join(shares)
            + " |"
        )
    machines = sorted({report["machine"] for report in reports})
    sizes = sorted({str(report["batch_size"]) for report in reports})
    lines += ["", f"Batch {', '.join(sizes)}, float32, one step each, {'; '.join(machines)}."]
    return "\n".join(lines)


def main() -> int:
    """Runs the program; returns its exit code."""
    parser = script_parser(__doc__)
    parser.add_argument("--network", action="append", default=[], help="repeatable")
    parser.add_argument("--batch_size", type=at_least(1), default=128)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument(
        "--table", type=Path, help="prints the table of such a file; measures nothing"
    )
    args = parser.parse_args()
    if args.table:
        print(outfiles.read(args.table, table))
        return 0
    if not args.network:
        parser.error("say which network: --network NAME")
    networks = steps.known(args.network)
    if args.out:
        outfiles.check_file("--out", args.out, (".json", ""))
    memory.configure_malloc()
    reports = [profile(network, args.batch_size) for network in networks]
    print(table(reports))
    if args.out:
        outfiles.write("--out", args.out, json.dumps(reports, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    cli.script(main)
