"""Mistakes in settings, data sets, launches and surroundings: what a command says of each."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from absl import flags

from jaxcnn.commands import config_flag, train
from jaxcnn.config import schema
from jaxcnn.config.settings import Settings
from jaxcnn.runtime import launchers

OLD_RUN = Path(__file__).parent / "data" / "old_config.json"
FILES = {
    "none.py": "def get_config():\n    pass\n",
    "dict.py": "def get_config():\n    return {'train': 1}\n",
    "empty.py": "",
    "fixed.py": "from jaxcnn.config import default_config\n\n\ndef get_config():\n"
    "    return default_config()\n",
    "broken.py": "def get_config():\n    return 1 / 0\n",
    "exits.py": "import sys\n\nsys.exit('enough')\n",
    "syntax.py": "def get_config(:\n",
    "latin.py": b"# \xe9\n",
    "recipe.py": "from jaxcnn.config import default_config\n\nNAME = 'mnist'\n",
    "neighbor.py": "import recipe\n\n\ndef get_config():\n    config = recipe.default_config()\n"
    "    config.dataset.name = recipe.NAME\n    return config\n",
    "old.json": OLD_RUN.read_text(),
    "list.json": "[1, 2]",
    "cut.json": OLD_RUN.read_text()[:200],
    "partial.json": '{"seed": 0, "train": {}}',
    "dotted.json": '{"train": {"epochs": 1}, "train.epochs.more": 2}',
    "typed.json": OLD_RUN.read_text().replace('"warmup_epochs": 2.0', '"warmup_epochs": "two"'),
}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """An empty working directory with the configuration files."""
    for name, text in FILES.items():
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    monkeypatch.chdir(tmp_path)
    return tmp_path


LENET = "--config=lenet:digits"
MISTAKES = {
    "the last of two values": (
        [LENET, "--config.train.epochs=1", "--config.train.epochs=1e1"],
        "--config.train.epochs=1e1 is not allowed: int, at least 1",
    ),
    "a flag that is no bool": ([LENET, "--dry_run=maybe"], "flag --dry_run=maybe: "),
    "a value after a space": (
        [LENET, "--config.train.epochs", "three"],
        "--config.train.epochs=three is not allowed: int, at least 1",
    ),
    "no value": ([LENET, "--train.epochs"], "--train.epochs needs a value: int, at least 1"),
    "no of what is no switch": ([LENET, "--notrain.epochs"], "--notrain.epochs is not allowed"),
    "a switch that is no switch": ([LENET, "--train.plots=perhaps"], "--train.plots=perhaps is"),
    "a tuple cut short": ([LENET, "--optim.milestones=(0.5,"], "--optim.milestones=(0.5, is not"),
    "unset what has a value": ([LENET, "--train.epochs=None"], "--train.epochs=None is not"),
    "a section": ([LENET, "--train=3"], "Unknown command line flag 'train'"),
    "a flag with a typo": ([LENET, "--workdr=x"], "'workdr': did you mean --workdir?"),
    "the flag itself with a typo": (["--confg=lenet"], "'confg': did you mean --config?"),
    "None": (["--config=none.py"], "none.py: get_config() returned NoneType in place of the"),
    "a dict": (["--config=dict.py"], "dict.py: get_config() returned dict in place of the"),
    "nothing": (["--config=empty.py"], "empty.py has no function get_config()"),
    "no parameter": (["--config=fixed.py:mnist"], "use --dataset.name=mnist"),
    "an error": (["--config=broken.py"], "broken.py line 2: ZeroDivisionError: division by zero"),
    "an exit": (["--config=exits.py"], "exits.py line 3: SystemExit: enough"),
    "a syntax error": (["--config=syntax.py"], "syntax.py line 1: SyntaxError: "),
    "another encoding": (["--config=latin.py"], "latin.py"),
    "JSON of another shape": (["--config=list.json"], "list.json is not what a run writes: it"),
    "half a JSON": (["--config=cut.json"], "cut.json is not JSON ("),
    "JSON without keys": (["--config=partial.json"], "partial.json is not what a run writes: "),
    "JSON of another kind": (["--config=dotted.json"], "its keys are no configuration's"),
    "JSON of other types": (["--config=typed.json"], "optim.warmup_epochs='two' is not allowed"),
    "JSON with a data set": (["--config=old.json:mnist"], "use --dataset.name=mnist"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_message_names_what_was_wrong(mistake, command, folder):
    arguments, expected = MISTAKES[mistake]
    before = sorted(folder.iterdir())
    code, output, lines = command("train", *arguments)
    assert (code, output) == (1, "") and len(lines) == 1, lines
    assert lines[0].startswith("error: ") and expected in lines[0]
    assert [p for p in sorted(folder.iterdir()) if p.name != "__pycache__"] == before


@pytest.mark.parametrize("file", ["broken.py", "none.py", "list.json", "latin.py"])
def test_layers_says_the_same_of_a_file_as_train(file, command):
    _, _, told = command("train", f"--config={file}")
    assert command("layers", file) == (1, "", told)


def _parse(*arguments):
    return config_flag.parse(arguments, flags.FlagValues()).config


def test_none_unsets_and_the_last_value_counts(folder):
    assert _parse("--config=mobilenet", "--model.width=0.5").model.width == 0.5
    assert (
        _parse("--config=mobilenet", "--model.width=0.5", "--model.width=None").model.width is None
    )
    assert _parse("--config=mobilenet", "--model.width", "None", "--model.width=2").model.width == 2


def test_a_configuration_file_imports_its_neighbors(folder):
    before = list(sys.path)
    assert _parse("--config=neighbor.py").dataset.name == "mnist"
    assert sys.path == before


def test_the_configuration_of_a_run_starts_the_same_run_anew(folder, dataset):
    begun = schema.default_config()
    begun.model.name, begun.dataset.name, begun.optim.milestones = "resnet20", "noise", (0.3,)
    settings = Settings.resolve(begun, dataset)
    (folder / "runs" / "one").mkdir(parents=True)
    path = folder / "runs" / "one" / "config.json"
    path.write_text(json.dumps(settings.to_json()))
    again = Settings.resolve(_parse(f"--config={path}"), dataset)
    assert again == settings
    assert train.default_workdir(str(path)) == "runs/one-anew"
    assert _parse(f"--config={path}", "--seed=7").seed == 7


@pytest.mark.parametrize("name", ["mnist", "digits", "cifar10", "fashion_mnist", "emnist/letters"])
def test_a_data_set_has_one_recipe_however_it_is_named(name, folder, dataset):
    def recipe(*arguments):
        resolved = Settings.resolve(_parse(*arguments), dataset).to_json()
        return {key: value for key, value in resolved.items() if key != "dataset"}

    by_colon = recipe(f"--config=lenet:{name}")
    assert recipe("--config=lenet", f"--dataset.name={name}") == by_colon
    assert recipe("--config=lenet:svhn_cropped", f"--config.dataset.name={name}") == by_colon
    assert by_colon["augment"]["flip"] == (name in ("cifar10", "fashion_mnist"))
    assert recipe("--config=lenet", f"--dataset.name={name}", "--augment.flip")["augment"]["flip"]
    unset = recipe(f"--config=lenet:{name}", "--augment.flip", "--augment.flip=None")
    assert unset == by_colon


def test_a_file_that_names_its_data_set_gets_its_mirroring_too(folder, dataset):
    assert Settings.resolve(_parse("--config=neighbor.py"), dataset).augment.flip is False


JOIN = ("--coordinator=127.0.0.1:2345", "--num_processes=2", "--process_id=0")
PROCESSES = {
    "a port beyond all": ((JOIN[0] + "6789", *JOIN[1:]), "a port is from 1 to 65535"),
    "port 0": (("--coordinator=localhost:0", *JOIN[1:]), "a port is from 1 to 65535"),
    "no port": (("--coordinator=localhost", *JOIN[1:]), "HOST:PORT of process 0"),
    "no process": ((JOIN[0], "--num_processes=0", JOIN[2]), "--num_processes=0 is not allowed"),
    "too high": ((*JOIN[:2], "--process_id=2"), "--process_id=2 is not allowed: from 0 to 1"),
    "negative": ((*JOIN[:2], "--process_id=-1"), "--process_id=-1 is not allowed: from 0 to 1"),
    "no number": ((*JOIN[:2], "--process_id=one"), "flag --process_id=one: "),
    "one of three": (JOIN[:1], "--num_processes and --process_id missing"),
    "not of this machine": (
        ("--coordinator=192.0.2.1:2345", *JOIN[1:]),
        "cannot listen at --coordinator=192.0.2.1:2345 (Cannot assign requested address)",
    ),
    "no host": (("--coordinator=no.such.invalid:2345", *JOIN[1:]), "name an address of this"),
}


@pytest.mark.parametrize("mistake", PROCESSES)
def test_flags_of_several_processes_are_checked_before_any_waiting(mistake, command, folder):
    arguments, expected = PROCESSES[mistake]
    code, output, lines = command("train", LENET, *arguments)
    assert (code, output, len(lines)) == (1, "", 1) and expected in lines[0], lines
    assert not (folder / "runs").exists()


def test_a_port_that_is_taken_is_named(command):
    with contextlib.closing(socket.socket()) as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        coordinator = f"--coordinator=127.0.0.1:{other.getsockname()[1]}"
        code, _, lines = command("train", LENET, coordinator, *JOIN[1:])
    assert code == 1 and f"{coordinator} (Address already in use)" in lines[0]


SLURM = {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "2"}
WHOLE = {"SLURM_JOB_ID": "1", "SLURM_STEP_NODELIST": "a", "SLURM_NTASKS": "2", "SLURM_LOCALID": "0"}
HALF_SET = {
    "SLURM_JOB_ID, SLURM_STEP_NODELIST, SLURM_NTASKS, SLURM_LOCALID not set": SLURM,
    "SLURM_JOB_ID=x is not a number": SLURM | WHOLE | {"SLURM_JOB_ID": "x"},
    "SLURM_STEP_NUM_TASKS=two is not a number": SLURM | {"SLURM_STEP_NUM_TASKS": "two"},
    "OMPI_COMM_WORLD_RANK": {"OMPI_COMM_WORLD_SIZE": "2"},
    "OMPI_COMM_WORLD_SIZE= is not a number": {"OMPI_COMM_WORLD_SIZE": ""},
    "kubernetes is not installed": {"KUBERNETES_SERVICE_HOST": "::1", "JOB_COMPLETION_INDEX": "0"},
}


@pytest.mark.parametrize("expected", HALF_SET)
def test_half_set_variables_of_a_launcher_end_with_how_to_train_alone(
    expected, command, monkeypatch
):
    for name, value in HALF_SET[expected].items():
        monkeypatch.setenv(name, value)
    code, output, lines = command("train", LENET)
    assert (code, output, len(lines)) == (1, "", 1)
    assert expected in lines[0]
    alone = lines[0].rpartition("to train alone, unset ")[2]
    assert alone in HALF_SET[expected]
    monkeypatch.delenv(alone)
    assert launchers.launched_by(os.environ) is None


# A shell that starts this in the background has the signal ignored, which Python would respect.
WAITING = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from jaxcnn import cli
from jaxcnn.runtime import distributed
distributed.START_SECONDS, distributed.TELL_SECONDS = int(sys.argv[1]), 0.5
number = sys.argv[2]
port = distributed.launchers.socket.socket()
port.bind(("127.0.0.1", 0))
address = "127.0.0.1:%d" % port.getsockname()[1]
port.close()
cli.end(lambda: distributed.initialize(address, 2, int(number)))
"""


@pytest.mark.parametrize(("number", "whom"), [(0, "the other processes"), (1, "process 0 and the")])
def test_a_process_that_waits_says_so_and_can_be_stopped(number, whom):
    command = [sys.executable, "-c", WAITING, "300", str(number)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        line = process.stderr.readline()
        assert line.startswith(f"waiting for {whom}") and "at most 300" in line
        process.send_signal(signal.SIGINT)
        try:
            assert process.wait(timeout=20) == 130
        finally:
            process.kill()  # else leaving the block waits for it
        assert process.stderr.read().startswith("stopped while waiting for")


def test_waiting_ends_with_a_line():
    command = [sys.executable, "-c", WAITING, "2", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1, done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: process 0 and the others")


LAUNCHES = {
    "unknown": (["2", "--", "no-such-program"], "no-such-program cannot be started (No such file"),
    "a folder": (["2", "--", "/"], "/ cannot be started (Permission denied)"),
    "no process": (["0", "--", "true"], "0 processes are not allowed: 1 to"),
    "too many": (["100000", "--", "true"], "100000 processes are not allowed: 1 to"),
    "no device": (["--devices", "0", "1", "--", "true"], "--devices=0 is not allowed: 1 to"),
    "less": (["--devices", "-1", "1", "--", "true"], "--devices=-1 is not allowed: 1 to"),
    "both": (["--devices", "1", "--gpus", "1", "--", "true"], "give one of them"),
}


@pytest.mark.parametrize("mistake", LAUNCHES)
def test_a_launch_that_cannot_be_ends_in_one_line(mistake, command):
    arguments, expected = LAUNCHES[mistake]
    code, output, lines = command("launch", *arguments)
    assert (code, output, len(lines)) == (1, "", 1) and expected in lines[0], lines


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_output_of_a_launched_program_may_be_of_any_encoding(encoding):
    program = "import sys; sys.stdout.buffer.write(b'a\\xff\\n' * 40_000 + 'ü end'.encode())"
    launch = [sys.executable, "-m", "jaxcnn", "launch", "1", "--", sys.executable, "-c", program]
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    done = subprocess.run(launch, capture_output=True, env=environment, timeout=60)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.decode(encoding).splitlines()
    assert len(lines) == 40_001 and lines[-1].endswith(" end")


def test_a_reader_of_a_launch_that_has_seen_enough_does_not_stop_the_processes():
    program = "import sys; print('a\\n' * 100_000); open(sys.argv[1], 'w').close()"
    with tempfile.TemporaryDirectory() as folder:
        after = Path(folder, "after")
        launch = [sys.executable, "-m", "jaxcnn", "launch", "1", "--", sys.executable, "-c"]
        read, write = os.pipe()
        os.close(read)
        done = subprocess.run([*launch, program, str(after)], stdout=write, timeout=60)
        os.close(write)
        assert after.exists() and done.returncode in (0, 1)
