"""Files and streams that are not as they should be: each ends in one line, and nothing is lost.

Everything runs in this process, except where the streams of a process are what matters.
"""

import ast
import importlib
import importlib.util
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from absl import flags
from PIL import Image

from jaxcnn import cli, plots
from jaxcnn.commands import outfiles, predict, streams
from jaxcnn.config import schema
from jaxcnn.errors import UserError
from jaxcnn.evaluate import evaluation
from jaxcnn.evaluate import run as runs
from jaxcnn.evaluate.run import Run
from jaxcnn.plots import style
from jaxcnn.run.folder import RunDir

ROOT = Path(__file__).parents[1]
TRAIN = ("train", "--config=lenet:digits", "--train.epochs=2", "--notrain.plots")

# ml_collections 1.1 executes a configuration file by it.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module.. method:DeprecationWarning")


ENVIRONMENT = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}


def _ending(capsys, program):
    """Ends a program as a process does; returns (exit code, lines of standard error)."""
    with pytest.raises(SystemExit) as ending:
        cli.end(program)
    code, lines = ending.value.code, capsys.readouterr().err.splitlines()
    if isinstance(code, str):  # the interpreter prints it and exits with 1
        lines, code = [*lines, *code.splitlines()], 1
    return code or 0, lines


def _ended(capsys, *arguments):
    """Runs the command in this process; returns (exit code, lines of standard error)."""
    for name in [name for name in flags.FLAGS if name.partition(".")[0] == "config"]:
        delattr(flags.FLAGS, name)  # the command defines them from its arguments
    return _ending(capsys, lambda: cli.run([str(argument) for argument in arguments]))


@pytest.fixture(autouse=True)
def process_is_left_alone(monkeypatch):
    """A command changes its process; here that is the tests' own."""
    from jaxcnn.runtime import compilation_cache, memory

    monkeypatch.setattr(compilation_cache, "use_compilation_cache", lambda: None)
    monkeypatch.setattr(memory, "configure_malloc", lambda: None)
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run of LeNet on the embedded digits, without a checkpoint."""
    from jaxcnn import data
    from jaxcnn.config.settings import Settings

    config = schema.use_dataset(schema.default_config(), "digits")
    config.model.name, config.train.epochs, config.train.plots = "lenet", 2, False
    settings = Settings.resolve(config, data.load(**config.dataset))
    run = RunDir(tmp_path_factory.mktemp("finished") / "run")
    with run.locked(settings.to_json()):
        keys = ("learning_rate", "train_loss", "train_accuracy", "eval_loss", "eval_accuracy")
        numbers = dict.fromkeys((*keys, "seconds", "images_per_second"), 0.5)
        for epoch in (1, 2):
            run.append_metrics({"epoch": epoch, "step": 22 * epoch, **numbers})
        counts = {"parameters": 9, "flops": 9, "total_seconds": 1.0}
        run.write_json("summary.json", {**run.read_metrics()[-1], "model": "lenet", **counts})
        start = {"git_revision": "0", "platform": "cpu", "cpu": "a", "cpu_count": 2}
        run.add_start({**start, "packages": {"jax": "0", "flax": "0"}})
    return run.path


@pytest.fixture
def copy(finished, tmp_path):
    """A run folder of one's own."""
    return shutil.copytree(finished, tmp_path / "run")


def _files(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _without(name, key):
    """Returns what cuts a key out of the text of a JSON file, or of the lines of one."""

    def cut(text):
        if name == "metrics.jsonl":
            return "".join(cut_one(line) + "\n" for line in text.splitlines())
        return cut_one(text)

    def cut_one(text):
        content = json.loads(text)
        del content[key]
        return json.dumps(content)

    return cut


def _with(*path, value):
    """Returns what sets a value in the text of a JSON file."""

    def change(text):
        content = json.loads(text)
        place = content
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value
        return json.dumps(content)

    return change


DAMAGE = {
    "no UTF-8": lambda text: b"\xff\xfe" + text.encode()[:40] + b"\n",
    "no JSON": lambda text: "{ not JSON\n",
    "cut short": lambda text: text[: len(text) // 2] + "\n",
    "empty": lambda text: "\n",
    "list": lambda text: "[]\n",
    "number": lambda text: "7\n",
    "null": lambda text: "null\n",
    "other keys": lambda text: '{"a": 1}\n',
    "not a number": lambda text: '{"a": NaN}\n',
    "nested": lambda text: "[" * 100_000 + "\n",
}
SHAPES = {
    "config.json": {
        "section": _with("train", value=5),
        "text": _with("train", "batch_size", value="many"),
        "list": _with("optim", "peak_lr", value=[1]),
        "missing section": _without("config.json", "optim"),
        "dotted": _with("train.epochs", value={"a": 1}),
        "shape": _with("dataset", "image_shape", value="wide"),
        "names": _with("dataset", "class_names", value="none"),
    },
    "metrics.jsonl": {
        "no step": _without("metrics.jsonl", "step"),
        "no loss": _without("metrics.jsonl", "eval_loss"),
        "line lost": lambda text: text.splitlines(keepends=True)[1],
        "line twice": lambda text: text + text,
        "text": lambda text: text.replace('"train_loss": 0.5', '"train_loss": "low"'),
        "text for a rate": lambda text: text.replace('"images_per_second": 0.5', '"a": 1'),
    },
    "summary.json": {
        "no model": _without("summary.json", "model"),
        "no epoch": _without("summary.json", "epoch"),
        "text": _with("eval_accuracy", value="good"),
    },
    "environment.json": {
        "starts": _with("starts", value=7),
        "start": _with("starts", 0, value="yesterday"),
        "devices": _with("starts", 0, "devices", value=4),
        "warnings": _with("starts", 0, "warnings", value=[4]),
    },
}
CASES = [
    (name, kind, change)
    for name, own in SHAPES.items()
    for kind, change in {**DAMAGE, **own}.items()
]


def _damage(folder, name, change):
    text = (folder / name).read_text(encoding="utf-8")
    changed = change(text)
    (folder / name).write_bytes(changed if isinstance(changed, bytes) else changed.encode())


@pytest.mark.parametrize(
    ("name", "kind", "change"), CASES, ids=[f"{name}: {kind}" for name, kind, _ in CASES]
)
def test_a_damaged_file_of_a_run_is_named_before_anything_is_written(name, kind, change, copy):
    config = json.loads((copy / "config.json").read_text(encoding="utf-8"))
    _damage(copy, name, change)
    before = _files(copy)
    with pytest.raises(UserError) as refused:
        RunDir(copy).check(config)
    (line,) = str(refused.value).splitlines()
    assert line.startswith(f"{copy / name} is damaged (") and ": restore it, or " in line
    with pytest.raises(UserError), RunDir(copy).locked(config):
        pass
    assert {**_files(copy), copy / ".lock": b""} == {**before, copy / ".lock": b""}


@pytest.mark.parametrize("name", SHAPES)
def test_train_names_a_damaged_file_of_its_run(name, copy, capsys):
    _damage(copy, name, DAMAGE["no UTF-8"])
    before = _files(copy)
    code, lines = _ended(capsys, *TRAIN, f"--workdir={copy}")
    assert (code, len(lines)) == (1, 1), lines
    assert lines[0].startswith(f"error: {copy / name} is damaged (it is not UTF-8"), lines
    assert _files(copy) == before


# Facts of the data are no part of the configuration.
@pytest.mark.parametrize("kind", sorted({*DAMAGE, *SHAPES["config.json"]} - {"shape", "names"}))
def test_a_damaged_file_as_configuration_is_named(kind, copy, capsys):
    _damage(copy, "config.json", {**DAMAGE, **SHAPES["config.json"]}[kind])
    before = _files(copy)
    code, lines = _ended(capsys, "layers", copy / "config.json")
    assert (code, len(lines)) == (1, 1), lines
    assert str(copy / "config.json") in lines[0] or "is not allowed" in lines[0], lines
    assert _files(copy) == before


# Which verb reads which file.
READERS = [
    ("evaluate", "config.json"),
    ("predict", "config.json"),
    ("layers", "config.json"),
    ("plot", "config.json"),
    ("plot", "metrics.jsonl"),
    ("compare", "config.json"),
    ("compare", "metrics.jsonl"),
    ("compare", "environment.json"),
]


@pytest.mark.parametrize(
    ("verb", "name", "change"),
    [
        pytest.param(verb, name, change, id=f"{verb}: {name}: {kind}")
        for verb, name in READERS
        for kind, change in {**DAMAGE, **SHAPES[name]}.items()
    ],
)
def test_a_damaged_file_of_a_run_is_named_by_the_verb_that_reads_it(
    verb, name, change, copy, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    _damage(copy, name, change)
    before = _files(tmp_path)
    code, lines = _ended(capsys, verb, copy, *(["a.png"] if verb == "predict" else []))
    assert (code, len(lines)) == (1, 1), lines
    assert lines[0].startswith(f"error: {copy / name} is "), lines
    assert _files(tmp_path) == before


def test_records_that_are_missing_before_the_newest_checkpoint_are_noticed(finished, capsys):
    from jaxcnn.train.loop import Training

    training = SimpleNamespace(
        run=RunDir(finished), step=66, settings=SimpleNamespace(steps_per_epoch=22)
    )
    Training._check_complete(training, 2)  # the third is evaluated again
    with pytest.raises(UserError, match=r"metrics.jsonl has 1 of the 3 epochs that were trained"):
        Training._check_complete(training, 1)


@pytest.mark.parametrize("root", ["jaxcnn", "scripts"])
def test_every_text_file_is_read_and_written_in_a_stated_encoding(root):
    silent = []
    for path in sorted((ROOT / root).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            plain = name == "open" and isinstance(node.func, ast.Name)
            binary = any(isinstance(x, ast.Constant) and "b" in str(x.value) for x in node.args[1:])
            texts = name in ("read_text", "write_text") or (plain and not binary)
            if texts and "encoding" not in {keyword.arg for keyword in node.keywords}:
                silent.append(f"{path}:{node.lineno}")
    assert silent == []


class _Full:
    """A stream on a full disk."""

    def write(self, text):
        raise OSError(28, "No space left on device")

    flush = lambda self: self.write("")  # noqa: E731

    def fileno(self):
        return self.descriptor


@pytest.fixture
def full(tmp_path):
    stream = _Full()
    stream.descriptor = os.open(tmp_path / "file", os.O_CREAT | os.O_WRONLY)
    yield stream
    os.close(stream.descriptor)


def test_a_result_that_cannot_be_printed_is_an_error(full):
    stream = streams.Stream(full, "standard output", needed=True)
    with pytest.raises(OSError, match="No space left on device: 'standard output'"):
        stream.write("x")


def test_a_report_that_cannot_be_printed_is_told_once(full, monkeypatch, capsys):
    stream = streams.Stream(full, "standard output", needed=True)
    monkeypatch.setattr(sys, "stdout", stream)
    streams.go_on_without_output()
    for _ in range(3):
        print("x", flush=True)
    assert capsys.readouterr().err == (
        "warning: standard output cannot be written (No space left on device): "
        "going on without it\n"
    )
    os.write(full.descriptor, b"a library's words")  # go nowhere, too
    assert os.fstat(full.descriptor).st_size == 0


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--help"], 1, "error: standard output: No space left on device"),
        (["plot", "--help"], 1, "error: standard output: No space left on device"),
        (["evalute"], 2, "error: 'evalute' is not a verb"),
    ],
)
def test_a_full_disk_under_standard_output_is_named(arguments, code, message):
    command = [sys.executable, "-m", "jaxcnn", *arguments]
    with open("/dev/full", "w") as disk:
        done = subprocess.run(command, stdout=disk, stderr=subprocess.PIPE, env=ENVIRONMENT)
    lines = done.stderr.decode().splitlines()
    assert (done.returncode, len(lines)) == (code, 1) and lines[0].startswith(message), lines


@pytest.mark.parametrize(
    "redirection",
    [
        *(
            pytest.param(s, marks=[pytest.mark.slow, pytest.mark.ci])
            for s in (">&- 2>&- <&-", "| head -1")
        ),
        *(pytest.param(s, marks=pytest.mark.slow) for s in (">&-", "2>&-", ">/dev/full")),
    ],
)
def test_a_training_goes_on_without_anybody_who_reads_what_it_says(redirection, tmp_path):
    command = [sys.executable, "-m", "jaxcnn", *TRAIN, f"--workdir={tmp_path / 'run'}"]
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", f'"$@" {redirection}', "sh", *command],
        env=ENVIRONMENT,
        capture_output=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stderr.decode().splitlines()
    wanted = {">/dev/full": "(No space left on device)", "| head -1": "(Broken pipe)"}
    if redirection in wanted:
        assert len(lines) == 1 and wanted[redirection] in lines[0]
    else:
        assert lines == []
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["epoch"] == 2


def test_what_a_terminal_cannot_show_is_replaced(monkeypatch):
    below = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", below)
    monkeypatch.setattr(sys, "stderr", None)
    streams.prepare()
    print("läuft", os.fsdecode(b"n\xff"), flush=True)
    print("nowhere", file=sys.stderr, flush=True)
    sys.stderr.close()
    assert below.buffer.getvalue() == b"l\\xe4uft n\\udcff\n"


@pytest.mark.slow
def test_a_training_whose_folder_the_terminal_cannot_show_ends_well(tmp_path):
    command = [sys.executable, "-m", "jaxcnn", *TRAIN, "--workdir=läuft/é"]
    for variables in ({"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "POSIX"}):
        done = subprocess.run(
            command, env={**ENVIRONMENT, **variables}, capture_output=True, cwd=tmp_path
        )
        assert (done.returncode, done.stderr) == (0, b""), done.stderr
        assert b"everything is in l" in done.stdout
    assert (tmp_path / "läuft" / "é" / "summary.json").is_file()


def test_a_run_folder_whose_name_is_no_text_is_refused_before_the_training(tmp_path, capsys):
    path = tmp_path / os.fsdecode(b"n\xff")
    code, lines = _ended(capsys, *TRAIN, f"--workdir={path}")
    assert (code, len(lines)) == (1, 1), lines
    assert lines[0].startswith(f"error: {tmp_path}/n\ufffd is no UTF-8 text here"), lines
    assert not path.exists()
    path.mkdir()
    with pytest.raises(UserError, match="is no UTF-8 text here"):
        Run(path)


def test_a_run_folder_is_named_by_a_path_or_by_its_text(finished):
    from jaxcnn import data
    from jaxcnn.train import fit

    assert Run(str(finished)).path == Run(finished).path == finished
    assert list(runs.named([str(finished)])) == ["run"]
    config = schema.use_dataset(schema.default_config(), "digits")
    config.model.name, config.train.epochs, config.train.plots = "lenet", 2, False
    assert fit.fit(config, data.load(**config.dataset), str(finished))["epoch"] == 2


@pytest.fixture
def place(copy, tmp_path, monkeypatch):
    """A working folder with the runs `run` and `other`, a folder, a file and a dangling link."""
    shutil.copytree(copy, tmp_path / "other")
    (tmp_path / "folder" / "report.html").mkdir(parents=True)
    (tmp_path / "file").write_text("important")
    (tmp_path / "link.json").symlink_to("nowhere/x.json")
    monkeypatch.chdir(tmp_path)
    return tmp_path


MISPLACED = [
    ("evaluate run --out nowhere/x.json", "there is no folder nowhere: make it first"),
    ("evaluate run --out folder", "it is a folder: name a file in it"),
    ("evaluate run --out x.csv", "its ending is '.csv': use .json or none"),
    ("evaluate run --out link.json", "it is a link to nothing"),
    ("evaluate run --out file/x.json", "there is no folder file"),
    ("predict run a.png --picture nowhere/x.png", "there is no folder nowhere"),
    ("predict run a.png --picture folder", "it is a folder"),
    ("predict run a.png --picture x.bmp", "its ending is '.bmp': use .png or .pdf or .svg"),
    ("predict run a.png --picture x", "its ending is 'none': use .png or .pdf or .svg"),
    ("plot run other --out nowhere/x.png", "there is no folder nowhere"),
    ("plot run other --out folder", "it is a folder"),
    ("plot run other --out x.jpg", "its ending is '.jpg': use .png or .pdf or .svg"),
    ("plot run --out x.png", "is no folder, which one run's plots need"),
    ("plot run --out file", "file is no folder: name a folder"),
    ("plot run --out file/x", "file is no folder: name a folder"),
    ("compare run other --out file", "file is no folder: name a folder"),
    ("compare run other --out file/x/y", "file is no folder: name a folder"),
    ("compare run other --out folder", "folder/report.html cannot be written, it is a folder"),
]


@pytest.mark.parametrize(("command", "message"), MISPLACED, ids=[row[0] for row in MISPLACED])
def test_a_result_that_cannot_be_written_is_refused_before_the_work(
    command, message, place, capsys
):
    before = _files(place)
    code, lines = _ended(capsys, *command.split())
    assert (code, len(lines)) == (1, 1), lines
    assert message in lines[0] and command.split()[-1] in lines[0], lines
    assert _files(place) == before


@pytest.mark.parametrize(
    ("suffix", "begin"), [(".png", b"\x89PNG"), (".pdf", b"%PDF"), (".svg", b"<?xml")]
)
def test_the_suffix_says_the_format_and_the_figure_the_bytes(suffix, begin, tmp_path):
    records = [{"epoch": 1, "train_loss": 0.5, "eval_loss": 0.5}]
    for name in ("a", "b"):
        plots.save(plots.curves(records, "title"), tmp_path / f"{name}{suffix}")
    content = (tmp_path / f"a{suffix}").read_bytes()
    assert content.startswith(begin) and content == (tmp_path / f"b{suffix}").read_bytes()
    assert {path.suffix for path in tmp_path.iterdir()} == {suffix}


def test_a_name_is_drawn_whatever_its_characters(tmp_path):
    names = ["$x^$", "a$b$c_{", "笑", "\ufffd", "50 %"]
    records = [{"epoch": 1, "train_loss": 0.5, "eval_loss": 0.5}]
    row, image = np.full(10, 0.1), np.zeros((8, 8, 3), np.uint8)
    items = [plots.Prediction(image, row, caption=name) for name in names]
    norms = {name: [1.0, 2.0] for name in names}
    for drawn in (
        plots.compared(dict.fromkeys(names, records)),
        plots.predictions(items, tuple("abcdefghij"), "title"),
        plots.gradients({"panel": norms}),
        plots.tradeoff({"cost": dict.fromkeys(names, 2.0)}, dict.fromkeys(names, 0.5)),
    ):
        plots.save(drawn, tmp_path / "x.svg")
        plots.save(drawn, tmp_path / "x.png")
    assert style.literal("a$b") == r"a\$b"


def test_a_device_is_written_to_and_stays_one(tmp_path):
    for name, refused in (("null", None), ("full", "No space left on device")):
        device = Path("/dev", name)
        outfiles.check_file("--out", device, (".json",))
        if refused:
            with pytest.raises(UserError, match=f"--out={device} cannot be written, {refused}"):
                outfiles.write("--out", device, "x" * 100_000)
        else:
            outfiles.write("--out", device, "x")
        assert device.is_char_device()
    (tmp_path / "link").symlink_to("file")
    outfiles.write("--out", tmp_path / "link", "x")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "file").read_text() == "x"


@pytest.fixture
def guesses(monkeypatch):
    """Every network gives every class the same probability."""
    probabilities = lambda images: np.full((len(images), 10), 0.1)  # noqa: E731
    network = SimpleNamespace(probabilities=probabilities)
    monkeypatch.setattr(Run, "newest", lambda run, warn: (7, {}))
    monkeypatch.setattr(predict, "Classifier", lambda *_: network)


def test_one_bad_file_does_not_stop_the_others(place, guesses, capsys):
    for name in ("good.png", "in/more.png", "in/.hidden.png", "in/__MACOSX/x.png"):
        (place / name).parent.mkdir(exist_ok=True)
        Image.new("L", (8, 8)).save(place / name)
    shutil.copy(place / "good.png", place / os.fsdecode(b"n\xff.png"))
    (place / "bare").mkdir()
    bad = ["missing.png", "bare", "bar*", "*.bmp", "file", ""]
    arguments = ["run", "good.png", *bad, "in", os.fsdecode(b"n\xff.png")]
    with pytest.raises(SystemExit) as ending:
        cli.end(lambda: cli.run(["predict", *arguments, "--json", "--picture", "x.svg"]))
    said = capsys.readouterr()
    content = json.loads(said.out)
    assert ending.value.code == 1
    assert [p["file"] for p in content["predictions"]] == [
        "good.png",
        "in/more.png",
        os.fsdecode(b"n\xff.png"),
    ]
    lines = said.err.splitlines()
    assert lines == [f"error: {line}" for line in content["refused"]]
    assert len(lines) == len(bad)
    for name in bad:
        assert sum(line.startswith(f"error: {name}") for line in lines) >= 1
    assert (place / "x.svg").is_file()


def test_a_picture_that_fails_takes_no_result_along(place, guesses, capsys, monkeypatch):
    Image.new("L", (8, 8)).save(place / "good.png")

    def full(figure, path):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(plots, "save", full)
    with pytest.raises(SystemExit) as ending:
        cli.end(lambda: cli.run(["predict", "run", "good.png", "--picture", "x.png"]))
    assert ending.value.code == "error: x.png: No space left on device"
    assert capsys.readouterr().out.startswith("good.png: ")


def test_a_full_disk_under_standard_output_takes_no_file_along(place, guesses, full, monkeypatch):
    Image.new("L", (8, 8)).save(place / "good.png")
    result = SimpleNamespace(scores=None)
    monkeypatch.setattr(evaluation, "evaluate", lambda *args, **options: result)
    monkeypatch.setattr(evaluation, "as_json", lambda *args: {"accuracy": 1})
    monkeypatch.setattr(sys, "stdout", streams.Stream(full, "standard output", needed=True))
    for command in ("predict run good.png --picture x.png", "evaluate run --json --out x.json"):
        sys.stdout.failure = None
        with pytest.raises(OSError, match="standard output"):
            cli.run(command.split())
        assert (place / command.split()[-1]).is_file()


LAYERS = [
    ("lenet --classes 0", 1, "--classes=0 is not allowed: from 1 to 1,000,000"),
    ("lenet --classes -3", 1, "--classes=-3 is not allowed: from 1 to 1,000,000"),
    ("lenet --classes 10000000", 1, "--classes=10000000 is not allowed"),
    ("lenet --classes ten", 2, "invalid int value: 'ten'"),
    ("lenet --image 0x1x1", 1, "--image=0x1x1 is not allowed"),
    ("lenet --image 32x32x999999", 1, "each from 1 to 99999"),
    ("lenet --image 1x1x3", 1, "lenet cannot take images of 1x1 pixels: it needs 16x16 at least"),
    ("lenet --image 4x4x3", 1, "lenet cannot take images of 4x4 pixels: it needs 16x16 at least"),
    ("run --classes 0", 1, "run is a run, whose network is fixed"),
    ("folder", 1, "folder is no run folder"),
    ("broken.py", 1, "broken.py line 1: SyntaxError"),
    ("raises.py", 1, "raises.py line 2: ZeroDivisionError"),
    ("none.py", 1, "none.py"),
    ("number.py", 1, "number.py"),
    ("bare.py", 1, "bare.py"),
    ("bytes.py", 1, "bytes.py"),
    ("zeros.py", 1, "zeros.py"),
    ("few.py", 1, "missing or unknown in the configuration: "),
]
CONFIGURATIONS = {
    "broken.py": b"def get_config(:\n",
    "raises.py": b"def get_config():\n    return 1 / 0\n",
    "none.py": b"def get_config():\n    pass\n",
    "number.py": b"def get_config():\n    return 5\n",
    "bare.py": b"",
    "bytes.py": b"\xff\xfe",
    "zeros.py": b"\0\0",
    "few.py": b"from ml_collections import config_dict\n\n\ndef get_config():\n"
    b"    return config_dict.ConfigDict({'seed': 1})\n",
}


@pytest.mark.parametrize(("command", "code", "message"), LAYERS, ids=[row[0] for row in LAYERS])
def test_a_mistake_of_layers_is_one_line(command, code, message, place, capsys):
    for name, content in CONFIGURATIONS.items():
        (place / name).write_bytes(content)
    found, lines = _ended(capsys, "layers", *command.split())
    assert (found, len(lines)) == (code, 1), lines
    assert lines[0].startswith("error: ") and message in lines[0], lines


def _script(name, monkeypatch, capsys, *arguments):
    """Runs a script in this process; returns (exit code, lines of standard error)."""
    folder = ROOT / "scripts" / name
    monkeypatch.syspath_prepend(str(folder.parent))
    module = importlib.import_module(folder.stem)
    monkeypatch.setattr(sys, "argv", [f"{folder.stem}.py", *map(str, arguments)])
    if hasattr(module, "Contender"):
        monkeypatch.setattr(module, "Contender", pytest.fail)  # nothing is measured
    return _ending(capsys, module.main)


SCRIPTS = [
    ("bench/steps --network alexnet", 1, "model.name='alexnet' is unknown"),
    ("bench/steps --config nowhere.py", 1, "nowhere.py: there is no such file"),
    ("bench/steps --config broken.py", 1, "broken.py line 1: SyntaxError"),
    ("bench/steps --network lenet --batch_size 0", 2, "'0' is not allowed: a whole number, at"),
    ("bench/steps --network lenet --threads 0", 2, "'0' is not allowed: a whole number, at least"),
    ("bench/steps --network lenet --threads -1", 2, "'-1' is not allowed: a whole number, at"),
    ("bench/steps --network lenet --rounds 4", 2, "'4' is not allowed: a whole number, at least 5"),
    ("bench/steps --network lenet --out nowhere/x.json", 1, "there is no folder nowhere"),
    ("bench/steps --network lenet --out folder", 1, "--out=folder cannot be written"),
    ("bench/steps --network lenet --peer torch", 1, "pip install 'jaxcnn[bench]'"),
    ("bench/steps", 2, "say which network: --network NAME or --config FILE"),
    ("bench/history --network alexnet", 1, "model.name='alexnet' is unknown"),
    ("bench/history --out nowhere/x.json", 1, "there is no folder nowhere"),
    ("bench/history 0000000", 1, "git log -1 --format=%s 0000000 fails: "),
    ("bench/pairs HEAD HEAD --network alexnet", 1, "model.name='alexnet' is unknown"),
    ("bench/pairs HEAD HEAD --out nowhere/x.json", 1, "there is no folder nowhere"),
    ("bench/layers --out nowhere/x.json", 1, "there is no folder nowhere"),
    ("bench/layers --batch_size 0", 2, "'0' is not allowed"),
    ("bench/profile_step --network alexnet", 1, "model.name='alexnet' is unknown"),
    ("bench/profile_step --network lenet --out folder", 1, "--out=folder cannot be written"),
    ("bench/roofline --network alexnet", 1, "model.name='alexnet' is unknown"),
    ("bench/start --out nowhere/x.json", 1, "there is no folder nowhere"),
    ("bench/scaling --networks alexnet --output x.json", 1, "model.name='alexnet' is unknown"),
    ("bench/scaling --output file/x.json", 1, "file is no folder"),
    ("checks/wrong_commands --count 0", 2, "'0' is not allowed: a whole number, at least 1"),
    ("checks/wrong_commands --count 9 --only 9", 1, "--only=9 is not allowed: from 0 to 8"),
    ("checks/wrong_commands --out nowhere/x.json", 1, "there is no folder nowhere"),
    ("dev/collect", 1, "give run folders, or --table FILE, or --page FOLDER"),
    ("dev/collect folder", 1, "folder is no finished run folder: it has no config.json"),
    ("dev/collect run --out nowhere/x.json", 1, "there is no folder nowhere"),
    ("dev/collect --page nowhere", 1, "nowhere/cifar10.json cannot be read"),
]


@pytest.mark.parametrize(("command", "code", "message"), SCRIPTS, ids=[row[0] for row in SCRIPTS])
def test_a_mistake_of_a_script_is_one_line_before_anything_is_measured(
    command, code, message, place, capsys, monkeypatch
):
    (place / "broken.py").write_bytes(CONFIGURATIONS["broken.py"])
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "torch" else find_spec(name)
    )
    before = _files(place)
    script, *arguments = command.split()
    found, lines = _script(script, monkeypatch, capsys, *arguments)
    assert (found, len(lines)) == (code, 1), lines
    assert lines[0].startswith("error: ") and message in lines[0], lines
    assert _files(place) == before


TABLES = ("bench/steps", "bench/history", "bench/layers", "bench/pairs", "bench/profile_step")
TABLES += ("bench/models", "bench/roofline", "bench/start")


@pytest.mark.parametrize("kind", [*DAMAGE, "keys", "directory", "missing"])
@pytest.mark.parametrize("script", [*TABLES, "bench/scaling", "dev/collect", "dev/collect rates"])
def test_a_damaged_file_of_results_is_named(script, kind, tmp_path, capsys, monkeypatch):
    path = tmp_path / "x.json"
    if kind == "directory":
        path.mkdir()
    elif kind != "missing":
        made = DAMAGE.get(kind, lambda text: '[{"network": 1, "summary": 2}]')('{"results": []}')
        path.write_bytes(made if isinstance(made, bytes) else made.encode())
    if script == "bench/scaling":
        arguments = ["--table", "--output", path]
    elif script.endswith("rates"):
        arguments = ["--table", ROOT / "docs" / "results" / "cifar10.json", "--speeds", path]
    else:
        arguments = ["--table", path]
    code, lines = _script(script.split()[0], monkeypatch, capsys, *arguments)
    assert (code, len(lines)) == (1, 1), lines
    assert lines[0].startswith(f"error: {path} "), lines


@pytest.mark.parametrize("name", ["config.json", "environment.json", "summary.json"])
@pytest.mark.parametrize("kind", DAMAGE)
def test_collect_names_a_damaged_file_of_a_run(name, kind, copy, capsys, monkeypatch):
    _damage(copy, name, DAMAGE[kind])
    code, lines = _script("dev/collect", monkeypatch, capsys, copy)
    assert (code, len(lines)) == (1, 1), lines
    assert lines[0].startswith(f"error: {copy / name} "), lines
