"""Mistakes in settings, data sets, launches and surroundings: what a command says of each."""

import json
import sys
from pathlib import Path

import pytest
from absl.testing import flagsaver

from jaxcnn import cli
from jaxcnn.commands import config_flag, train
from jaxcnn.config import schema
from jaxcnn.config.settings import Settings
from jaxcnn.runtime import compilation_cache, memory

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
    "typed.json": OLD_RUN.read_text().replace('"warmup_epochs": 2.0', '"warmup_epochs": "two"'),
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty working directory with the configuration files."""
    for name, text in FILES.items():
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def command(folder, monkeypatch, capsys):
    """Runs a command of the program in this process: returns (exit code, output, error lines)."""
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    monkeypatch.setattr(compilation_cache, "use_compilation_cache", lambda: None)
    monkeypatch.setattr(memory, "configure_malloc", lambda: None)

    def run(*arguments):
        with flagsaver.flagsaver(), pytest.raises(SystemExit) as ending:
            cli.main(arguments)
        said, code = capsys.readouterr(), ending.value.code
        # A text as exit code is printed by the interpreter, which then exits with 1.
        error = said.err + (code if isinstance(code, str) else "")
        return 1 if isinstance(code, str) else code or 0, said.out, error.splitlines()

    return run


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
    return config_flag.parse(arguments, config_flag.flags.FlagValues()).config


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
