"""Makes the pages of the site that say what the program has: commands, settings, Python modules.

python scripts/dev/site_pages.py reference/settings.md     # prints a page

They are made when the site is built, of the parsers, the schema and the docstrings themselves, and
are written nowhere else: so they cannot tell of another version.
"""

import argparse
import contextlib
import dataclasses
import html
import importlib
import inspect
import io
import re
from typing import Any, NamedTuple

from jaxcnn import cli
from jaxcnn.commands import config_flag
from jaxcnn.commands.parser import Parser, script_parser
from jaxcnn.config import compat, files, schema

COMMANDS, SETTINGS = "reference/commands.md", "reference/settings.md"

# Page -> title, what it is for, and the modules on it: what programs and notebooks call.
MODULES = {
    "config": (
        "Configurations",
        "What a training is made of, with every value at its default: see also "
        "[the settings](settings.md).",
        ("jaxcnn.config",),
    ),
    "data": ("Data", "Images and labels as arrays in memory.", ("jaxcnn.data.load",)),
    "models": (
        "Networks",
        "Flax modules by name, and networks with their weights.",
        ("jaxcnn", "jaxcnn.models", "jaxcnn.models.summary"),
    ),
    "train": (
        "Training",
        "One call trains a network and leaves a run folder; an observer watches it.",
        ("jaxcnn.train.fit", "jaxcnn.run.observers", "jaxcnn.runtime.signals"),
    ),
    "evaluate": (
        "Evaluation",
        "A run folder as an object, its network as a function, and what predictions are worth.",
        (
            "jaxcnn.evaluate.run",
            "jaxcnn.evaluate.evaluation",
            "jaxcnn.evaluate.classifier",
            "jaxcnn.evaluate.scores",
            "jaxcnn.evaluate.grad_cam",
        ),
    ),
    "plots": (
        "Pictures",
        "Functions from numbers to matplotlib figures, which `jaxcnn.plots` has all together.",
        tuple(
            f"jaxcnn.plots.{name}"
            for name in (
                *("curves", "images", "classes", "reliability", "grad_cam", "rates"),
                *("tradeoff", "corruptions", "style"),
            )
        ),
    ),
    "exchange": (
        "Import and export",
        "Networks to and from the formats of other programs.",
        ("jaxcnn.exchange.subject", "jaxcnn.exchange.exporting", "jaxcnn.exchange.importing"),
    ),
    "ops": (
        "Operations",
        "Convolutions, pooling and norms for any Flax model: [what they are](../ops.md).",
        ("jaxcnn.ops", "jaxcnn.ops.dense_block.op"),
    ),
    "errors": ("Errors", "What a user can cause, told in a line.", ("jaxcnn.errors",)),
}


class Argument(NamedTuple):
    """An argument of a verb: how it is written, and what it means."""

    name: str
    meaning: str


class Help(NamedTuple):
    """The help of a verb in its parts.

    Attributes:
        summary: What the verb does, in a line.
        examples: Command lines.
        notes: Further paragraphs.
        usage: The form of a command line.
        arguments: All that the verb takes, but for the settings of a training.
    """

    summary: str
    examples: str
    notes: tuple[str, ...]
    usage: str
    arguments: tuple[Argument, ...]


def pages() -> dict[str, str]:
    """Returns the Markdown of every page by its path in the site."""
    api = {f"reference/{name}.md": _api(*row) for name, row in MODULES.items()}
    return {COMMANDS: commands(), SETTINGS: settings(), **api}


def commands() -> str:
    """Returns the page of all verbs."""
    verbs = [(f"[`jaxcnn {verb}`](#jaxcnn-{verb})", does) for verb, does in cli.VERBS.items()]
    return "\n\n".join(
        [
            "# Commands",
            "What `jaxcnn VERB --help` prints. A mistake ends in one line and exit code 2 for "
            "usage, 1 for anything else.",
            _table(("command", "what it does"), verbs),
            *(part for verb in cli.VERBS for part in _verb(verb)),
        ]
    )


def help_of(verb: str) -> Help:
    """Returns the help of a verb, from its parser."""
    module = importlib.import_module(f"jaxcnn.commands.{verb}")
    if not hasattr(module, "add_arguments"):
        return _help_of_flags(verb)
    parser = Parser(verb, module.__doc__ or "")
    module.add_arguments(parser)
    # argparse has no public list of them.
    arguments = tuple(_argument(action) for action in parser._actions if action.dest != "help")
    summary, (examples, *notes) = parser.description or "", _paragraphs(parser.epilog or "")
    usage = parser.format_usage().removeprefix("usage: ")
    return Help(summary, _examples(examples), tuple(notes), inspect.cleandoc(usage), arguments)


def settings() -> str:
    """Returns the page of all keys of the configuration."""
    parts = [
        "# Settings",
        "Every value that shapes a training, once: `--KEY=VALUE` sets it on the command line of "
        "`jaxcnn train`, `--set KEY=VALUE` on that of the other verbs that train, "
        "`config.KEY = VALUE` in a configuration file. A value that is not allowed is refused "
        "before anything is compiled. What the settings of recipes do in full: "
        "[recipes](../recipes.md).",
        "## Configurations of the package",
        "The values in which they differ from the defaults below:",
        _table(("configuration", "what it is", "values"), map(_configuration, files.names())),
    ]
    declared = list(schema.walk())
    sections = {"": "The run as a whole."} | {
        field.name: inspect.cleandoc(type(field.default).__doc__ or "")
        for field in dataclasses.fields(schema.Config)
        if dataclasses.is_dataclass(field.default)
    }
    heads = ("key", "type", "default", "allowed", "meaning")
    for section, words in sections.items():
        rows = [_setting(key, it) for key, it in declared if key.rpartition(".")[0] == section]
        parts += [f"## {section or 'Run'}", words, _table(heads, rows)]
    return "\n\n".join(parts) + "\n"


def _setting(key: str, declared: Any) -> tuple[str, ...]:
    default = f"`{declared.default!r}`" if declared.default is not None else declared.unset
    is_open = declared.check in (schema.ANY, schema.TEXT)
    allowed = "" if is_open else declared.check.words
    if declared.kind is bool:
        allowed = "True, False"
    anchor = f'<a id="{key}"></a>`{key}`'
    return anchor, declared.kind.__name__, default, _text(allowed), _text(declared.help)


def _configuration(name: str) -> tuple[str, str, str]:
    """Returns a configuration's name, its first line, and where it differs from the defaults."""
    source = (files.folder() / f"{name}.py").read_text(encoding="utf-8")
    own, usual = config_flag.load(name), schema.default_config()
    differing = compat.differences(schema.to_dict(usual), schema.to_dict(own))
    first = source.partition('"""')[2].partition("\n")[0]
    return f"`{name}`", first, ", ".join(f"`{key}={value}`" for key, _, value in differing)


def _api(title: str, words: str, modules: tuple[str, ...]) -> str:
    return "\n\n".join([f"# {title}", words, *(f"::: {module}" for module in modules)]) + "\n"


def _verb(verb: str) -> list[str]:
    """Returns the paragraphs of a verb."""
    told = help_of(verb)
    notes = [_block(note) if re.search("  |:\n", note) else _text(note) for note in told.notes]
    keys = "It takes every key of the [settings](settings.md), too." if verb == "train" else ""
    return [
        f"## jaxcnn {verb}",
        _text(told.summary),
        _block(told.examples),
        *notes,
        _block(told.usage),
        _table(
            ("argument", "meaning"), [(f"`{a.name}`", _text(a.meaning)) for a in told.arguments]
        ),
        *filter(None, [keys]),
    ]


def _argument(action: argparse.Action) -> Argument:
    """Returns an argument as it is written, and its help with what argparse adds to it."""
    value = action.metavar or (action.dest if not action.option_strings else action.dest.upper())
    value = value if isinstance(value, str) else " ".join(value)
    repeated = action.nargs in ("*", "+")
    name = ", ".join(action.option_strings)
    if action.nargs != 0:
        name = f"{name} {value}{' ...' if repeated else ''}".strip()
    meaning = [action.help or ""]
    if action.choices is not None:
        meaning.append(f"one of {', '.join(map(str, action.choices))}")
    if action.required and action.option_strings:
        meaning.append("required")
    if isinstance(action, argparse._AppendAction):
        meaning.append("may be given several times")
    return Argument(name, "; ".join(filter(None, meaning)))


def _help_of_flags(verb: str) -> Help:
    """Returns the help of a verb whose arguments are absl flags, from what it prints."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        cli.run([verb, "--help"])
    usage, _, rest = printed.getvalue().partition("\n\n")
    description, _, rest = rest.partition("\n\n")
    examples, *others = _paragraphs(rest)
    (flags,) = (part for part in others if part.startswith("flags:\n"))
    # "  --NAME: what it means", on lines that begin further to the right from the second on; keys
    # of the configuration do so from the first.
    found = re.findall(r"^  (--\S+): (.*(?:\n {4}(?!--config\.[\w.]+: ).*)*)", flags, re.MULTILINE)
    return Help(
        description,
        _examples(examples),
        tuple(part for part in others if part is not flags),
        usage.removeprefix("usage: "),
        tuple(Argument(name, " ".join(text.split())) for name, text in found),
    )


def _paragraphs(text: str) -> list[str]:
    return text.strip().split("\n\n")


def _examples(text: str) -> str:
    return inspect.cleandoc(text.partition("examples:\n")[2])


def _table(heads: tuple[str, ...], rows: Any) -> str:
    lines = [heads, ("---",) * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _block(text: str) -> str:
    return f"```text\n{text}\n```"


def _text(text: str) -> str:
    """Returns Markdown that shows `text`: names of flags, keys and the like as code."""
    escaped = html.escape(text, quote=False).replace("|", "\\|").replace("*", "\\*")
    code = r"(`[^`]*`)|(?<![\w-])(--[\w.-]*\w(?:=[\w.\[\]%:]*[\w\]])?)"
    return re.sub(code, lambda found: found[1] or f"`{found[2]}`", escaped)


def main() -> None:
    """Prints a page."""
    parser = script_parser(__doc__)
    parser.add_argument("page", choices=list(pages()))
    print(pages()[parser.parse_args().page])


if __name__ == "__main__":
    main()
