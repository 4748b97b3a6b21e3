"""Exports the network of a run for other programs, and checks that it computes the same there.

jaxcnn export runs/mobilenet --format stablehlo --out mobilenet.stablehlo
jaxcnn export runs/mobilenet --format onnx --out mobilenet.onnx
jaxcnn export runs/mobilenet --format onnx --int8 --out mobilenet.int8.onnx
jaxcnn export runs/mobilenet --benchmark --int8 --out speeds.json
jaxcnn export runs/resnet --format torch --out resnet.pt --names torchvision
jaxcnn export runs/lenet --format safetensors --out lenet.safetensors

stablehlo (jax.export) and onnx are programs, with their weights, from uint8 images [B, H, W, C] to
logits [B, K]; softmax gives probabilities. torch is a state dict with the names of well-known code,
safetensors arrays with the names of this program and a card. Every file is read back and compared
before it gets its name; with --int8, accuracies are. --benchmark times the programs: milliseconds
for one image, images per second in batches of 128.
"""

import argparse
import json
from pathlib import Path

from jaxcnn.commands import outfiles
from jaxcnn.commands.console import usage_error, warn
from jaxcnn.data import Dataset
from jaxcnn.evaluate.run import Run
from jaxcnn.exchange import (
    benchmark,
    exporting,
    int8,
    onnx_file,
    sources,
    state_dict,
    subject,
)
from jaxcnn.runtime import compilation_cache


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the verb."""
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument(
        "--format", choices=list(exporting.FORMATS), help="format of the file to write"
    )
    parser.add_argument(
        "--benchmark", action="store_true", help="time the formats instead, on this machine"
    )
    parser.add_argument("--out", type=Path, help="file to write; of --benchmark, JSON")
    parser.add_argument(
        "--int8", action="store_true", help="onnx: 8-bit integers, calibrated on training images"
    )
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
    _check_usage(args)
    compilation_cache.use_compilation_cache()
    run = Run(args.run)
    if args.benchmark or args.format == "onnx":
        onnx_file.check_installed()
    if args.format == "torch":
        state_dict.layout_for(run.model_name, args.names, bool(run.settings.model.plain))
    data = int8.dataset_of(run, args.data_dir) if args.int8 else None
    exported = subject.of_run(run, warn, args.best)
    if args.benchmark:
        _benchmark(exported, args.out, data)
        return
    if data:
        scores = int8.export(exported, args.out, data)
        compared = (
            f"accuracy {100 * scores.int8_accuracy:.2f} %, with float32 "
            f"{100 * scores.float_accuracy:.2f} %, on {scores.images:,} images of "
            f"{run.settings.dataset.eval_split}; calibrated on {scores.calibration_images} images "
            "of the training split"
        )
    elif exporting.FORMATS[args.format].is_program:
        images, which = subject.images_of(exported, args.data_dir)
        found = exporting.export_program(exported, args.format, args.out, images)
        compared = (
            f"read back by {exporting.FORMATS[args.format].reader}: logits differ by "
            f"{found.difference:.1e} of the largest at most, {found.same_classes} of "
            f"{found.images} classes are the same, on {which}"
        )
    else:
        exporting.export_weights(exported, args.format, args.out, args.names)
        compared = f"read back: all {len(exported.arrays)} arrays have the same bits"
    print(f"wrote {args.out}: {exported.words}; {args.out.stat().st_size:,} bytes")
    print(f"  {exporting.describe(exported, args.format, args.names)}")
    print(f"  {compared}")


def _check_usage(args: argparse.Namespace) -> None:
    """Exits where arguments do not go together; UserError where --out cannot be written."""
    if args.benchmark == bool(args.format):
        usage_error("one of --format and --benchmark is required; see jaxcnn export --help")
    if args.format and not args.out:
        usage_error("--format needs --out, the file to write; see jaxcnn export --help")
    if args.names and args.format != "torch":
        usage_error("--names belongs to --format torch")
    if args.int8 and args.format not in (None, "onnx"):
        usage_error("--int8 belongs to --format onnx, or to --benchmark")
    if args.out:
        suffixes = (".json",) if args.benchmark else exporting.FORMATS[args.format].suffixes
        outfiles.check_file("--out", args.out, suffixes)


def _benchmark(exported: subject.Subject, out: Path | None, data: Dataset | None) -> None:
    """Prints how fast the formats are, and writes it as JSON."""
    write_int8 = None if data is None else lambda plain, path: int8.write(plain, path, data)
    report = benchmark.measure(exported, write_int8, say=warn)
    try:  # whichever of the two fails, the other one has the result
        print(benchmark.as_text(report))
    finally:
        if out:
            outfiles.write("--out", out, json.dumps(report, indent=2) + "\n")
