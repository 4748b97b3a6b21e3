"""Imports weights that another program has trained: a run folder for evaluate, predict and export.

jaxcnn import ckpt.pth --model resnet18 --out runs/imported
jaxcnn import resnet34.pt --model resnet34 --dataset cifar100 --out runs/resnet34
jaxcnn import own.safetensors --model lenet --mean 0.5,0.5,0.5 --std 0.2,0.2,0.2 --out runs/own
jaxcnn import densenet.pt --model densenet121 --set model.growth_rate=12 --out runs/densenet

FILE is a safetensors file or one of torch.save, of which nothing is executed: whatever is
not a tensor is refused. Layers are matched by the names of well-known code, or, where names
are unknown, by order and shape. The table says what went where.

The images of a network have to be normalized as in its training. Known sources state their mean
and std; for others give --mean and --std.
"""

import argparse
from pathlib import Path
from typing import Any

from jaxcnn.commands import overrides, training
from jaxcnn.commands.console import warn
from jaxcnn.data.augment import PixelStats
from jaxcnn.errors import UserError
from jaxcnn.exchange import importing, match, network, sources


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the verb."""
    parser.add_argument("file", type=Path, help="safetensors file, or one of torch.save")
    parser.add_argument("--model", required=True, help="the network, see jaxcnn layers --help")
    parser.add_argument("--out", type=Path, required=True, help="run folder to write")
    parser.add_argument(
        "--source", choices=sources.SOURCES, default="", help="whose code it is; default: by names"
    )
    parser.add_argument("--mean", default="", metavar="R,G,B", help="of the pixels, 0 to 1")
    parser.add_argument("--std", default="", metavar="R,G,B", help="of the pixels, 0 to 1")
    parser.add_argument(
        "--dataset",
        choices=importing.DATASETS,
        default="",
        help="whose classes it knows; default: by their number",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="an option of the network, such as model.growth_rate=12",
    )


def run(args: argparse.Namespace) -> None:
    """Prints the table and writes the run folder; a file that does not fit leaves nothing."""
    training.quiet_libraries()
    importing.check_free(args.out)
    options = dict(map(_option, args.set))
    given = _pixels(args.mean, args.std)
    found, card = importing.read(args.file)
    dataset = args.dataset or importing.dataset_of(found)
    if not dataset:
        raise UserError(
            f"{args.file} does not tell its data set by its number of classes: name it with "
            f"--dataset, one of {', '.join(importing.DATASETS)}"
        )
    importing.check_classes(card, dataset, args.file)
    unknown = PixelStats((0.0,) * 3, (1.0,) * 3)
    made = importing.settings(args.model, options, dataset, given or unknown, args.file)
    into = network.describe(args.model, made.create_model(), made.facts.image_shape)
    matched = match.match(
        found, into, args.source, is_ordered=not importing.is_safetensors(args.file)
    )
    print("\n".join(match.as_text(matched.rows)))
    if matched.faults:
        raise UserError(
            f"{args.file} does not fit {args.model}: {'; '.join(matched.faults)}; nothing is "
            "written, see the table"
        )
    stated = matched.layout.pixels.get(dataset) if matched.layout else importing.pixels_of(card)
    pixels = given or stated
    if pixels is None:
        raise UserError(
            f"the mean and std by which the images of {args.file} were normalized in training are "
            f"not known for {dataset}: give --mean R,G,B and --std R,G,B"
        )
    made = importing.settings(args.model, options, dataset, pixels, args.file)
    importing.write_run(args.out, made, matched.arrays, importing.origin(args.file, matched.how))
    if matched.is_by_order:
        warn(
            f"note: matched by {matched.how}; whether the network computes the same is for you to "
            f"check: jaxcnn evaluate {args.out}"
        )
    print(
        f"\nwrote {args.out}: {args.model}, {into.parameters:,} parameters, matched by "
        f"{matched.how}; images are normalized by {sources.in_words(pixels)}"
    )


def _option(text: str) -> tuple[str, Any]:
    """Returns (key, value) of a --set."""
    key, equals, _ = text.partition("=")
    if not equals or not key.startswith("model.") or key in ("model.name", "model.dtype"):
        raise UserError(
            f"--set {text} is not allowed: an option of the network, such as model.growth_rate=12"
        )
    (found,), _ = overrides.split([f"--{text}"])
    return found.key, found.value


def _pixels(mean: str, std: str) -> PixelStats | None:
    """Returns what --mean and --std say; None without them."""
    if not mean and not std:
        return None
    if not mean or not std:
        raise UserError("--mean and --std belong together: give both or none")
    # A std below the thousandth part of full scale is that of no photographs.
    return PixelStats(
        importing.numbers("--mean", mean, 0.0), importing.numbers("--std", std, 0.001)
    )
