"""Which wrong commands there are: verbs, flags, keys and files, and what can be wrong with each.

Verbs are those of `jaxcnn.cli.VERBS`, their arguments those of their parsers, the flags of a
training those that its module declares, the keys those of `schema.walk`: a new one is tried
without any change here. `draw` makes trials of them, the same for the same seed and version of
hypothesis.
"""

import functools
import importlib
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import hypothesis
from absl import flags
from hypothesis import strategies as st

from jaxcnn import cli
from jaxcnn.commands.parser import Parser
from jaxcnn.config import schema

# What stands for an argument that is right, by its name.
_RIGHT = {
    "run": ["run"],
    "runs": ["run", "other"],
    "images": ["good.png", "grey.jpg", "pictures"],
    "source": ["lenet:digits"],
    "config": ["lenet:digits"],
    "dataset": ["cifar10"],
    "count": ["1"],
    "file": ["weights.pt"],
}
_TINY = [
    "--train.epochs=1",
    "--optim.warmup_epochs=0",
    "--train.batch_size=32",
    "--train.eval_batch_size=40",
    "--dataset.train_split=train[:64]",
    "--dataset.eval_split=test[:40]",
    "--notrain.plots",
]
_SET = ["--set=" + word[2:] for word in _TINY if "=" in word]
# Commands that are right, by verb; a verb without an entry gets its arguments alone.
_BASES = {
    "train": [
        ["--config=lenet:digits", "--workdir=new", *_TINY, "--dry_run"],
        ["--config=own.py", "--workdir=new", *_TINY, "--dry_run"],
        ["--config=lenet", "--data_dir=data", "--workdir=new", *_TINY, "--dry_run"],
        ["--config=run/config.json", "--workdir=new", "--dry_run"],
        [
            *("--config=lenet:folder", "--data_dir=photos", "--workdir=new", "--dry_run"),
            *("--train.batch_size=4", "--train.class_weights=balanced", "--dataset.image_size=32"),
        ],
        ["--config=lenet:digits", "--workdir=run", *_TINY],
    ],
    "predict": [
        ["run", "good.png", "grey.jpg"],
        ["run", "pictures", "--json"],
        ["--pretrained=lenet", "good.png", "pictures"],
    ],
    "launch": [["1", "--", "true"], ["--devices=1", "2", "--", "true"]],
    "prepare": [
        ["--archive=cifar-10-binary.tar.gz", "--allow-modified", "--data_dir=made"],
        ["--archive=cifar-10-batches-bin", "--allow-modified", "--data_dir=made"],
        ["--data_dir=data"],
        ["--archive=hub", "--allow-modified", "--data_dir=made"],
        ["mnist", "--archive=mnist", "--allow-modified", "--data_dir=made"],
    ],
    "compare": [["run", "other", "--out=report"]],
    "evaluate": [["run"], ["run", "--calibrate", "--out=trusted"]],
    "study": [["--status"], ["--status", "--out=studied"]],
    "sweep": [["lenet:digits", "--set=optim.peak_lr=0.1,0.2", *_SET, "--out=swept"]],
    "lr_find": [["lenet:digits", "--steps=20", *_SET, "--out=found"]],
    "export": [
        ["run", "--format=safetensors", "--out=net.safetensors"],
        ["run", "--format=torch", "--out=net.pt"],
        ["run", "--format=onnx", "--out=net.onnx"],
    ],
    "import": [["weights.pt", "--model=lenet", "--out=imported"]],
    "serve": [["run", "--port=0"], ["run", "other", "--port=0"]],
    "plot": [["run", "--out=drawn"], ["run", "other", "--out=both.png"]],
    "layers": [["lenet:digits"], ["own.py"], ["run"], ["run/config.json"]],
}
# Shares of the trials: what is tried often has many arguments or reads many files.
_ROUNDS = {"train": 8, "predict": 4, "evaluate": 3, "layers": 4, "compare": 1}  # others: 2

WORDS = (
    "three", "", " ",
    "0", "-0", "-1", "1", "1.5", "1e1", "1e999", "-inf", "nan", "0x10", "1_000", "٣", "½",
    "9" * 30, "9" * 5000, "9223372036854775808", "-9223372036854775809", "4294967296",
    "True", "None", "null", "[]", "{}", "(", "(0.5,", "(0.5,0.2)", "('a',)", "1,2", "-", "--",
    "=", "a=b", "%s", "{0}", "$HOME", "\x1b[31m", "a\nb", "\ufeff", "ü", "笑", "a" * 5000,
    "run", "run/config.json", "good.png", "own.py", "nowhere", "nowhere/x", "run/nowhere",
    "good.png/x", "/dev/null", "/dev/full", "/dev/null/x", "/proc/none/x", "n" * 300, "mnist",
    "digits:digits", "lenet:", ":digits", "lenet:MNIST", "cifar-10", "Lenet", "resnet20", "auto",
    "train[:0]", "train[", "train[5:2]", "test+train", "train[:200%]", "0:0", "localhost:99999",
    "32x32x3", "0x0x0", "1x1x1", "32x32", "*", "**", "[", "run/*", "*.png", "x.pdf", "x.bmp",
)  # fmt: skip
FILES = (
    "own.py", "run/config.json", "run/metrics.jsonl", "run/summary.json", "run/environment.json",
    "run/checkpoints/*", "good.png", "grey.jpg", "pictures/*", "cifar-10-binary.tar.gz",
    "cifar-10-batches-bin/*", "data/*", "photos/*", "hub/*", "mnist/*", "weights.pt",
)  # fmt: skip


class Damage(NamedTuple):
    """What happens to a file before the command.

    Attributes:
        file: A pattern below the trial's folder; `/*` at the end stands for all files below.
        kind: cut, flip, insert, overwrite, replace (a value in JSON), delete or folder.
        place: Says which of the files, and where in it.
        value: What is put there.
    """

    file: str
    kind: str
    place: int
    value: bytes


class Trial(NamedTuple):
    """A command, the files that it finds, and what its output is.

    Attributes:
        verb: The verb.
        arguments: What follows it.
        damages: Done to the files before.
        output: An encoding, or "full" or "closed" for a standard output that takes nothing.
    """

    verb: str
    arguments: list[bytes]
    damages: list[Damage]
    output: str


class Surface(NamedTuple):
    """What a verb can be given: positional arguments by name, options, and those without value."""

    positionals: list[str]
    options: list[str]
    switches: list[str]


@functools.cache
def surface(verb: str) -> Surface:
    """Returns what the verb's own code declares."""
    module = importlib.import_module(f"jaxcnn.commands.{verb}")
    if not hasattr(module, "add_arguments"):
        own = flags.FLAGS.flags_by_module_dict().get(module.__name__, [])
        keys = [key for key, _ in schema.walk()]
        switches = [key for key, declared in schema.walk() if declared.kind is bool]
        switches += [f"no{name}" for name in switches]
        names = [flag.name for flag in own] + ["config"] + [f"config.{key}" for key in keys]
        return Surface([], [f"--{name}" for name in names + keys], [f"--{n}" for n in switches])
    parser = Parser(verb, module.__doc__ or "")
    module.add_arguments(parser)
    found = Surface([], [], ["--help"])
    for action in parser._actions:
        if not action.option_strings:
            found.positionals.append(action.dest)
        elif action.nargs == 0:
            found.switches.extend(action.option_strings)
        else:
            found.options.extend(action.option_strings)
    return found


def is_inside(text: bytes) -> bool:
    """Whether an argument can only name what is in the trial's folder, or a device."""
    value = text.rpartition(b"=")[2]
    return b"\0" not in text and b".." not in value and not value.startswith((b"/", b"~"))


_WORD = st.one_of(
    st.sampled_from(WORDS).map(lambda text: text.encode(errors="surrogateescape")),
    st.sampled_from(WORDS).map(lambda text: text.encode(errors="surrogateescape")),
    st.integers().map(lambda number: b"%d" % number),
    st.floats().map(lambda number: repr(number).encode()),
    st.text(max_size=40).map(lambda text: text.encode(errors="replace")).filter(is_inside),
    st.binary(max_size=40).filter(is_inside),
)
_KINDS = ("cut", "flip", "flip", "insert", "overwrite", "replace", "delete", "folder")
_OUTPUTS = ("utf-8",) * 12 + ("ascii", "latin-1", "full", "closed")


@st.composite
def _trial(draw: Any, verb: str) -> Trial:
    """Draws a right command of a verb and makes one to three things wrong."""
    has, keys = surface(verb), [key for key, _ in schema.walk()]
    usual = [[word for name in has.positionals for word in _RIGHT.get(name, ["run"])]]
    arguments = [word.encode() for word in draw(st.sampled_from(_BASES.get(verb, usual)))]
    damages: list[Damage] = []
    for _ in range(draw(st.integers(1, 3))):
        where = draw(st.integers(0, len(arguments)))
        kind = draw(st.sampled_from(("option", "option", "option", "word", "switch", "file")))
        if kind == "file":
            named = b" ".join(arguments)
            files = [file for file in FILES if file.split("/")[0].encode() in named] or FILES
            what, place = draw(st.sampled_from(files)), draw(st.integers(0, 2**40))
            value = draw(st.one_of(st.binary(max_size=20), _WORD))
            damages.append(Damage(what, draw(st.sampled_from(_KINDS)), place, value))
        elif kind == "option" and has.options:
            option = draw(st.sampled_from(has.options)).encode()
            value = draw(_WORD)
            if option == b"--set" and draw(st.booleans()):
                value = draw(st.sampled_from(keys)).encode() + b"=" + value
            joined = draw(st.booleans())
            arguments[where:where] = [option + b"=" + value] if joined else [option, value]
        elif kind == "switch" and has.switches:
            arguments.insert(where, draw(st.sampled_from(has.switches)).encode())
        else:  # an argument too many, another one in its place, or one that is missing
            new = draw(st.lists(_WORD, max_size=1))
            gone = 1 if not new else draw(st.integers(0, 1))
            arguments[where : where + gone] = new
    return Trial(verb, arguments, damages, draw(st.sampled_from(_OUTPUTS)))


def draw(seed: int, count: int) -> list[Trial]:
    """Returns `count` trials of a seed, no two alike; verbs take turns."""
    turns = [verb for verb in cli.VERBS for _ in range(_ROUNDS.get(verb, 2))]
    order = [turns[index % len(turns)] for index in range(count)]
    # Each verb for itself: hypothesis varies what it has drawn, and would stay with a few verbs.
    of_verb = {verb: iter(_draw(seed, verb, order.count(verb))) for verb in set(order)}
    return [next(of_verb[verb]) for verb in order]


def _draw(seed: int, verb: str, count: int) -> list[Trial]:
    """Returns `count` trials of a verb, no two alike."""
    surface(verb)  # read before anything is drawn
    found: dict[str, Trial] = {}

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=2 * count + 20,
        database=None,
        deadline=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(_trial(verb))
    def collect(trial: Trial) -> None:
        found.setdefault(repr(trial), trial)

    collect()
    if len(found) < count:
        raise RuntimeError(f"hypothesis has made {len(found)} different trials of {count}")
    return list(found.values())[:count]


def apply(damage: Damage, folder: Path) -> None:
    """Damages a file below `folder`, if there is one that it fits."""
    name, many, _ = damage.file.partition("/*")
    paths = (
        sorted(p for p in (folder / name).rglob("*") if p.is_file()) if many else [folder / name]
    )
    paths = [path for path in paths if path.is_file()]
    if not paths:
        return
    path, place = paths[damage.place % len(paths)], damage.place // len(paths)
    content = bytearray(path.read_bytes())
    at = place % max(1, len(content))
    if damage.kind == "cut":
        del content[at:]
    elif damage.kind == "flip" and content:
        content[at] ^= 1 << place % 8
    elif damage.kind == "insert":
        content[at:at] = damage.value
    elif damage.kind == "overwrite":
        content[at : at + len(damage.value)] = damage.value
    elif damage.kind == "replace":
        content = bytearray(_replaced(bytes(content), place, damage.value))
    elif damage.kind in ("delete", "folder"):
        path.unlink()
        if damage.kind == "folder":
            path.mkdir()
        return
    path.write_bytes(content)


def _replaced(content: bytes, place: int, value: bytes) -> bytes:
    """Returns JSON, or its first line, with one value replaced; what is no JSON stays as it is."""
    text, newline, rest = content.partition(b"\n" if content[:2] == b'{"' else b"\0")
    try:
        tree = json.loads(text)
    except ValueError:
        return content
    try:
        new: Any = json.loads(value)
    except ValueError:
        new = os.fsdecode(value)
    places = list(_places(tree))
    if places:
        holder, key = places[place % len(places)]
        holder[key] = new
    return json.dumps(tree if places else new).encode() + newline + rest


def _places(tree: Any) -> Any:
    """Yields (container, key) of every value in JSON's content."""
    pairs = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for key, value in list(pairs):
        yield tree, key
        if isinstance(value, dict | list):
            yield from _places(value)
