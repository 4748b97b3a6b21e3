r"""Gives the program wrong commands and damaged files, and sees how each of them ends.

    python scripts/checks/wrong_commands.py --count 2000 --seed 20 \
        --out docs/results/wrong-commands.json
    python scripts/checks/wrong_commands.py --count 2000 --seed 20 --only 17    # shows that one

A trial is a right command, made wrong in one to three places (`wrong_trials.py`), in a folder of
its own. It must end with exit code 0, 1, 2, 130 or 143, without a traceback, without being silent
for 60 s, and where it fails with a line that says so. A training, or a wait for other processes,
that has begun is stopped by SIGINT after some seconds.

One process imports the program and forks for each trial, so that a trial costs no more than its
work. What `compare` measures of the machine alone, which takes minutes, is replaced by constants.
"""

import atexit
import contextlib
import gc
import json
import os
import platform
import resource
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import traceback
import warnings
from collections import Counter
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from jaxcnn import cli
from jaxcnn.commands import outfiles
from jaxcnn.commands.parser import at_least, script_parser
from jaxcnn.errors import UserError

ALLOWED = (0, 1, 2, 130, 143)
SILENT_SECONDS = 60.0
TRAINING_SECONDS = 8.0
TALKING_SECONDS = 150.0
MEMORY_BYTES = 12 << 30
# What a trial finds in its environment, besides the interpreter's own.
ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    # Compiled for seconds of work: optimizing would take longer.
    "XLA_FLAGS": "--xla_backend_optimization_level=0",
    # No trial reaches the network.
    "http_proxy": "http://127.0.0.1:9",
    "https_proxy": "http://127.0.0.1:9",
    "PYTHONWARNINGS": "ignore:os.fork:RuntimeWarning",
}
OWN = """from jaxcnn.config import default_config, use_dataset


def get_config(dataset="digits"):
    config = use_dataset(default_config(), dataset)
    config.model.name = "lenet"
    return config
"""
# Weights of a LeNet as PyTorch code has them.
LENET = {
    "conv1.weight": (6, 3, 5, 5), "conv1.bias": (6,),
    "conv2.weight": (16, 6, 5, 5), "conv2.bias": (16,),
    "fc1.weight": (120, 400), "fc1.bias": (120,),
    "fc2.weight": (84, 120), "fc2.bias": (84,),
    "fc3.weight": (10, 84), "fc3.bias": (10,),
}  # fmt: skip


class Outcome(NamedTuple):
    """How a trial ended.

    Attributes:
        code: The exit code, or minus the number of the signal that ended it.
        seconds: How long it took.
        faults: What is wrong with that, in words.
        said: The end of its output.
    """

    code: int
    seconds: float
    faults: list[str]
    said: str


def make_template(folder: Path, cheap: bool) -> None:
    """Fills a folder with what the commands name: runs, pictures, data and an archive.

    Args:
        folder: An empty folder.
        cheap: Whether to do without what needs a training or a preparation.
    """
    import numpy as np
    from PIL import Image

    from jaxcnn.data.cifar10 import published
    from jaxcnn.exchange import torch_file

    rng = np.random.default_rng(0)
    (folder / "pictures").mkdir()
    pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
    for name, image in (
        ("good.png", Image.fromarray(pixels)),
        ("grey.jpg", Image.fromarray(pixels[..., 0])),
        ("pictures/a.gif", Image.fromarray(pixels)),
        ("pictures/b.webp", Image.fromarray(pixels)),
        ("pictures/c.png", Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)),
        ("pictures/d.tif", Image.fromarray(pixels)),
        ("pictures/e.bmp", Image.fromarray(pixels)),
    ):
        image.save(folder / name)
    (folder / "own.py").write_text(OWN, encoding="utf-8")
    torch_file.write(
        folder / "weights.pt",
        {name: np.full(shape, 0.01, np.float32) for name, shape in LENET.items()},
    )
    layout = published.SETS["cifar10"].binary
    (folder / layout.folder).mkdir()
    for name in (*layout.train, *layout.test):
        rows = rng.integers(0, 256, (8, 3073), dtype=np.uint8)
        rows[:, 0] %= 10
        (folder / layout.folder / name).write_bytes(rows.tobytes())
    with tarfile.open(folder / layout.archive_name, "w:gz") as tar:
        tar.add(folder / layout.folder, arcname=layout.folder)
    make_data(folder, rng)
    if cheap:
        return
    import wrong_trials

    for name in ("run", "other"):
        _command(folder, "train", "--config=lenet:digits", f"--workdir={name}", *wrong_trials._TINY)
    archive = f"--archive={layout.archive_name}"
    _command(folder, "prepare", archive, "--allow-modified", "--data_dir=data")


def make_data(folder: Path, rng: Any) -> None:
    """Adds a folder of one's own images, parquet files and the files of MNIST."""
    import gzip
    import io
    import struct

    import pyarrow
    from PIL import Image
    from pyarrow import parquet

    def png() -> bytes:
        file = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype="uint8")).save(file, "PNG")
        return file.getvalue()

    for split, count in (("train", 4), ("val", 2)):
        for label in ("cat", "dog"):
            place = folder / "photos" / split / label
            place.mkdir(parents=True)
            for index in range(count):
                (place / f"{index}.png").write_bytes(png())
    (folder / "hub").mkdir()
    for split, count in (("train", 10), ("test", 3)):
        images = [{"bytes": png(), "path": None} for _ in range(count)]
        table = pyarrow.table({"img": images, "label": list(range(count))})
        parquet.write_table(table, folder / "hub" / f"{split}-00000-of-00001.parquet")
    (folder / "mnist").mkdir()
    for name in ("train", "t10k"):
        for kind, magic, sizes in (
            ("images-idx3", 0x803, (4, 28, 28)),
            ("labels-idx1", 0x801, (4,)),
        ):
            content = struct.pack(f">{1 + len(sizes)}I", magic, *sizes)
            content += bytes(4 * (784 if kind[0] == "i" else 1))
            (folder / "mnist" / f"{name}-{kind}-ubyte.gz").write_bytes(gzip.compress(content))


def _command(folder: Path, *arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "jaxcnn", *arguments], cwd=folder, capture_output=True, text=True
    )
    if done.returncode:
        said = " ".join(done.stderr.split())
        raise UserError(f"{' '.join(arguments)} ended with {done.returncode}: {said}")


def import_program() -> None:
    """Imports all that a trial may need, so that none has to, and starts no backend of JAX."""
    import importlib

    from jaxcnn.models import summary
    from jaxcnn.report import gradients, times

    for verb in cli.VERBS:
        importlib.import_module(f"jaxcnn.commands.{verb}")

    def initial_norms(network: Any, drawn: Any) -> dict[str, float]:
        layers = summary.layers(network.model, network.image_shape)
        return {layer.name: 1.0 for layer in layers if layer.kind != "norm"}

    def block_times(**block: Any) -> dict[str, float]:
        return {"separable": 1.0, "standard": 1.0}

    for owner, name, constant in (
        (times, "_block_times", block_times),
        (gradients._Network, "initial_norms", initial_norms),
    ):
        assert hasattr(owner, name)
        setattr(owner, name, constant)


def run(trial: Any, template: Path, folder: Path) -> Outcome:
    """Runs a trial in `folder`, which is made for it; in the child process, does not return."""
    import wrong_trials

    shutil.copytree(template, folder / "place")
    for damage in trial.damages:
        wrong_trials.apply(damage, folder / "place")
    said = [folder / "stdout", folder / "stderr"]
    sys.stdout.flush()
    sys.stderr.flush()
    began = time.monotonic()
    child = os.fork()
    if not child:
        try:
            _become(trial, folder / "place", said)
        finally:  # a mistake of this script must not go on as if it were the parent
            os._exit(70)
    status, silent = _wait(child, said, began)
    seconds = time.monotonic() - began
    texts = [path.read_bytes().decode(errors="replace") for path in said]
    code = os.waitstatus_to_exitcode(status)
    faults = []
    if silent:
        faults.append(f"silent for {SILENT_SECONDS:.0f} s")
    if code not in ALLOWED:
        faults.append(f"exit code {code}")
    if any("Traceback (most recent call last)" in text for text in texts):
        faults.append("a traceback")
    told = any(line.startswith("error: ") for line in texts[1].splitlines())
    if code in (1, 2) and not told and trial.verb != "launch" and trial.output != "closed":
        faults.append("no line with the error")
    return Outcome(code, seconds, faults, "\n".join(texts)[-4000:])


def _wait(child: int, said: list[Path], began: float) -> tuple[int, bool]:
    """Returns (status of the ended child, whether it had to be killed as it said nothing)."""
    size, heard, stopped = 0, began, False
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return status, False
        now = time.monotonic()
        if (grown := sum(path.stat().st_size for path in said if path.exists())) != size:
            size, heard = grown, now
        if now - heard > SILENT_SECONDS:
            os.killpg(child, signal.SIGKILL)
            return os.waitpid(child, 0)[1], True
        if not stopped and now - began > TRAINING_SECONDS:
            text = b"".join(path.read_bytes() for path in said)
            begun = b"training from step" in text or b"waiting for" in text
            if begun or now - began > TALKING_SECONDS:
                os.kill(child, signal.SIGINT)
                stopped, heard = True, now
        time.sleep(0.005)


def _become(trial: Any, place: Path, said: list[Path]) -> NoReturn:
    """Makes this process that of a command, and ends it as an interpreter does."""
    os.setsid()
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have had it ignored
    os.chdir(place)
    home = place / "home"
    home.mkdir()
    os.environ.update(HOME=str(home), XDG_CACHE_HOME=str(home / "cache"))
    files = [os.open(path, os.O_CREAT | os.O_WRONLY) for path in said]
    os.dup2(files[1], 2)
    if trial.output == "full":
        files[0] = os.open("/dev/full", os.O_WRONLY)
    elif trial.output == "closed":
        reader, files[0] = os.pipe()
        os.close(reader)
    os.dup2(files[0], 1)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    encoding = trial.output if trial.output not in ("full", "closed") else "utf-8"
    sys.stdout = open(1, "w", encoding=encoding, closefd=False)
    sys.stderr = open(
        2, "w", encoding=encoding, errors="backslashreplace", buffering=1, closefd=False
    )

    arguments = [trial.verb, *map(os.fsdecode, trial.arguments)]
    sys.argv = ["jaxcnn", *arguments]
    code: Any = 0
    try:
        cli.main(arguments)
    except SystemExit as ending:
        code = ending.code
        if isinstance(code, str):
            print(code, file=sys.stderr)
            code = 1
    except BaseException:
        traceback.print_exc()
        code = 1
    # What the interpreter does at its end, but for taking apart all modules, whose memory is the
    # parent's: threads are waited for, as they can hang.
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
    except OSError:
        code = 120
    sys.stderr.flush()
    os._exit(code or 0)


def describe(trial: Any) -> dict[str, Any]:
    """Returns a trial as JSON has it."""
    return {
        "command": " ".join([trial.verb, *(ascii(a)[1:][:200] for a in trial.arguments)]),
        "damages": [
            f"{d.kind} {d.file} at {d.place}: {ascii(d.value)[1:][:80]}" for d in trial.damages
        ],
        "output": trial.output,
    }


def _conditions(seed: int, count: int) -> dict[str, Any]:
    """Returns what the outcomes depend on."""
    from jaxcnn.runtime import environment, kept

    packages = ("jax", "jaxlib", "flax", "orbax-checkpoint", "tensorflow-datasets", "hypothesis")
    return {
        "seed": seed,
        "count": count,
        "source": kept.source_digest(),
        "git_revision": environment.git_revision(),
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in packages},
        "machine": environment.machine(),
    }


def _finished(path: Path, conditions: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns the outcomes that an interrupted call under the same conditions has left."""
    with contextlib.suppress(FileNotFoundError, ValueError):
        first, *lines = path.read_text(encoding="utf-8").splitlines()
        if json.loads(first) == conditions:
            return [json.loads(line) for line in lines]
    path.write_text(json.dumps(conditions) + "\n", encoding="utf-8")
    return []


def report(conditions: dict[str, Any], outcomes: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns the outcomes as the file of results has them."""
    codes = Counter(outcome["code"] for outcome in outcomes)
    verbs = Counter(outcome["verb"] for outcome in outcomes)
    return {
        **conditions,
        "trials": len(outcomes),
        "seconds": round(sum(outcome["seconds"] for outcome in outcomes), 1),
        "longest_seconds": round(max(outcome["seconds"] for outcome in outcomes), 1),
        "exit_codes": {str(code): codes[code] for code in sorted(codes)},
        "verbs": dict(sorted(verbs.items())),
        "faults": [outcome for outcome in outcomes if outcome["faults"]],
    }


def main() -> int:
    """Runs the trials and prints how they ended; returns 1 if one ended badly."""
    parser = script_parser(__doc__)
    parser.add_argument("--count", type=at_least(1), default=2000, help="number of trials")
    parser.add_argument("--seed", type=at_least(0), default=20, help="of hypothesis")
    parser.add_argument(
        "--only", type=at_least(0), nargs="+", help="run these alone, and show their output"
    )
    parser.add_argument("--cheap", action="store_true", help="without runs and prepared data")
    parser.add_argument(
        "--verbs", nargs="+", choices=list(cli.VERBS), help="only trials of these verbs"
    )
    parser.add_argument(
        "--out", type=Path, help="JSON file; beside it, what an interrupted call did"
    )
    args = parser.parse_args()
    if max(args.only or [0]) >= args.count:
        raise UserError(f"--only={max(args.only)} is not allowed: from 0 to {args.count - 1}")
    if args.out:
        outfiles.check_file("--out", args.out, (".json",))
    os.environ.update(ENVIRONMENT)
    warnings.filterwarnings("ignore", message="os.fork", category=RuntimeWarning)
    import_program()
    import wrong_trials

    trials = list(enumerate(wrong_trials.draw(args.seed, args.count)))
    if args.only:
        trials = [trials[index] for index in args.only]
    if args.verbs:
        trials = [(index, trial) for index, trial in trials if trial.verb in args.verbs]
    if not trials:
        raise UserError(f"--count={args.count} gives no trial of these verbs: give a larger one")
    selection = {"cheap": args.cheap, "of_verbs": args.verbs, "only": args.only}
    conditions = _conditions(args.seed, args.count) | selection
    state = args.out and args.out.with_suffix(".partial")
    outcomes = _finished(state, conditions) if state else []
    base = Path(tempfile.mkdtemp(prefix="wrong-commands-"))
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(base / "xla")
    try:
        (base / "template").mkdir()
        make_template(base / "template", args.cheap)
        gc.freeze()  # no child goes through the parent's objects, which would copy them
        for index, trial in trials[len(outcomes) :]:
            folder = base / str(index)
            folder.mkdir()
            outcome = run(trial, base / "template", folder)
            shutil.rmtree(folder)
            found = {"trial": index, "verb": trial.verb, **outcome._asdict(), **describe(trial)}
            said = found.pop("said")
            if args.only or outcome.faults:
                print(json.dumps(found), said, sep="\n", flush=True)
            outcomes.append(found)
            if state:
                with open(state, "a", encoding="utf-8") as file:
                    file.write(json.dumps(found) + "\n")
    finally:
        shutil.rmtree(base, ignore_errors=True)
    result = report(conditions, outcomes)
    print(json.dumps({**result, "faults": len(result["faults"])}))
    if args.out:
        outfiles.write("--out", args.out, json.dumps(result, indent=2) + "\n")
        state.unlink()
    return 1 if result["faults"] else 0


if __name__ == "__main__":
    cli.script(main)
