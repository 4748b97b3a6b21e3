"""Writes the reading order of docs/how-it-works.md: the main path, file by file, with its lines.

python scripts/dev/reading_order.py           # writes the table into the page
python scripts/dev/reading_order.py --print

The main path is what `jaxcnn train` runs through, from its flags to the last checkpoint, without
`ops`, with one network of the four. The question of a file is its docstring's first line.
"""

import argparse
import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "jaxcnn"
PAGE = ROOT / "docs" / "how-it-works.md"
BEGIN, END = "<!-- reading order -->", "<!-- end -->"
MOST_LINES = 3500

# In the order in which they are read. A folder's files need not all be here: see `rest`.
MAIN_PATH = (
    "errors.py",
    "config/declare.py",
    "config/schema.py",
    "config/settings.py",
    "data/load.py",
    "data/batches.py",
    "data/augment.py",
    "models/networks.py",
    "models/layers.py",
    "models/mobilenet.py",
    "train/metrics.py",
    "train/optim.py",
    "train/gradients.py",
    "train/step.py",
    "runtime/sharding.py",
    "runtime/compilation.py",
    "runtime/signals.py",
    "train/feed.py",
    "train/programs.py",
    "run/checkpoint.py",
    "run/folder.py",
    "train/loop.py",
    "train/fit.py",
    "commands/config_flag.py",
    "commands/train.py",
)


def lines_of(file: str) -> int:
    """Returns the lines of a file of the package."""
    return len((PACKAGE / file).read_text(encoding="utf-8").splitlines())


def question(file: str) -> str:
    """Returns the first line of a file's docstring."""
    docstring = ast.get_docstring(ast.parse((PACKAGE / file).read_text(encoding="utf-8"))) or ""
    return docstring.partition("\n")[0]


def table() -> str:
    """Returns the files in order with their lines, the sum so far and their question."""
    rows = ["| file | lines | so far | question |", "|---|--:|--:|---|"]
    total = 0
    for file in MAIN_PATH:
        total += lines_of(file)
        rows.append(f"| `{file}` | {lines_of(file)} | {total:,} | {question(file)} |")
    return "\n".join(rows)


def rest() -> str:
    """Returns what is not on the main path, room by room, with its lines."""
    rows = ["| room | lines beside the main path | files |", "|---|--:|---|"]
    others: dict[str, list[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        file = str(path.relative_to(PACKAGE))
        if file not in MAIN_PATH and path.name != "__init__.py":
            others.setdefault(file.split("/")[0].removesuffix(".py"), []).append(file)
    for room, files in others.items():
        names = ", ".join(f"`{file.partition('/')[2] or file}`" for file in files)
        rows.append(f"| {room} | {sum(map(lines_of, files)):,} | {names} |")
    return "\n".join(rows)


def page() -> str:
    """Returns the page with today's tables between its marks."""
    before, _, tail = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = tail.partition(END)
    return f"{before}{BEGIN}\n{table()}\n\nBeside it:\n\n{rest()}\n{END}{after}"


def main() -> None:
    """Runs the program."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--print", action="store_true", help="print the tables, write nothing")
    if parser.parse_args().print:
        print(table(), rest(), sep="\n\n")
    else:
        PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
