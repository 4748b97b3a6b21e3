"""The site: the reference has all that the program has, commands are right, the tutorial runs."""

import html
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver

from jaxcnn import cli, config, data, models, ops, plots
from jaxcnn.commands import config_flag, train
from jaxcnn.commands.parser import Parser
from jaxcnn.config import files, schema
from jaxcnn.evaluate.run import Run

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

# ml_collections 1.1 executes a configuration file by it.
loads_a_file = pytest.mark.filterwarnings("ignore:the load_module.. method:DeprecationWarning")


@pytest.fixture(scope="module")
def scripts():
    """The scripts that make pages."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "scripts" / "dev"))
        import site_hooks
        import site_pages
        import tutorial
    return site_pages, site_hooks, tutorial


def _help(verb, capsys):
    """Returns what `jaxcnn VERB --help` prints."""
    try:
        cli.run([verb, "--help"])
    except SystemExit as ending:
        assert ending.code == 0
    return capsys.readouterr().out


def test_the_page_of_commands_has_every_verb_with_every_option_of_its_help(scripts, capsys):
    page = scripts[0].commands()
    sections = dict(re.findall(r"^## jaxcnn (\w+)\n(.*?)(?=^## |\Z)", page, re.M | re.S))
    assert list(sections) == list(cli.VERBS)
    for verb, section in sections.items():
        text = _help(verb, capsys)
        declared = re.search(r"^(?:options|flags):\n(.*?)(?:\n\n|\Z)", text, re.M | re.S)[1]
        options = set(re.findall(r"^ +(--[\w\[\]-]+)(?![\w.-])", declared, re.M)) - {"--config"}
        named = set(re.findall(r"^\| `(--[\w\[\]-]+)", section, re.M)) - {"--config"}
        assert named == options, verb
        for example in re.findall(rf"^  (jaxcnn {verb}.*)", text, re.M):
            assert example in section
    assert "`--config`" in sections["train"]


@loads_a_file
def test_the_page_of_settings_has_every_key_with_all_that_is_declared(scripts):
    page = scripts[0].settings()
    rows = re.findall(r'^\| <a id="(.*?)"></a>`(.*?)` \| (.*) \|$', page, re.M)
    assert [key for _, key, _ in rows] == [key for key, _ in schema.walk()]
    for (anchor, key, row), (_, declared) in zip(rows, schema.walk(), strict=True):
        kind, default, allowed, meaning = html.unescape(row).replace("\\*", "*").split(" | ")
        assert (anchor, kind) == (key, declared.kind.__name__)
        assert default.strip("`") == (
            declared.unset if declared.default is None else repr(declared.default)
        )
        assert allowed == declared.check.words or allowed in ("", "True, False")
        assert meaning.replace("`", "") == declared.help.replace("`", "")
    for name in files.names():
        assert f"| `{name}` |" in page


def test_there_is_a_section_on_how_to_use_each_verb():
    headings = re.findall(r"^## .*", (ROOT / "docs/how-to.md").read_text(), re.M)
    named = [verb for heading in headings for verb in re.findall(r"`jaxcnn (\w+)`", heading)]
    assert sorted(named) == sorted(cli.VERBS), "docs/how-to.md: a section for each verb, please"


def _commands(text):
    """Yields the commands in the blocks of code of a page, as lists of words after `jaxcnn`."""
    for line in re.findall(r"^ *(jaxcnn .*)$", text, re.M):
        words = shlex.split(line, comments=True)
        if "--" not in words:
            yield words[1:]
            continue
        place = words.index("--")  # of `jaxcnn launch 2 -- jaxcnn train ...`
        yield [*words[1:place], "--", "true"]
        yield words[place + 2 :]


def _parse(verb, arguments):
    """Parses the arguments of a verb as the program does, without doing anything."""
    module = __import__(f"jaxcnn.commands.{verb}", fromlist=[verb])
    if hasattr(module, "add_arguments"):
        parser = Parser(verb, module.__doc__ or "")
        module.add_arguments(parser)
        parser.parse(arguments)
        return
    with flagsaver.flagsaver():
        found = config_flag.parse(arguments, flags.FLAGS)
    assert not found.rest
    schema.validate(found.config)


@loads_a_file
@pytest.mark.parametrize("page", [*PAGES, ROOT / "docs/tutorial.ipynb"], ids=lambda path: path.name)
def test_commands_on_a_page_are_those_that_the_program_takes(page, scripts):
    text = scripts[2].pages()["tutorial.md"] if page.suffix == ".ipynb" else page.read_text()
    assert train.__name__ in flags.FLAGS.flags_by_module_dict()
    for verb, *arguments in _commands(text):
        if verb == "--help" or arguments in ([], ["--help"]):
            continue
        try:
            _parse(verb, arguments)
        except SystemExit:
            pytest.fail(f"jaxcnn {verb} {shlex.join(arguments)}")
    keys = {f"--{key}" for key, _ in schema.walk()}
    for verb, rest in re.findall(r"`jaxcnn ([a-z_]+)([^`]*)`", text):
        names = {argument.name.split()[0] for argument in scripts[0].help_of(verb).arguments}
        own = rest.partition(" -- ")[0]
        options = {option.partition("=")[0] for option in re.findall(r"(?<= )--[^\s]+", own)}
        assert options <= names | keys | {"--help"}, f"jaxcnn {verb}{rest}"


def test_links_of_a_moved_page_lead_to_pages_and_files_of_the_site(scripts):
    relinked = scripts[1].relinked
    text = "[a](docs/data.md#x) ![b](docs/pictures/curves.png) [c](jaxcnn/ops/README.md) [d](#e)"
    expected = "[a](data.md#x) ![b](pictures/curves.png) [c](ops.md) [d](#e)"
    assert relinked(text, "README.md", "index.md") == expected
    assert relinked("[a](../README.md)", "docs/data.md", "data.md") == "[a](index.md)"
    assert relinked("[a](http://b/c)", "README.md", "index.md") == "[a](http://b/c)"


def test_each_section_on_a_verb_ends_with_a_link_to_its_arguments(scripts):
    text = "# How to\n\nText.\n\n## Train: `jaxcnn train`\n\nText.\n\n## Else\n\nText.\n"
    parts = scripts[1].with_references(text).split("## ")
    link = "Every argument: [`jaxcnn train`](reference/commands.md#jaxcnn-train).\n\n"
    assert parts[1].endswith(link) and "Every" not in parts[0] + parts[2]


def test_the_tutorial_is_kept_as_a_run_has_left_it(scripts):
    cells = [cell for cell in scripts[2].read().cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    kinds = [kind for cell in cells for kind in scripts[2].shown(cell)]
    assert "error" not in kinds and kinds.count("image/png") >= 4


@pytest.mark.slow
@pytest.mark.ci
def test_the_tutorial_runs_and_shows_what_is_kept_of_it(scripts):
    tutorial = scripts[2]
    kept, found = tutorial.read(), tutorial.executed(tutorial.read())
    assert [*map(tutorial.shown, found.cells)] == [*map(tutorial.shown, kept.cells)]


@pytest.mark.slow
@pytest.mark.ci
def test_the_site_is_built_without_a_warning_and_has_every_public_name(scripts, tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    reference = "".join(path.read_text() for path in (tmp_path / "reference").glob("*.html"))
    ids = set(re.findall(r'id="(jaxcnn[\w.]*)"', reference))
    assert {module for _, _, modules in scripts[0].MODULES.values() for module in modules} <= ids
    for package in (config, data, models, ops, plots):
        own = {name.rpartition(".")[2] for name in ids if name.startswith(f"{package.__name__}.")}
        assert set(package.__all__) <= own


@pytest.mark.slow
@pytest.mark.ci
@loads_a_file
def test_python_on_the_pages_runs(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny = ["--train.epochs=1", "--dataset.train_split=train[:64]", "--notrain.plots"]
    assert command("train", "--config=lenet:digits", "--workdir=runs/lenet", *tiny)[0] == 0
    for name in ("mobilenet.safetensors", "mobilenet.stablehlo", "mobilenet.onnx"):
        file_format = name.partition(".")[2]
        assert command("export", "runs/lenet", "--format", file_format, "--out", name)[0] == 0
    run = Run("runs/lenet")
    images = run.dataset().eval.images[:8]
    for name in ("exchange.md", "pretrained.md", "trust.md"):
        given = {"images": images, "classes": np.zeros(8, np.int32)}
        given |= {"module": run.model, "variables": run.trained[1]}
        blocks = re.findall(
            r"^```python\n(.*?)^```", (ROOT / "docs" / name).read_text(), re.M | re.S
        )
        assert blocks, name
        for block in blocks:
            exec(block, given)
        if name == "exchange.md":
            expected = given["program"].call(images)
            np.testing.assert_allclose(given["logits"], expected, rtol=1e-3, atol=1e-3)
