r"""Collects finished runs into one JSON file, and writes the tables and pages made of such files.

python scripts/dev/collect.py runs/lenet runs/mobilenet --out docs/results/cifar10.json
python scripts/dev/collect.py --table docs/results/cifar10.json \
    --speeds docs/results/cpu-steps-*.json                # the README's table
python scripts/dev/collect.py --page docs/results         # writes docs/results.md

The README's speeds are not those of the runs, which other programs may have slowed down, but come
from files of scripts/bench/steps.py: float32, batch 128, the median of several files.
"""

import json
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jaxcnn import cli
from jaxcnn.commands import outfiles
from jaxcnn.commands.parser import script_parser
from jaxcnn.errors import UserError
from jaxcnn.run import shapes
from jaxcnn.run.files import shown
from jaxcnn.runtime import environment
from jaxcnn.study import sweep

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "checks"))

import interchange  # noqa: E402 (a script, not a module of the package)
import structure  # noqa: E402 (likewise)
import sums  # noqa: E402 (likewise)
import torch_training  # noqa: E402 (likewise)

# Beginning of a file's name -> the script that writes it, and what it holds.
WRITERS = {
    "cifar10-first-epochs": ("-", "one epoch on 4,000 images, noted by hand"),
    "cifar10": ("dev/collect.py", "trainings"),
    "cpu-layers": ("bench/layers.py", "algorithms for single convolutions"),
    "cpu-profile": ("bench/profile_step.py", "what a training step spends its time on"),
    "cpu-history": ("bench/history.py", "this project's versions"),
    "cpu-": ("bench/steps.py", "training steps against PyTorch and stock Flax"),
    "models": ("bench/models.py", "networks that are not jaxcnn's, and stock JAX"),
    "pairs": ("bench/pairs.py", "two versions of the program, their speed"),
    "scaling": ("bench/scaling.py", "the cost of devices, input and calls"),
    "sweep": ("jaxcnn sweep", "recipes tried on held-out training images"),
    "study": ("jaxcnn study", "the networks of the study, by one command"),
    "torch-training": ("checks/torch_training.py", "training here and in PyTorch, by seeds"),
    "seeds": ("bench/seeds.py", "several seeds in one call, or one after another"),
    "devices": ("checks/devices.py", "the same training on any number of devices"),
    "folder-memory": ("checks/folder_memory.py", "the memory of training on photographs"),
    "interchange": ("checks/interchange.py", "weights from and networks for other programs"),
    "export-speeds": ("jaxcnn export --benchmark", "exported networks, their speed"),
    "serve-load": ("checks/serve_load.py", "a thousand images for the server of the page"),
    "trust": ("jaxcnn evaluate", "errors under corruptions, and calibration"),
    "sums": ("checks/sums.py", "XLA's CPU options that compute correctly"),
    "torture": ("checks/torture.py", "runs that were killed, and their ends"),
    "planted-faults": ("checks/planted_faults.py", "faults that the fast tests find"),
    "wrong-commands": ("checks/wrong_commands.py", "how wrong commands end"),
    "speedrun": ("bench/speedrun.py", "the recipe of configs/speedrun.py by seeds, and PyTorch"),
    "start": ("bench/start.py", "the time from the command to the first step"),
    "steps": ("bench/steps.py", "training steps against PyTorch, and without oneDNN"),
    "roofline": ("bench/roofline.py", "steps against the machine's limits"),
    "structure": ("checks/structure.py", "how the package is built"),
    "same-numbers": ("checks/same_numbers.py", "two versions of the program, byte for byte"),
}


def collect(run: Path) -> dict[str, Any]:
    """Returns what a finished run says of itself: command-line facts, environment and result."""
    collected: dict[str, Any] = {"run": shown(Path(run.name))}
    for name, part in _PARTS.items():
        path = run / f"{name}.json"
        if not path.is_file():
            raise UserError(f"{run} is no finished run folder: it has no {name}.json")
        collected |= outfiles.read(path, part)
    return collected


def _of_config(content: dict[str, Any]) -> dict[str, Any]:
    section = content["dataset"]
    return {"data": str(section["fingerprint"]), "train_split": str(section["train_split"])}


def _of_environment(content: dict[str, Any]) -> dict[str, Any]:
    start = content["starts"][-1]
    for name in ("jax", "flax"):
        start["packages"][name]  # the table tells these two
    keys = ("git_revision", "packages", "platform", "cpu", "cpu_count")
    return {"starts": len(content["starts"]), **{key: start[key] for key in keys}}


def _of_summary(content: dict[str, Any]) -> dict[str, Any]:
    if fault := shapes.summary_fault(content) or (content is None and "it is null"):
        raise ValueError(fault)
    return {"summary": content}


# What is taken of each file of a run.
_PARTS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "config": _of_config,
    "environment": _of_environment,
    "summary": _of_summary,
}


def speeds(files: list[Path]) -> dict[str, float]:
    """Returns training images/s of each network in files of scripts/bench/steps.py."""
    found: dict[str, list[float]] = {}
    for path in files:
        for network, rate in outfiles.read(path, _rates):
            found.setdefault(network, []).append(rate)
    return {network: statistics.median(rates) for network, rates in found.items()}


def _rates(reports: list[dict[str, Any]]) -> list[tuple[str, float]]:
    """Returns (network, images/s) of the reports in question; ValueError if there is no report."""
    if not reports:
        raise ValueError("there is none")
    return [
        (str(report["network"]), float(report["results"][0]["images_per_second"]))
        for report in reports
        if (report["batch_size"], report["dtype"]) == (128, "float32")
    ]


def table(results: list[dict[str, Any]], rates: dict[str, float]) -> str:
    """Returns the results as a Markdown table with a line on how they were made."""
    lines = [
        "| network | parameters | multiply-adds | epochs | training images | test accuracy "
        "| test loss | images/s |",
        "|---|--:|--:|--:|---|--:|--:|--:|",
    ]
    for result in results:
        row = result["summary"]
        rate = f"{rates[row['model']]:,.0f}" if row["model"] in rates else "-"
        lines.append(
            f"| {row['model']} | {row['parameters']:,} | {row['flops'] / 1e6:.1f} M "
            f"| {row['epoch']} | `{result['train_split']}` | {100 * row['eval_accuracy']:.2f} % "
            f"| {row['eval_loss']:.3f} | {rate} |"
        )
    return "\n".join([*lines, "", _conditions(results)])


def _conditions(results: list[dict[str, Any]]) -> str:
    machines: dict[str, list[str]] = {}
    for result in results:
        machine = (
            f"{environment.cores_of(result['cpu_count'], result['cpu'])}, "
            f"jax {result['packages']['jax']}, "
            f"flax {result['packages']['flax']}"
        )
        machines.setdefault(machine, []).append(result["summary"]["model"])
    if len(machines) == 1:
        where = "".join(machines)
    else:  # named by networks, the most frequent one is that of the others
        (most, _), *others = sorted(machines.items(), key=lambda item: -len(item[1]))
        named = [f"{', '.join(networks)} on {machine}" for machine, networks in others]
        where = "; ".join([*named, f"the others on {most}"])
    copies = sorted({result["data"] for result in results})
    note = " (JPEG copy)" if any("modified" in copy for copy in copies) else ""
    return f"One run each, {where}; data: {', '.join(copies)}{note}."


def trainings(results: list[dict[str, Any]]) -> str:
    """Returns all that was seen in trainings, as a Markdown table."""
    lines = [
        "| network | epochs | training images | training loss | test accuracy | test loss "
        "| minutes | images/s | revision |",
        "|---|--:|---|--:|--:|--:|--:|--:|---|",
    ]
    for result in results:
        row = result["summary"]
        accuracy, loss = row.get("eval_accuracy"), row.get("eval_loss")
        lines.append(
            f"| {row['model']} | {row['epoch']} | `{result['train_split']}` "
            f"| {row['train_loss']:.3f} "
            f"| {'-' if accuracy is None else f'{100 * accuracy:.2f} %'} "
            f"| {'-' if loss is None else f'{loss:.3f}'} | {row['total_seconds'] / 60:.1f} "
            f"| {row['images_per_second']:,.0f} | {result.get('git_revision', '-')[:7]} |"
        )
    return "\n".join([*lines, "", _conditions(results)])


def same_numbers(report: dict[str, Any]) -> str:
    """Returns a report of scripts/checks/same_numbers.py as a Markdown table."""

    def words(part: dict[str, Any]) -> str:
        of = f"of {part['arrays']} arrays and {part['epochs']} epochs"
        return f"equal, {of}" if part["equal"] else f"**{len(part['differing'])} differ** {of}"

    lines = ["| case | devices | from the start | continued |", "|---|--:|---|---|"]
    for case in report["cases"]:
        start, continued = words(case["from_the_start"]), words(case["continued"])
        step = case["continued"]["from_step"]
        lines.append(
            f"| {case['case']} | {case['devices']} | {start} | {continued}, from step {step} |"
        )
    versions = f"{report['base']} against {report['here']}"
    return "\n".join([*lines, "", f"{versions}, {report['machine']}, jax {report['jax']}."])


def index(files: list[Path]) -> str:
    """Returns which script writes each of the files, as a Markdown table.

    Raises:
        UserError: If a file is not among those that a script is known to write.
    """
    lines = ["| file | content | written by |", "|---|---|---|"]
    for path in files:
        known = (entry for prefix, entry in WRITERS.items() if path.name.startswith(prefix))
        script, content = next(known, (None, None))
        if script is None:
            raise UserError(f"{path} is written by no known script: add it to WRITERS")
        is_script = script != "-" and not script.startswith("jaxcnn ")
        written = f"`scripts/{script}`" if is_script else script
        lines.append(f"| [{path.name}](results/{path.name}) | {content} | {written} |")
    return "\n".join(lines)


def export_speeds(files: Sequence[Path]) -> str:
    """Returns the table of files of `jaxcnn export --benchmark`, which are of one machine."""
    lines = [
        "| network | format | ms for one image | images/s in batches of 128 | bytes |",
        "|---|---|--:|--:|--:|",
    ]
    origins = set()
    for path in files:
        report = outfiles.read(path, lambda found: {**found, "formats": list(found["formats"])})
        origins.add(
            f"{report['machine']}, jax {report['versions']['jax']}, onnxruntime "
            f"{report['versions']['onnxruntime']}."
        )
        for row in report["formats"]:
            size = "-" if row["bytes"] is None else f"{row['bytes']:,}"
            lines.append(
                f"| {report['network']} | {row['format']} | {row['latency_ms']:.2f} | "
                f"{row['images_per_second']:,.0f} | {size} |"
            )
    return "\n".join([*lines, "", *sorted(origins)])


def page(folder: Path) -> str:
    """Returns the page on all results in `folder`, in Markdown."""

    def trained(name: str) -> list[dict[str, Any]]:
        return outfiles.read(
            folder / name, lambda found: [dict(f) for f in found if trainings([f])]
        )

    parts = [
        "# Results",
        "Written by `python scripts/dev/collect.py --page docs/results`: edit that, not this page.",
        "## Trainings on CIFAR-10",
        "LeNet and MobileNet by the study's recipes, the others short; seed 0, float32. Images/s "
        "and minutes are those of the runs, which shared their machine with others; for speed see "
        "[performance.md](performance.md).",
        trainings(trained("cifar10.json") + trained("cifar10-first-epochs.json")),
    ]
    if sweeps := sorted(folder.glob("sweep-*.json")):
        parts += [
            "## How recipes were chosen",
            "By training images that were held out (`jaxcnn sweep`); the test images had no part "
            "in it. What was not varied is in the file; `-` stands for trainings that were planned "
            "and not done. Data called `modified` are the JPEG copy of CIFAR-10.",
            *(outfiles.read(path, sweep.markdown).rstrip() for path in sweeps),
        ]
    if (training := folder / "torch-training.json").exists():
        parts += [
            "## Training as in PyTorch",
            "The same recipe and the same distribution of initial values, several seeds of each "
            "(`python scripts/checks/torch_training.py NETWORK --seeds N`): means and standard "
            "deviations of the accuracy after the last epoch, and Welch's standard error of their "
            "difference. They should differ by no more than two of these, and by no point.",
            outfiles.read(training, torch_training.table),
        ]
    if compared := sorted(folder.glob("same-numbers*.json")):
        parts += [
            "## The same numbers as before",
            "Checkpoints and metrics of two versions of the program, and of runs that the first "
            "began and the second ended (`python scripts/checks/same_numbers.py run`):",
            *(outfiles.read(path, same_numbers) for path in compared),
        ]
    parts += [
        "## Right sums",
        "Small programs with exact results, compiled with XLA's options, in processes of their own "
        "(`python scripts/checks/sums.py`). With the options chosen for a version: every kind of "
        "program, number of rows and dtype, each with one or two of nine lengths of a row; with "
        "the others a tenth of these, and all programs that are known to be wrong somewhere.",
        outfiles.read(folder / "sums.json", sums.table),
        "## Weights from and networks for other programs",
        "Public PyTorch code with random weights and batch-norm statistics, imported, and exported "
        "to the same code again; then runs, exported and computed without this program "
        "(`python scripts/checks/interchange.py`). Logits differ by so much of the largest.",
        outfiles.read(folder / "interchange.json", interchange.table),
        "How fast exported networks are (`jaxcnn export RUN --benchmark --int8`); jaxcnn is this "
        "program itself:",
        export_speeds(sorted(folder.glob("export-speeds-*.json"))),
        "## How the package is built",
        "`python scripts/checks/structure.py`. A room is a module or folder at the top of "
        "`jaxcnn/`; an edge joins two that import each other's code; depth is the longest chain of "
        "imports; many parameters are eight or more, `self` aside; timing lines are those of "
        "comments and docstrings that tell a measurement.",
        outfiles.read(folder / "structure.json", structure.table),
        "## Files",
        index(sorted(folder.glob("*.json"))),
    ]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    """Runs the program."""
    parser = script_parser(__doc__)
    parser.add_argument("runs", nargs="*", type=Path, help="finished run folders")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--table", type=Path, help="print the table of this JSON file")
    parser.add_argument("--page", type=Path, help="write the page of this folder, beside it")
    parser.add_argument(
        "--speeds", type=Path, nargs="+", default=[], help="files of scripts/bench/steps.py"
    )
    args = parser.parse_args()
    if sum(map(bool, (args.runs, args.table, args.page))) != 1:
        raise UserError("give run folders, or --table FILE, or --page FOLDER")
    if args.page:
        path = args.page.with_suffix(".md")
        outfiles.check_file("--page", path, (".md",))
        outfiles.write("--page", path, page(args.page))
        return
    rates = speeds(args.speeds)
    if args.table:
        print(outfiles.read(args.table, lambda results: table(results, rates)))
        return
    if args.out:
        outfiles.check_file("--out", args.out, (".json", ""))
    results = [collect(run) for run in args.runs]
    print(table(results, rates))
    if args.out:
        outfiles.write("--out", args.out, json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    cli.script(main)
