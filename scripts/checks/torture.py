"""Kills a training run again and again, and compares its end with that of an undisturbed run.

python scripts/checks/torture.py --config configs/lenet.py:digits --kills 25 --config.train.epochs=6

Every argument that is not named below goes to jaxcnn.main. Each kill is a SIGKILL: at a random
moment (imports, compilation and evaluation included), or at a chosen operation, see FAULTS. The
same command is started again after each; when a run has finished, its parameters, BatchNorm
statistics, optimizer state and metrics must be byte-equal to those of the undisturbed run, and the
next run begins in a new folder. Last comes the counter-check: a run that goes on with its data
position wrong by one step must differ.
"""

import argparse
import hashlib
import json
import os
import platform
import random
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
CHILD = Path(__file__).with_name("torture_child.py")
ENV = {**os.environ, "PYTHONPATH": str(ROOT)}  # this checkout, whatever is installed
CLOCK = ("seconds", "images_per_second")
SECTIONS = ("params", "batch_stats", "opt_state", "ema", "sums", "nonfinite", "step")

# Fault -> what happens, in the words of the table.
FAULTS = {
    "any": "at a random moment of the process",
    "train": "at a random moment of training and evaluation",
    "save": "at a random moment of an asynchronous save",
    "name": "between a checkpoint's temporary and final name",
    "delete": "while an old checkpoint is being deleted",
    "metrics": "a line of metrics written but not on disk, then cut short as by a power cut",
    "start": "before environment.json is replaced",
    "summary": "after the last epoch, before summary.json has its name",
}
ORDER = ("train", "save", "any", "name", "metrics", "train", "save", "delete", "any", "start")


class Torture:
    """One configuration: the undisturbed run, the runs that are killed, the tally."""

    def __init__(self, arguments: list[str], folder: Path, seed: int, timeout: float) -> None:
        """Runs `jaxcnn.main` with `arguments`, in folders under `folder`."""
        self.arguments, self.folder, self.timeout = arguments, folder, timeout
        self.random = random.Random(seed)
        self.tally = dict.fromkeys(FAULTS, 0)
        self.startup = self.training = 0.0

    def command(self, workdir: Path, *, trap: tuple[str, int, float] | None = None) -> list[str]:
        """Returns the command line of a start, with a trap or the plain one."""
        rest = [*self.arguments, f"--workdir={workdir}"]
        if trap is None:
            return [sys.executable, "-m", "jaxcnn.main", *rest]
        return [sys.executable, str(CHILD), *map(str, trap), "--", *rest]

    def start(self, command: list[str]) -> subprocess.Popen[str]:
        """Starts a process of the program."""
        return subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT, env=ENV
        )

    def undisturbed(self) -> Path:
        """Runs once to fill the compilation cache, once to compare with and to learn the times."""
        for name in ("warm", "undisturbed"):
            workdir = self.folder / name
            began = time.monotonic()
            process = self.start(self.command(workdir))
            assert process.stdout is not None
            lines = []
            for line in process.stdout:
                lines.append(line)
                if line.startswith("training from"):
                    self.startup = time.monotonic() - began
            if process.wait() != 0:
                raise SystemExit("the undisturbed run failed:\n" + "".join(lines))
            self.training = time.monotonic() - began - self.startup
        return workdir

    def attempt(self, workdir: Path, fault: str) -> bool:
        """Starts the command once and kills it with `fault`; returns whether it was killed."""
        trap = None
        if fault not in ("any", "train"):
            count = self.random.randint(1, 3) if fault in ("save", "name") else 1
            most = {"save": 0.25, "delete": 0.01}.get(fault, 0.0)
            trap = (fault, count, round(self.random.uniform(0, most), 4))
        process = self.start(self.command(workdir, trap=trap))
        assert process.stdout is not None
        if fault == "any":
            self.kill_after(process, self.random.uniform(0, self.startup + self.training / 4))
        elif fault == "train":
            for line in process.stdout:
                if line.startswith("training from"):
                    break
            self.kill_after(process, self.random.uniform(0, self.training / 3))
        try:
            output, _ = process.communicate(timeout=self.timeout)
        finally:
            process.kill()
        if process.returncode == -9:
            self.tally[fault] += 1
            if fault == "metrics":
                self.tear(workdir / "metrics.jsonl")
            return True
        if process.returncode != 0:
            raise SystemExit(f"{shlex.join(process.args)} failed:\n{output}")  # type: ignore[arg-type]
        return False

    def kill_after(self, process: subprocess.Popen[str], seconds: float) -> None:
        """Kills the process after a while, unless it has ended by then."""
        try:
            process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()

    def tear(self, path: Path) -> None:
        """Cuts the last line of a file at a random place, which a kill alone would not do."""
        data = path.read_bytes()
        start = data[:-1].rfind(b"\n") + 1
        os.truncate(path, self.random.randint(start, len(data)))

    def run(self, kills: int, undisturbed: Path) -> list[dict[str, Any]]:
        """Kills `kills` times over as many runs as that takes; returns one comparison per run."""
        expected = summary_of(undisturbed)
        results: list[dict[str, Any]] = []
        faults = iter(ORDER * (kills + 1))
        while sum(self.tally.values()) < kills or not results:
            workdir = self.folder / f"killed {len(results)} ä"
            before = sum(self.tally.values())
            while True:
                enough = sum(self.tally.values()) >= kills
                if enough or not self.attempt(workdir, next(faults)):
                    break
            if enough and self.attempt(workdir, "summary"):
                pass  # one more: the run has all its epochs, but no summary
            done = subprocess.run(
                self.command(workdir), cwd=ROOT, env=ENV, capture_output=True, text=True
            )
            if done.returncode != 0:
                raise SystemExit(f"a continued run failed:\n{done.stdout}{done.stderr}")
            found = summary_of(workdir)
            differing = sorted(key for key in expected if expected[key] != found[key])
            killed = sum(self.tally.values()) - before
            results.append({"kills": killed, "differing": differing, "digests": found})
            print(f"run {len(results)}: {killed} kills, differing: {differing or 'nothing'}")
        return results

    def counter_check(self, undisturbed: Path) -> list[str]:
        """Kills a run within an epoch, continues it a step off, and returns what differs."""
        workdir = self.folder / "off by one step"
        shutil.rmtree(workdir, ignore_errors=True)
        for trap, code in ((("drop", 1, 0.0), -9), (("position", 1, 0.0), 0)):
            command = self.command(workdir, trap=trap)
            done = subprocess.run(
                command, cwd=ROOT, env=ENV, capture_output=True, timeout=self.timeout
            )
            assert done.returncode == code, done
        expected, found = summary_of(undisturbed), summary_of(workdir)
        return sorted(key for key in expected if expected[key] != found[key])


def summary_of(workdir: Path) -> dict[str, str]:
    """Returns a SHA-256 of each part of a finished run."""
    from jaxcnn.run.checkpoint import Checkpoints
    from jaxcnn.run.folder import RunDir

    checkpoints = Checkpoints(workdir / "checkpoints")
    newest = checkpoints.latest_step()
    assert newest is not None, f"{workdir} has no checkpoint"
    digests = {section: hashlib.sha256() for section in SECTIONS}
    for name, array in sorted(checkpoints.arrays(newest).items()):
        digest = digests[name.split("/")[0]]
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(array.tobytes())
    lines = [
        {key: value for key, value in record.items() if key not in CLOCK}
        for record in RunDir(workdir).read_metrics()
    ]
    result = {section: digest.hexdigest() for section, digest in digests.items()}
    result["metrics"] = hashlib.sha256(json.dumps(lines).encode()).hexdigest()
    return result


def table(folder: Path) -> str:
    """Returns two Markdown tables of all results in `folder`: by kind of kill, and by run."""
    results = [
        json.loads(path.read_text(encoding="utf-8"))
        for path in sorted(folder.glob("torture-*.json"))
    ]
    faults = ["| killed | trials | outcome |", "|---|---:|---|"]
    for fault, words in FAULTS.items():
        hit = [result for result in results if result["kills"].get(fault)]
        if hit:
            outcome = "byte-equal" if all(map(_equal, hit)) else "**differs**"
            count = sum(result["kills"][fault] for result in hit)
            faults.append(f"| {words} | {count} | {outcome} |")
    rows = ["| configuration | kills | runs | outcome | a step off differs in | command |"]
    rows.append("|---|---:|---:|---|---|---|")
    for result in results:
        off = ", ".join(result["counter_check_differs_in"]) or "**nothing**"
        rows.append(
            f"| {result['name']} | {sum(result['kills'].values())} | {len(result['runs'])} "
            f"| {'byte-equal' if _equal(result) else '**differs**'} | {off} "
            f"| `{result['command']}` |"
        )
    return "\n".join([*faults, "", *rows])


def _equal(result: dict[str, Any]) -> bool:
    return not any(run["differing"] for run in result["runs"])


def main() -> None:
    """Parses the command line, runs, prints the table and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--kills", type=int, default=25, help="least number of kills; 25")
    parser.add_argument("--seed", type=int, default=0, help="of the moments; 0")
    parser.add_argument("--name", default="run", help="of the run, in the table and the file")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "results")
    parser.add_argument("--timeout", type=float, default=900, help="seconds for one process; 900")
    parser.add_argument("--table", action="store_true", help="print the table of --output, and end")
    options, arguments = parser.parse_known_args()
    if options.table:
        print(table(options.output))
        return
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="torture-") as folder:
        torture = Torture(arguments, Path(folder), options.seed, options.timeout)
        undisturbed = torture.undisturbed()
        runs = torture.run(options.kills, undisturbed)
        off = torture.counter_check(undisturbed)
        expected = summary_of(undisturbed)
    result = {
        "name": options.name,
        "command": shlex.join(["python", "scripts/checks/torture.py", *sys.argv[1:]]),
        "kills": torture.tally,
        "undisturbed": expected,
        "runs": runs,
        "counter_check_differs_in": off,
        "minutes": round((time.monotonic() - began) / 60, 1),
        "python": platform.python_version(),
        "jax": metadata.version("jax"),
        "cpu_count": os.cpu_count(),
    }
    options.output.mkdir(parents=True, exist_ok=True)
    path = options.output / f"torture-{options.name}.json"
    path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(table(options.output))
    print(f"written to {path}")
    if not off:
        print(
            "error: the counter-check changed nothing, so equal bytes prove nothing: it is killed "
            "when the third checkpoint is written and needs steps after that; raise "
            "--config.train.epochs",
            file=sys.stderr,
        )
    if any(run["differing"] for run in runs) or not off:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
