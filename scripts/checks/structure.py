"""Counts how the package is built: rooms, imports, function sizes, comments, timings in the code.

python scripts/checks/structure.py                              # this checkout
python scripts/checks/structure.py ../before . --out docs/results/structure.json
python scripts/checks/structure.py . --list timings             # the lines that were counted

Reads source text only; nothing is imported, so any revision of the project can be counted. A room
is a module or folder at the top of `jaxcnn/`.
"""

import argparse
import ast
import graphlib
import io
import json
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PACKAGE = "jaxcnn"
MANY_PARAMETERS = 8
# A measurement: a time, a rate, a ratio of speeds, two figures side by side, or how it was taken.
# What the program promises ("within 10 s", "every 10 s") is none, nor is a size by itself ("4 MB:
# tiles stay in the cache").
_NUMBER = r"(?<![\w.])\d[\d,.]*"
TIMING = re.compile(
    rf"(?<![Ww]ithin )(?<![Ee]very )(?<!after )(?<!most )(?<!is ){_NUMBER} ?"
    r"(?:ms|us|µs|s|min|[GT]FLOP/s|[MG]B/s|images/s)(?![\w/])"
    rf"|{_NUMBER} times (?:as|faster|slower|the)\b"
    rf"|{_NUMBER} ?(?:%|percent) (?:faster|slower|longer|of the (?:step|time))"
    rf"|{_NUMBER} ?(?:ms|s|[MG]B)? (?:against|in place of|instead of) {_NUMBER}"
    r"|\bmedians? of \d|\bEPYC\b"
)
Lines = list[tuple[str, int, str]]


def _files(root: Path) -> list[Path]:
    return sorted((root / PACKAGE).rglob("*.py"))


def _module(root: Path, path: Path) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imported(tree: ast.Module, modules: set[str]) -> Iterator[str]:
    """Yields the modules of the package that a file imports, at any depth of its code."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules)
        elif isinstance(node, ast.ImportFrom) and node.module in modules:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in modules else node.module


def import_graph(root: Path) -> dict[str, set[str]]:
    """Returns for each module of the package those that it imports."""
    paths = {_module(root, path): path for path in _files(root)}
    return {
        name: set(_imported(ast.parse(path.read_text(encoding="utf-8")), set(paths)))
        - {name, PACKAGE}
        for name, path in paths.items()
    }


def _room(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def room_graph(modules: dict[str, set[str]]) -> dict[str, set[str]]:
    """Returns for each room those that it imports."""
    rooms: dict[str, set[str]] = {}
    for name, imported in modules.items():
        rooms.setdefault(_room(name), set()).update(map(_room, imported))
    return {room: imported - {room, ""} for room, imported in rooms.items() if room}


def depth(graph: dict[str, set[str]]) -> int | None:
    """Returns the nodes of the longest chain of imports, or None if there is a cycle."""
    lengths: dict[str, int] = {}
    try:
        for node in graphlib.TopologicalSorter(graph).static_order():
            lengths[node] = 1 + max((lengths[other] for other in graph.get(node, ())), default=0)
    except graphlib.CycleError:
        return None
    return max(lengths.values(), default=0)


def cycles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Returns the groups of nodes that reach each other, rising by name."""

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        left = [start]
        while left:
            new = graph.get(left.pop(), set()) - seen
            seen |= new
            left += new
        return seen

    reach = {node: reached(node) for node in graph}
    groups = {
        tuple(sorted(other for other in reach[node] if node in reach.get(other, ())))
        for node in graph
        if node in reach[node]
    }
    return [list(group) for group in sorted(groups)]


def test_levels(root: Path) -> int | None:
    """Returns how many levels `LEVELS` of tests/test_project.py lists, or None without one."""
    path = root / "tests" / "test_project.py"
    if not path.exists():
        return None
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.List):
            if any(isinstance(t, ast.Name) and t.id == "LEVELS" for t in node.targets):
                return len(node.value.elts)
    return None


def _parameters(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    a = node.args
    named = (*a.posonlyargs, *a.args, *a.kwonlyargs)
    return len([arg for arg in named if arg.arg not in ("self", "cls")])


def functions(root: Path) -> list[tuple[str, int, int, int]]:
    """Returns (file, line, lines, parameters) of each function, nested ones included."""
    return [
        (
            str(path.relative_to(root)),
            node.lineno,
            (node.end_lineno or node.lineno) - node.lineno + 1,
            _parameters(node),
        )
        for path in _files(root)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]


def comments(root: Path) -> Lines:
    """Returns (file, line, text) of each line that holds a comment."""
    return [
        (str(path.relative_to(root)), token.start[0], token.string)
        for path in _files(root)
        for token in tokenize.generate_tokens(
            io.StringIO(path.read_text(encoding="utf-8")).readline
        )
        if token.type == tokenize.COMMENT
    ]


def docstring_lines(root: Path) -> Lines:
    """Returns (file, line, text) of each line of a docstring."""
    found: Lines = []
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for path in _files(root):
        text = path.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, kinds) and ast.get_docstring(node) is not None:
                first = node.body[0]
                numbers = range(first.lineno, (first.end_lineno or first.lineno) + 1)
                source = text.splitlines()
                found += [(str(path.relative_to(root)), n, source[n - 1]) for n in numbers]
    return found


def timings(root: Path) -> Lines:
    """Returns the lines of all paragraphs of comments and docstrings that give a measurement."""
    return [
        line
        for lines in (comments(root), docstring_lines(root))
        for paragraph in _paragraphs(lines)
        if TIMING.search(re.sub("`[^`]*`", "", " ".join(text for _, _, text in paragraph)))
        for line in paragraph
    ]


def _paragraphs(lines: Lines) -> Iterator[Lines]:
    """Yields runs of consecutive lines of a file, cut where a line is blank."""
    paragraph: Lines = []
    for file, number, text in lines:
        blank = not text.strip(' #"')
        if paragraph and (blank or (file, number - 1) != paragraph[-1][:2]):
            yield paragraph
            paragraph = []
        if not blank:
            paragraph.append((file, number, text.strip(" #")))
    if paragraph:
        yield paragraph


def count(root: Path) -> dict[str, Any]:
    """Returns the counts of a checkout."""
    modules = import_graph(root)
    rooms = room_graph(modules)
    all_functions = functions(root)
    lines = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in _files(root))
    longest = max(all_functions, key=lambda f: f[2], default=("", 0, 0, 0))
    entries = [
        path
        for path in (root / PACKAGE).iterdir()
        if path.suffix == ".py" or (path / "__init__.py").exists()
    ]
    show = ["git", "-C", str(root), "rev-parse", "--short", "HEAD"]
    revision = subprocess.run(show, capture_output=True, text=True).stdout.strip()
    return {
        "revision": revision,
        "files": len(modules),
        "lines": lines,
        "top_entries": len(entries),
        "room_edges": sum(map(len, rooms.values())),
        "module_edges": sum(map(len, modules.values())),
        "module_cycles": len(cycles(modules)),
        "room_cycles": len(cycles(rooms)),
        "import_depth": depth(modules),
        "room_depth": depth(rooms),
        "test_levels": test_levels(root),
        "functions": len(all_functions),
        "many_parameters": sum(f[3] >= MANY_PARAMETERS for f in all_functions),
        "most_parameters": max((f[3] for f in all_functions), default=0),
        "longest_function": longest[2],
        "longest_function_at": f"{longest[0]}:{longest[1]}",
        "comment_percent": round(100 * len(comments(root)) / max(1, lines), 1),
        "timing_lines": len(timings(root)),
    }


def table(columns: list[dict[str, Any]]) -> str:
    """Returns the counts in Markdown, a column for each checkout."""
    keys = [key for key in columns[0] if key not in ("revision", "longest_function_at")]
    head = " | ".join(column["revision"] or "-" for column in columns)
    lines = [f"| | {head} |", "|---|" + "--:|" * len(columns)]
    for key in keys:
        values = ("-" if column[key] is None else str(column[key]) for column in columns)
        lines.append(f"| {key.replace('_', ' ')} | {' | '.join(values)} |")
    return "\n".join(lines)


def main() -> int:
    """Runs the program; returns its exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    here = Path(__file__).resolve().parents[2]
    parser.add_argument("checkouts", nargs="*", type=Path, default=[here])
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--list", choices=("timings", "parameters", "long", "edges"))
    options = parser.parse_args()
    for root in options.checkouts:
        if not (root / PACKAGE / "__init__.py").is_file():
            print(f"error: {root} has no {PACKAGE}/: name a checkout", file=sys.stderr)
            return 1
    if options.list:
        print("\n".join(_listing(options.checkouts[0], options.list)))
        return 0
    if options.out and (options.out.is_dir() or not options.out.parent.is_dir()):
        print(f"error: --out={options.out} is no file in a folder that exists", file=sys.stderr)
        return 1
    columns = [count(root) for root in options.checkouts]
    print(table(columns))
    if options.out:
        options.out.write_text(json.dumps(columns, indent=1) + "\n", encoding="utf-8")
    return 0


def _listing(root: Path, what: str) -> list[str]:
    if what == "timings":
        return [f"{file}:{line}: {text.strip()}" for file, line, text in timings(root)]
    if what == "edges":
        graph = room_graph(import_graph(root))
        return [f"{room}: {' '.join(sorted(others))}" for room, others in sorted(graph.items())]
    if what == "parameters":
        many = [f for f in functions(root) if f[3] >= MANY_PARAMETERS]
        return [f"{f[0]}:{f[1]}: {f[3]} parameters" for f in sorted(many, key=lambda f: -f[3])]
    longest = sorted(functions(root), key=lambda f: -f[2])[:20]
    return [f"{f[0]}:{f[1]}: {f[2]} lines" for f in longest]


if __name__ == "__main__":
    sys.exit(main())
