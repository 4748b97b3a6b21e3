"""Rules of the project itself: layers, doors, no TensorFlow, no pickle."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from jaxcnn.config import schema

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "jaxcnn"
FILES = sorted(PACKAGE.rglob("*.py"))

# Imports go down only: a module may import modules of its own room and of lower levels. A room is a
# module or folder at the top of the package, "" its __init__.py.
LEVELS = [
    {"errors", "ops", "plots", ""},
    {"runtime", "data", "models"},
    {"config"},
    {"run"},
    {"evaluate"},
    {"train"},
    {"report", "study", "doctor", "exchange", "serve"},
    {"commands"},
    {"cli"},
    {"main", "__main__"},
]

# The only module that may import a library, by library.
DOORS = {
    "absl": {"commands"},
    "tensorflow_datasets": {"data"},
    "orbax": {"run"},
    "matplotlib": {"plots"},
    "onnx": {"exchange"},
    "onnxruntime": {"exchange"},
    "rich": {"run"},
    "safetensors": {"models"},
    "sklearn": {"data", "evaluate"},
    "PIL": {"data"},
    "pyarrow": {"data"},
    "scipy": {"data"},
    "starlette": {"serve"},
    "tensorboardX": {"run"},
    "uvicorn": {"serve"},
}


def _room(path):
    """Returns the room: "models" for jaxcnn/models/resnet.py, "main" for jaxcnn/main.py."""
    first = path.relative_to(PACKAGE).parts[0]
    return "" if first == "__init__.py" else first.removesuffix(".py")


def _imports(path):
    """Yields the dotted names that a file imports, at any depth."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _level(room):
    return next(index for index, rooms in enumerate(LEVELS) if room in rooms)


def test_every_module_has_a_level():
    assert {_room(path) for path in FILES} == set().union(*LEVELS)


def test_the_readme_lists_the_same_levels():
    rows = re.findall(r"^\| (\d+) \| (.*?) \|", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert [int(number) for number, _ in rows] == list(range(1, len(LEVELS) + 1))
    named = [{name.strip("`") for name in rooms.split(", ")} for _, rooms in rows]
    assert named == [level - {""} for level in LEVELS]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_down_only(path):
    for name in _imports(path):
        package, *rest = name.split(".")
        if package == "jaxcnn" and rest:
            room = rest[0] if rest[0] != "__version__" else ""
            assert room == _room(path) or _level(room) < _level(_room(path)), name


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_each_library_has_one_door_and_tensorflow_none(path):
    for name in _imports(path):
        library = name.split(".")[0]
        assert library not in ("tensorflow", "torch"), name
        # One file reads the published pickled batches, with a reader that can run nothing.
        assert library != "pickle" or path.name == "unpickle.py", name
        assert _room(path) in DOORS.get(library, {_room(path)}), name


@pytest.mark.parametrize(
    "path", sorted((PACKAGE / "ops").rglob("*.py")), ids=lambda path: path.name
)
def test_ops_imports_nothing_else_of_the_package(path):
    """So that the folder can be copied into another project."""
    for name in _imports(path):
        assert not name.startswith("jaxcnn") or name.startswith("jaxcnn.ops"), name


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_program_is_compiled_as_xla_chooses(path):
    """Which on one version sums wrongly, see `ops.lowering`."""
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    without = [
        call.lineno
        for call in calls
        if isinstance(call.func, ast.Attribute)
        and call.func.attr == "compile"
        and not call.args + call.keywords
    ]
    assert without == []


def test_the_table_of_kills_in_the_documentation_is_the_one_that_the_results_give():
    command = [sys.executable, "scripts/checks/torture.py", "--table"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0 and "byte-equal" in done.stdout, done.stderr
    assert done.stdout in (ROOT / "docs" / "reliability.md").read_text()


def _pages():
    """All pages of the documentation, README included."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), PACKAGE / "ops/README.md"]


def test_every_page_of_the_documentation_is_linked_from_the_readme():
    text = (ROOT / "README.md").read_text()
    pages = {str(path.relative_to(ROOT)) for path in _pages()} - {"README.md"}
    assert pages <= set(re.findall(r"\]\(([\w/.-]+)\)", text))


@pytest.mark.parametrize("page", _pages(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_page_names_only_files_that_exist(page):
    text = page.read_text()
    links = re.findall(r"\]\(([^)#:]+)\)", text)
    missing = [link for link in links if not (page.parent / link).exists()]
    paths = re.findall(r"\b((?:jaxcnn|scripts|configs|tests)/[\w/]+\.(?:py|sh|md))\b", text)
    missing += [path for path in paths if not (ROOT / path).exists()]
    tests = re.findall(r"`(test_\w+\.py)`", text)
    missing += [name for name in tests if not (ROOT / "tests" / name).exists()]
    assert not missing


@pytest.mark.parametrize("page", _pages(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_page_names_only_keys_of_the_configuration(page):
    keys = {key for key, _ in schema.walk()}
    sections = "|".join(sorted({key.partition(".")[0] for key in keys if "." in key}))
    code = " ".join(re.findall(r"`[^`\n]*`|^    .*$", page.read_text(), re.MULTILINE))
    found = re.findall(rf"(?<![\w./])(?:--config\.|--)?((?:{sections})\.\w++)(?!\()", code)
    assert not {key for key in found if not key.endswith(".py")} - keys


def test_the_scripts_in_the_readmes_table_exist():
    rows = re.findall(r"^\| (`(?:bench|checks|dev)/.*?) \|", (ROOT / "README.md").read_text(), re.M)
    named = {name for row in rows for name in re.findall(r"`([\w/]+\.py)`", row)}
    assert named and all((ROOT / "scripts" / name).is_file() for name in named)
