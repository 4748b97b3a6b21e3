"""Exports the network of a run for other programs, and checks that it computes the same there.

jaxcnn export runs/mobilenet --format stablehlo --out mobilenet.stablehlo
jaxcnn export runs/mobilenet --format onnx --out mobilenet.onnx
jaxcnn export runs/resnet --format torch --out resnet.pt --names torchvision
jaxcnn export runs/lenet --format safetensors --out lenet.safetensors

stablehlo (jax.export) and onnx are programs, with their weights, from uint8 images [B, H, W, C] to
logits [B, K]; softmax gives probabilities. torch is a state dict with the names of well-known code,
safetensors arrays with the names of this program and a card. Every file is read back and compared
before it gets its name.
"""

import argparse
from pathlib import Path

from jaxcnn.commands import outfiles
from jaxcnn.commands.console import usage_error, warn
from jaxcnn.evaluate.run import Run
from jaxcnn.exchange import exporting, onnx_file, sources, state_dict, subject
from jaxcnn.runtime import compilation_cache


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the verb."""
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument(
        "--format", required=True, choices=list(exporting.FORMATS), help="format of the file"
    )
    parser.add_argument("--out", required=True, type=Path, help="file to write")
    parser.add_argument(
        "--names",
        choices=sources.SOURCES,
        default="",
        help="torch: whose names; default: by network",
    )
    parser.add_argument(
        "--best", action="store_true", help="the best epoch's checkpoint, not the newest"
    )
    parser.add_argument("--data_dir", default="", help="TFDS directory; default: the run's own")


def run(args: argparse.Namespace) -> None:
    """Writes the file, and prints what it holds and how it compares."""
    if args.names and args.format != "torch":
        usage_error(f"--names belongs to --format torch, not {args.format}")
    outfiles.check_file("--out", args.out, exporting.FORMATS[args.format].suffixes)
    compilation_cache.use_compilation_cache()
    run = Run(args.run)
    if args.format == "onnx":
        onnx_file.check_installed()
    if args.format == "torch":
        state_dict.layout_for(run.model_name, args.names)
    exported = subject.of_run(run, warn, args.best)
    images, which = subject.images_of(exported, args.data_dir)
    found = exporting.export(exported, args.format, args.out, images, args.names)
    print(f"wrote {args.out}: {exported.words}; {args.out.stat().st_size:,} bytes")
    print(f"  {exporting.describe(exported, args.format, args.names)}")
    print(
        f"  read back by {exporting.FORMATS[args.format].reader}: logits differ by "
        f"{found.difference:.1e} of the largest at most, {found.same_classes} of {found.images} "
        f"classes are the same, on {which}"
    )
