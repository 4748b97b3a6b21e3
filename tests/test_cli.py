"""The command `jaxcnn`: its help, its verbs, and the one way in which all of them end."""

import importlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from absl import flags

from jaxcnn import cli, errors
from jaxcnn.commands import config_flag, parser
from jaxcnn.config import files
from jaxcnn.errors import PeerLostError, UserError
from jaxcnn.runtime.signals import Interrupted

# ml_collections 1.1 executes a configuration file by it.
loads_a_file = pytest.mark.filterwarnings("ignore:the load_module.. method:DeprecationWarning")


def _ending(program, capsys):
    """Returns (exit code, standard error) of a program that `cli.end` runs."""
    with pytest.raises(SystemExit) as ending:
        cli.end(program)
    code, error = ending.value.code, capsys.readouterr().err
    # A text as exit code is printed by the interpreter, which then exits with 1.
    return (1, code + "\n") if isinstance(code, str) else (code or 0, error)


def _raise(error):
    raise error


def test_help_fits_a_screen_and_names_every_verb(capsys):
    assert cli.run(["--help"]) is None
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 24 and max(map(len, lines)) <= 80
    for verb in cli.VERBS:
        assert sum(line.startswith(f"  {verb} ") for line in lines) == 1
    assert cli.run([]) is None and capsys.readouterr().out.splitlines() == lines


def test_help_imports_nothing_that_takes_time():
    program = (
        "import sys; from jaxcnn import cli; cli.run(['--help']); "
        "sys.exit(bool({'jax', 'numpy', 'absl', 'matplotlib', 'tensorflow_datasets'} "
        "& set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize("verb", cli.VERBS)
def test_help_of_a_verb_has_examples_that_the_verb_takes(verb, capsys):
    try:
        assert cli.run([verb, "--help"]) is None  # train prints it, argparse exits
    except SystemExit as ending:
        assert ending.code == 0
    text = capsys.readouterr().out
    examples = text.partition("examples:\n")[2].partition("\n\n")[0].splitlines()
    assert examples and all(line.startswith(f"  jaxcnn {verb}") for line in examples)
    if verb in ("train", "layers"):
        for name in ("densenet, lenet, mobilenet, resnet", "resnet56", "mobilenet_v1", "cifar100"):
            assert name in text
    module = importlib.import_module(f"jaxcnn.commands.{verb}")
    for line in examples if hasattr(module, "add_arguments") else ():
        arguments = line.partition("#")[0].replace("'", "").split()[2:]
        verb_parser = parser.Parser(verb, module.__doc__)
        module.add_arguments(verb_parser)
        verb_parser.parse(arguments)


def test_what_follows_two_dashes_is_no_option_of_a_verb_whose_arguments_may_be_missing():
    verb = parser.Parser("x", "Does.\n\nx")
    verb.add_argument("runs", nargs="*", type=Path)
    verb.add_argument("--port", type=int)
    verb.add_argument("--names", nargs="+", default=[])
    verb.set_defaults(intermixed=True)
    found = verb.parse(["a", "--port", "3", "b", "--", "-c", "--port"])
    assert found.runs == [Path("a"), Path("b"), Path("-c"), Path("--port")]
    assert (found.port, found.names) == (3, [])


def test_version(capsys):
    cli.run(["--version"])
    assert capsys.readouterr().out == "jaxcnn 0.1.0\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evalute"], "'evalute' is not a verb, did you mean evaluate?: see jaxcnn --help"),
        (["--nothing"], "'--nothing' is not a verb: see jaxcnn --help"),
        (["layers"], "required: source; see jaxcnn layers --help"),
        (["plot", "run", "--ou", "x"], "unrecognized arguments: --ou"),
        (["prepare", "cifar1"], "invalid choice: 'cifar1'"),
        (["launch", "2", "true"], "unrecognized arguments: true"),
        (["launch", "2"], "a program is required after --; see jaxcnn launch --help"),
    ],
)
def test_a_usage_mistake_is_one_line_and_exit_code_2(arguments, message, capsys):
    with pytest.raises(SystemExit) as ending:
        cli.run(arguments)
    lines = capsys.readouterr().err.splitlines()
    assert ending.value.code == 2
    assert len(lines) == 1 and lines[0].startswith("error: ") and message in lines[0]


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UserError("x=3 is not allowed"), 1, "error: x=3 is not allowed"),
        (PeerLostError("process 1 has ended"), 1, "error: process 1 has ended; the same launch"),
        (FileNotFoundError(2, "No such file", "a.png"), 1, "error: a.png: No such file"),
        (Interrupted(signal.SIGTERM, 7), 143, "stopped after step 7; the same command continues"),
        (KeyboardInterrupt("nothing is lost"), 130, "nothing is lost"),
    ],
)
def test_an_error_ends_in_one_line_and_its_exit_code(error, code, line, capsys):
    found, text = _ending(lambda: _raise(error), capsys)
    assert found == code
    assert len(text.splitlines()) == 1 and text.startswith(line)


def test_an_interrupt_without_a_message_prints_none(capsys):
    assert _ending(lambda: _raise(KeyboardInterrupt), capsys) == (130, "")


def test_a_verb_chooses_its_exit_code(capsys):
    assert [_ending(lambda c=c: c, capsys) for c in (None, 0, 3)] == [(0, ""), (0, ""), (3, "")]


def test_a_mistake_of_ours_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        cli.end(lambda: 1 // 0)


def test_a_reader_that_has_seen_enough_costs_no_traceback():
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "jaxcnn", "--help"], stdout=write, stderr=subprocess.PIPE, text=True
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (1, "")


def test_a_configuration_is_found_by_name_and_by_path(tmp_path, monkeypatch):
    folder = files.folder()
    assert files.names() == ["densenet", "lenet", "mobilenet", "resnet", "speedrun"]
    monkeypatch.chdir(tmp_path)
    assert files.find("lenet:digits") == f"{folder}/lenet.py:digits"
    assert files.find("resnet") == f"{folder}/resnet.py"
    assert files.find(f"{folder}/resnet.py:mnist") == f"{folder}/resnet.py:mnist"
    (tmp_path / "lenet").write_text("")  # a file of one's own comes before a name
    assert files.find("lenet:digits") == "lenet:digits"
    with pytest.raises(UserError, match="mobilnet: there is no such file; .*mean mobilenet?"):
        files.find("mobilnet:digits")
    with pytest.raises(UserError, match="configs/resnet.py: there is no .*did you mean resnet?"):
        files.find("configs/resnet.py")


@loads_a_file
def test_the_short_and_the_long_form_of_a_key_mean_the_same():
    short = ["--train.epochs=3", "--notrain.plots", "--optim.milestones=(0.2,0.4)", "--seed", "5"]
    long = [a.replace("--no", "--noconfig.") if "--no" in a else a for a in short]
    long = [a.replace("--", "--config.") if a[2:4] != "no" else a for a in long]
    first, second = (
        config_flag.parse([*given, "--config", "lenet:digits", "rest"], flags.FlagValues())
        for given in (short, long)
    )
    assert first.config.to_dict() == second.config.to_dict()
    assert first.config.train.epochs == 3 and first.config.seed == 5
    assert first.config.train.plots is False
    assert first.source == "lenet:digits" and first.rest == ["rest"]


@loads_a_file
def test_loading_ends_in_the_same_words_as_training(tmp_path):
    assert config_flag.load("mobilenet:digits").dataset.name == "digits"
    path = tmp_path / "bad.py"
    path.write_text("def get_config():\n    return nothing\n")
    with pytest.raises(UserError, match=r"^\S*bad.py line 2: NameError: name 'nothing'"):
        config_flag.load(str(path))


def test_outside_reasons_are_told_from_mistakes_of_ours():
    assert errors.outside_reason(ValueError("tensorstore: No space left on device")) is not None
    assert errors.outside_reason(ValueError("shapes differ")) is None
