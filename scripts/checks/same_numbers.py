r"""Shows that two versions of this program give the same numbers, byte for byte.

python scripts/checks/same_numbers.py compare RUN_FOLDER OTHER_RUN_FOLDER
python scripts/checks/same_numbers.py run --base ../base --data_dir ~/tensorflow_datasets
python scripts/checks/same_numbers.py run --base ../base --only lenet-digits mobilenet-digits

`compare` reads the newest checkpoint of two run folders (every array, by name) and their
metrics.jsonl (all but `seconds` and `images_per_second`).

`run` trains each of CASES with the program of another checkout, `--base`, and with this one, and
compares the two run folders. It then takes a run that the base was stopped in by SIGTERM after its
first epoch, continues it with this program, and compares its end with the base's uninterrupted run.
What the base has trained is kept in `--keep` and used again, so that only the first call takes
long. CIFAR-10 must be prepared beforehand.

Exits with 1 if anything differs.
"""

import argparse
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxcnn import cli
from jaxcnn.commands import outfiles
from jaxcnn.run.checkpoint import Checkpoints
from jaxcnn.run.folder import RunDir
from jaxcnn.runtime import environment

ROOT = Path(__file__).resolve().parents[2]
CLOCK = ("seconds", "images_per_second")


class Case(NamedTuple):
    """One configuration that both versions train.

    Attributes:
        arguments: For `python -m jaxcnn.main`; files in configs/ are those of each version.
        devices: CPU devices of the process.
    """

    arguments: tuple[str, ...]
    devices: int = 1


CONFIGS = {
    "lenet": "configs/lenet.py",
    "resnet20": "configs/resnet.py",
    "densenet40_k12": "configs/densenet.py",
    "mobilenet": "configs/mobilenet.py",
}


def _digits(network: str, *more: str) -> tuple[str, ...]:
    return (
        f"--config={CONFIGS[network]}:digits",
        f"--config.model.name={network}",
        "--config.train.epochs=3",
        "--config.train.plots=False",
        *more,
    )


def _cifar10(network: str) -> tuple[str, ...]:
    return (
        f"--config={CONFIGS[network]}",
        f"--config.model.name={network}",
        "--config.train.epochs=2",
        "--config.train.plots=False",
        "--config.dataset.train_split=train[:2560]",
        "--config.dataset.eval_split=test[:1000]",
    )


CASES = {
    **{f"{network}-digits": Case(_digits(network)) for network in CONFIGS},
    **{f"{network}-cifar10": Case(_cifar10(network)) for network in CONFIGS},
    # Everything that changes the compiled step, at once.
    "mobilenet-options": Case(
        _digits(
            "mobilenet",
            "--config.optim.name=adamw",
            "--config.optim.peak_lr=0.003",
            "--config.optim.clip_norm=1.0",
            "--config.train.remat=True",
            "--config.train.ema_decay=0.9",
            "--config.train.steps_per_call=4",
            "--config.train.data_gigabytes=0.0",
            "--config.train.on_nonfinite=skip",
        )
    ),
    "resnet20-devices": Case(_digits("resnet20", "--config.train.shard_optimizer=True"), devices=2),
}


class Version(NamedTuple):
    """A checkout of the program and the interpreter that runs it."""

    root: Path
    python: Path

    def revision(self) -> str:
        """Returns the short git revision, with a plus sign if files were changed since."""
        git = ["git", "-C", str(self.root)]
        show = [*git, "rev-parse", "--short", "HEAD"]
        revision = subprocess.run(show, check=True, capture_output=True, text=True).stdout.strip()
        changed = subprocess.run([*git, "diff", "--quiet", "HEAD", "--", "jaxcnn", "configs"])
        return revision + ("+" if changed.returncode else "")

    def start(self, case: Case, workdir: Path, data_dir: str) -> subprocess.Popen[str]:
        """Starts a training of `case` in `workdir`, with the program's output in a pipe."""
        flags = f"--xla_force_host_platform_device_count={case.devices}"
        data = [f"--config.dataset.data_dir={data_dir}"] if data_dir else []
        return subprocess.Popen(
            [
                *(str(self.python), "-m", "jaxcnn.main", *case.arguments, *data),
                f"--workdir={workdir.absolute()}",
            ],
            cwd=self.root,
            env={
                **os.environ,
                "JAX_PLATFORMS": "cpu",
                "PYTHONPATH": str(self.root),
                "XLA_FLAGS": flags if case.devices > 1 else "",
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def train(self, case: Case, workdir: Path, data_dir: str) -> None:
        """Trains to the end.

        Raises:
            SystemExit: If the program fails.
        """
        process = self.start(case, workdir, data_dir)
        output, _ = process.communicate()
        if process.returncode:
            raise SystemExit(f"{workdir}: exit code {process.returncode}\n{output}")

    def train_half(self, case: Case, workdir: Path, data_dir: str) -> None:
        """Trains until the first epoch is reported, then sends SIGTERM.

        Raises:
            SystemExit: If the program does anything but save and stop.
        """
        lines = []
        with self.start(case, workdir, data_dir) as process:
            assert process.stdout is not None
            for line in process.stdout:
                lines.append(line)
                if line.startswith("epoch 1"):
                    process.send_signal(signal.SIGTERM)
        if process.returncode != 128 + signal.SIGTERM:
            raise SystemExit(f"{workdir}: exit code {process.returncode}\n{''.join(lines)}")


def newest_arrays(run: Path) -> dict[str, np.ndarray]:
    """Returns the arrays of a run's newest checkpoint by name.

    Raises:
        SystemExit: If there is no checkpoint.
    """
    checkpoints = Checkpoints(run / "checkpoints")
    step = checkpoints.latest_step()
    if step is None:
        raise SystemExit(f"error: {run} has no checkpoint")
    return checkpoints.arrays(step)


def compare(a: Path, b: Path) -> dict[str, Any]:
    """Compares two run folders.

    Returns:
        `equal`; `arrays` and `epochs`, how many were compared; `differing`, for each array that is
        not the same its largest absolute difference (None if it is in one run only or of another
        shape or dtype) and for each metric that is not the same, "metrics/LINE/KEY", both values.
    """
    ours, theirs = newest_arrays(a), newest_arrays(b)
    differing: dict[str, Any] = {}
    for name in sorted(ours.keys() | theirs.keys()):
        x, y = ours.get(name), theirs.get(name)
        if x is None or y is None or (x.shape, x.dtype) != (y.shape, y.dtype):
            differing[name] = None
        elif x.tobytes() != y.tobytes():
            differing[name] = float(np.max(np.abs(x.astype(np.float64) - y.astype(np.float64))))
    records = [RunDir(run).read_metrics() for run in (a, b)]
    pairs = itertools.zip_longest(*records, fillvalue={})
    for line, (before, after) in enumerate(pairs, start=1):
        for key in sorted((before.keys() | after.keys()) - set(CLOCK)):
            if before.get(key) != after.get(key):
                differing[f"metrics/{line}/{key}"] = [before.get(key), after.get(key)]
    return {
        "equal": not differing,
        "arrays": len(ours),
        "epochs": len(records[0]),
        "differing": differing,
    }


def reference(base: Version, name: str, keep: Path, data_dir: str) -> tuple[Path, Path]:
    """Returns the base's uninterrupted run of a case, and the one that was stopped.

    Both are trained if `keep` does not hold them yet.

    Raises:
        SystemExit: If `keep` holds runs of other arguments.
    """
    case = CASES[name]
    folder = keep / base.revision() / name
    note = folder / "case.json"
    wanted = json.loads(json.dumps(case))
    if note.exists():
        if json.loads(note.read_text(encoding="utf-8")) != wanted:
            raise SystemExit(f"error: {folder} holds runs of other arguments; delete it")
        return folder / "whole", folder / "half"
    shutil.rmtree(folder, ignore_errors=True)
    base.train(case, folder / "whole", data_dir)
    base.train_half(case, folder / "half", data_dir)
    note.write_text(json.dumps(wanted) + "\n", encoding="utf-8")
    return folder / "whole", folder / "half"


def check(
    here: Version, name: str, runs: tuple[Path, Path], folder: Path, data_dir: str
) -> dict[str, Any]:
    """Compares this program with the base in one case.

    Args:
        here: This program.
        name: Of the case.
        runs: The base's uninterrupted run, and the one that was stopped.
        folder: For this program's runs; emptied first.
        data_dir: TFDS directory with CIFAR-10.

    Returns:
        The case's part of the report.
    """
    whole, half = runs
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(half, folder / "continued")

    def finish(workdir: Path) -> dict[str, Any]:
        try:
            here.train(CASES[name], workdir, data_dir)
        except SystemExit as error:  # The other cases are worth knowing all the same.
            return {"equal": False, "arrays": 0, "epochs": 0, "differing": {"end": str(error)}}
        return compare(whole, workdir)

    stopped = Checkpoints(half / "checkpoints").latest_step()
    return {
        "case": name,
        "arguments": list(CASES[name].arguments),
        "devices": CASES[name].devices,
        "from_the_start": finish(folder / "whole"),
        "continued": {"from_step": stopped, **finish(folder / "continued")},
    }


def verdict(name: str, result: dict[str, Any]) -> str:
    """Returns a comparison in one line, then a line for each difference, ten at most."""
    head = f"{name}: {result['arrays']} arrays, {result['epochs']} epochs: "
    if result["equal"]:
        return head + "equal"
    rows = [f"  {key}: {value}" for key, value in result["differing"].items()]
    more = [f"  and {len(rows) - 10} more"] if len(rows) > 10 else []
    return "\n".join([f"{head}{len(rows)} DIFFER", *rows[:10], *more])


def run(options: argparse.Namespace) -> int:
    """Checks all cases, writes the report after each; returns the exit code."""
    root = options.base.resolve()
    base = Version(root, (options.python or root / ".venv" / "bin" / "python").absolute())
    here = Version(ROOT, Path(sys.executable))
    report: dict[str, Any] = {
        "base": base.revision(),
        "here": here.revision(),
        "machine": environment.machine(),
        "jax": metadata.version("jax"),
        "cases": [],
    }
    own = options.keep / f"{ROOT.name}-{report['here']}"
    for name in options.only or CASES:
        runs = reference(base, name, options.keep, options.data_dir)
        if options.reference_only:
            print(*runs, flush=True)
            continue
        result = check(here, name, runs, own / name, options.data_dir)
        report["cases"].append(result)
        print(verdict(f"{name}, from the start", result["from_the_start"]))
        step = result["continued"]["from_step"]
        print(verdict(f"{name}, continued from step {step}", result["continued"]), flush=True)
        if options.out:
            outfiles.write("--out", options.out, json.dumps(report, indent=1) + "\n")
    parts = [case[part] for case in report["cases"] for part in ("from_the_start", "continued")]
    return int(not all(part["equal"] for part in parts))


def main() -> int:
    """Runs the program; returns its exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    pair = verbs.add_parser("compare", help="compares two run folders")
    pair.add_argument("a", type=Path)
    pair.add_argument("b", type=Path)
    both = verbs.add_parser("run", help="trains with two versions and compares")
    both.add_argument("--base", type=Path, required=True, help="checkout of the other version")
    both.add_argument("--python", type=Path, help="its interpreter; BASE/.venv/bin/python")
    both.add_argument("--keep", type=Path, default=Path("runs/same-numbers"), help="run folders")
    both.add_argument("--data_dir", default="", help="TFDS directory with CIFAR-10")
    both.add_argument("--only", nargs="+", choices=CASES, metavar="CASE", help=", ".join(CASES))
    both.add_argument("--reference_only", action="store_true", help="trains with the base alone")
    both.add_argument("--out", type=Path, help="JSON file to write")
    options = parser.parse_args()
    if options.verb == "run":
        if options.out:
            outfiles.check_file("--out", options.out, (".json", ""))
        return run(options)
    result = compare(options.a, options.b)
    print(verdict(f"{options.a} and {options.b}", result))
    return int(not result["equal"])


if __name__ == "__main__":
    cli.script(main)
