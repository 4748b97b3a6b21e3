"""Files and streams that are not as they should be: each ends in one line, and nothing is lost.

Everything runs in this process, except where the streams of a process are what matters.
"""

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from absl import flags

from jaxcnn import cli
from jaxcnn.commands import streams
from jaxcnn.errors import UserError
from jaxcnn.run.folder import RunDir

ROOT = Path(__file__).parents[1]
TRAIN = ("train", "--config=lenet:digits", "--train.epochs=2", "--notrain.plots")

# ml_collections 1.1 executes a configuration file by it.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module.. method:DeprecationWarning")


def _child(*arguments, environment=None, **options):
    """Runs the command in a process of its own; returns it when it has ended."""
    return subprocess.run(
        [sys.executable, "-m", "jaxcnn", *arguments],
        env={**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT), **(environment or {})},
        stderr=subprocess.PIPE,
        timeout=200,
        **options,
    )


def _ended(capsys, *arguments):
    """Runs the command in this process; returns (exit code, lines of standard error)."""
    for name in [name for name in flags.FLAGS if name.partition(".")[0] == "config"]:
        delattr(flags.FLAGS, name)  # the command defines them from its arguments
    capsys.readouterr()
    with pytest.raises(SystemExit) as ending:
        cli.end(lambda: cli.run([str(argument) for argument in arguments]))
    code, lines = ending.value.code, capsys.readouterr().err.splitlines()
    if isinstance(code, str):  # the interpreter prints it and exits with 1
        lines, code = [*lines, *code.splitlines()], 1
    return code or 0, lines


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
    from jaxcnn.config import schema
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
        run.add_start({"python": "3.11"})
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
    from types import SimpleNamespace

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
    with open("/dev/full", "w") as disk:
        done = _child(*arguments, stdout=disk)
    lines = done.stderr.decode().splitlines()
    assert (done.returncode, len(lines)) == (code, 1) and lines[0].startswith(message), lines


@pytest.mark.parametrize(
    "redirection",
    [
        ">&- 2>&- <&-",
        "| head -1",
        *(pytest.param(s, marks=pytest.mark.slow) for s in (">&-", "2>&-", ">/dev/full")),
    ],
)
def test_a_training_goes_on_without_anybody_who_reads_what_it_says(redirection, tmp_path):
    command = [sys.executable, "-m", "jaxcnn", *TRAIN, f"--workdir={tmp_path / 'run'}"]
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", f'"$@" {redirection}', "sh", *command],
        env={**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)},
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
