r"""Whether weights go in and networks go out unchanged, by the public code of others.

    python scripts/checks/interchange.py --clones DIR --out docs/results/interchange.json
    python scripts/checks/interchange.py --clones DIR --runs runs/lenet runs/resnet --out FILE.json
    python scripts/checks/interchange.py --table docs/results/interchange.json

DIR has clones of public repositories under their names, such as DIR/pytorch-cifar; nothing is
fetched, and those that are not there are left out. For each network: their code makes it, with
random weights and random batch-norm statistics, and saves it as their training does. `jaxcnn
import` reads it, and its logits are compared with theirs. `jaxcnn export --format torch` writes it,
their code loads that with strict=True, and the logits are compared again.

The networks of --runs are exported to every format and computed on 1,000 images of their evaluation
data by a process that does not import jaxcnn, see foreign_reader.py.

Needs PyTorch and the extra onnx. The same command continues where it was stopped: what --out has of
the same revision is not checked again. Exits with 1 if logits differ by more than 1e-5 of the
largest.
"""

import contextlib
import hashlib
import importlib.util
import io
import json
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxcnn import cli
from jaxcnn.commands import outfiles, training
from jaxcnn.commands.parser import script_parser
from jaxcnn.errors import UserError
from jaxcnn.evaluate.run import Run
from jaxcnn.exchange import exporting, state_dict, subject
from jaxcnn.runtime import environment

# Of the largest logit: a dozen roundings of float32.
BOUND = 1e-5
IMAGES, EXPORTED_IMAGES = 64, 1000
READER = Path(__file__).with_name("foreign_reader.py")


class Case(NamedTuple):
    """A network of public code.

    Attributes:
        source: As `jaxcnn import` calls it.
        file: Below the folder of clones.
        function: What makes the network.
        arguments: Of that function.
        network: Ours.
        dataset: Whose classes it knows.
        options: Of `jaxcnn import`.
        key: Under which their training saves the state dict; "" for alone.
        refused: What the refusal says, for networks that compute something else.
    """

    source: str
    file: str
    function: str
    network: str
    arguments: dict[str, Any] = {}
    dataset: str = "cifar10"
    options: tuple[str, ...] = ()
    key: str = ""
    refused: str = ""


_DENSENET40 = {"depth": 40, "num_classes": 10, "reduction": 1.0, "bottleneck": False}
CASES = (
    Case("kuangliu", "pytorch-cifar/models/resnet.py", "ResNet18", "resnet18", key="net"),
    Case("kuangliu", "pytorch-cifar/models/resnet.py", "ResNet50", "resnet50", key="net"),
    Case("kuangliu", "pytorch-cifar/models/lenet.py", "LeNet", "lenet", key="net"),
    Case("kuangliu", "pytorch-cifar/models/mobilenet.py", "MobileNet", "mobilenet_v1", key="net"),
    Case("kuangliu", "pytorch-cifar/models/densenet.py", "DenseNet121", "densenet121", key="net"),
    Case(
        *("kuangliu", "pytorch-cifar/models/densenet.py", "densenet_cifar", "densenet121"),
        options=("--set=model.growth_rate=12",),
        key="net",
    ),
    Case(
        *("weiaicunzai", "pytorch-cifar100/models/resnet.py", "resnet34", "resnet34"),
        dataset="cifar100",
    ),
    Case(
        *("weiaicunzai", "pytorch-cifar100/models/densenet.py", "densenet121", "densenet121"),
        dataset="cifar100",
        refused="no ReLU",
    ),
    Case(
        *("chenyaofo", "pytorch-cifar-models/pytorch_cifar_models/resnet.py", "cifar10_resnet20"),
        "resnet20b",
    ),
    Case(
        *("chenyaofo", "pytorch-cifar-models/pytorch_cifar_models/resnet.py", "cifar100_resnet56"),
        "resnet56b",
        dataset="cifar100",
    ),
    Case(
        *("akamaster", "pytorch_resnet_cifar10/resnet.py", "resnet20", "resnet20"),
        key="state_dict",
    ),
    Case(
        *("akamaster", "pytorch_resnet_cifar10/resnet.py", "resnet110", "resnet110"),
        key="state_dict",
    ),
    Case(
        *("gpleiss", "efficient_densenet_pytorch/models/densenet.py", "DenseNet"),
        "densenet_bc100_k12",
    ),
    Case(
        *("andreasveit", "densenet-pytorch/densenet.py", "DenseNet3", "densenet_bc100_k12"),
        {"depth": 100, "num_classes": 10},
        key="state_dict",
    ),
    Case(
        *("andreasveit", "densenet-pytorch/densenet.py", "DenseNet3", "densenet40_k12"),
        _DENSENET40,
        key="state_dict",
        refused="of another shape",
    ),
    Case(
        *("huyvnphan", "PyTorch_CIFAR10/cifar10_models/resnet.py", "resnet18", "resnet18"),
        refused="--source torchvision",
    ),
    Case(
        *("huyvnphan", "PyTorch_CIFAR10/cifar10_models/densenet.py", "densenet121", "densenet121"),
        refused="left over",
    ),
)


def their_network(file: Path, case: Case, seed: int) -> Any:
    """Returns a network of public code with random weights and statistics, for evaluation."""
    import torch  # here, so that --table needs none

    spec = importlib.util.spec_from_file_location(f"public_{case.source}", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # some code looks itself up
    spec.loader.exec_module(module)
    torch.manual_seed(seed)
    network = getattr(module, case.function)(**case.arguments)
    for layer in network.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            for array, low in ((layer.weight, 0.5), (layer.running_var, 0.5)):
                torch.nn.init.uniform_(array, low, 1.5)
            for array in (layer.bias, layer.running_mean):
                torch.nn.init.normal_(array, std=0.2)
    return network.eval()


def their_logits(network: Any, images: np.ndarray, stats: Any) -> np.ndarray:
    """Returns their logits, normalized as torchvision's ToTensor and Normalize do."""
    import torch

    mean, std = (torch.tensor(row).reshape(1, -1, 1, 1) for row in stats)
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float().div(255).contiguous()
    with torch.no_grad():
        return network((pixels - mean) / std).numpy()


def command(*arguments: str) -> tuple[int, str]:
    """Runs the command in this process; returns (exit code, what it said)."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            return cli.run(arguments) or 0, said.getvalue()
        except UserError as error:
            return 1, f"{said.getvalue()}error: {error}"


def check(case: Case, clones: Path, folder: Path) -> dict[str, Any]:
    """Returns what became of a network of public code."""
    import torch

    file = clones / case.file
    theirs = their_network(file, case, seed=1)
    state = theirs.state_dict()
    saved = {case.key: state, "acc": 12.5, "epoch": 3} if case.key else state
    torch.save(saved, folder / "theirs.pth")
    run = folder / "run"
    given = (str(folder / "theirs.pth"), f"--model={case.network}", f"--out={run}")
    code, said = command("import", *given, f"--dataset={case.dataset}", *case.options)
    report: dict[str, Any] = {
        **{"source": case.source, "code": case.function, "network": case.network},
        "options": list(case.options),
        "file": case.file,
        "file_sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "parameters": sum(array.numel() for array in theirs.parameters()),
    }
    if case.refused:
        line = said.splitlines()[-1]
        is_right = code == 1 and case.refused in line and not run.exists()
        return {**report, "refused": line.partition(" does not fit ")[2], "ok": is_right}
    if code:
        raise UserError(said.splitlines()[-1])
    imported = subject.of_run(Run(run), print)
    stats = imported.run.settings.pixel_stats
    images = np.random.default_rng(2).integers(0, 256, (IMAGES, 32, 32, 3), np.uint8)
    expected = their_logits(theirs, images, stats)
    there = exporting.compare(expected, imported.logits(images))
    code, said = command(
        *("export", str(run), "--format=torch", f"--out={folder / 'ours.pt'}"),
        f"--names={case.source}",
    )
    if code:
        raise UserError(said.splitlines()[-1])
    again = their_network(file, case, seed=2)
    exported = torch.load(folder / "ours.pt", weights_only=True)
    again.load_state_dict(exported, strict=True)
    back = exporting.compare(expected, their_logits(again, images, stats))
    weights = [name for name in state if not name.endswith("num_batches_tracked")]
    same = all(torch.equal(state[name], exported[name]) for name in weights)
    return {
        **report,
        "images": IMAGES,
        "imported": there._asdict(),
        "exported": {**back._asdict(), "same_bits": same},
        "ok": max(there.difference, back.difference) <= BOUND and same,
    }


def check_run(path: Path, data_dir: str, folder: Path) -> dict[str, Any]:
    """Returns how a run's network, exported to every format, computes without this program."""
    exported = subject.of_run(Run(path), print)
    images, which = subject.images_of(exported, data_dir, EXPORTED_IMAGES)
    np.save(folder / "images.npy", images)
    jobs = []
    for format, about in exporting.FORMATS.items():
        file = folder / f"net{about.suffixes[0]}"
        if about.is_program:
            exporting.export_program(exported, format, file, images[: subject.COMPARED])
        else:
            exporting.export_weights(exported, format, file)
        jobs.append({"format": format, "file": file.name})
    layout = None
    with contextlib.suppress(UserError):
        layout = state_dict.layout_for(exported.network.name, is_plain=exported.network.is_plain)
    stats = exported.run.settings.pixel_stats
    module: Any = exported.network.module
    strides = []
    if exported.network.family == "mobilenet":
        strides = [module.stem_strides, *(stride for _, stride in module.blocks)]
    content = {
        "network": f"{layout.source} {exported.network.family}" if layout else "",
        "mean": stats.mean,
        "std": stats.std,
        "strides": strides,
        "jobs": jobs,
    }
    (folder / "jobs.json").write_text(json.dumps(content), encoding="utf-8")
    # -I: neither this folder nor PYTHONPATH is searched, so jaxcnn is found only if installed.
    done = subprocess.run(
        [sys.executable, "-I", str(READER.resolve()), str(folder)], capture_output=True, text=True
    )
    if done.returncode:
        raise UserError(f"foreign_reader.py ended with: {' '.join(done.stderr.split())[-500:]}")
    expected = exported.logits(images)
    found = np.load(folder / "logits.npz")
    formats: dict[str, Any] = {}
    for job in jobs:
        logits = found[job["format"]]
        if job["format"] == "safetensors":  # arrays without a program
            formats["safetensors"] = {"same_bits": str(logits) == digest(exported.arrays)}
        else:
            formats[job["format"]] = exporting.compare(expected, logits)._asdict()
    return {
        "network": exported.network.name,
        "step": exported.step,
        "images": which,
        "formats": formats,
        "ok": all(map(is_same, formats.values())),
    }


def is_same(found: dict[str, Any]) -> bool:
    """Whether a format has the same bits, or gives the same classes and logits but for rounding."""
    if "same_bits" in found:
        return found["same_bits"]
    return found["difference"] <= exporting.BOUND and found["same_classes"] == found["images"]


def digest(arrays: dict[str, np.ndarray]) -> str:
    """Returns a SHA-256 over names, shapes and bytes, as foreign_reader.py computes it."""
    total = hashlib.sha256()
    for name in sorted(arrays):
        total.update(f"{name} {arrays[name].shape}".encode())
        total.update(np.ascontiguousarray(arrays[name]).tobytes())
    return total.hexdigest()


def table(report: dict[str, Any]) -> str:
    """Returns the report as Markdown tables."""
    lines = [
        "| public code | network | parameters | imported: logits differ by | exported: by |",
        "|---|---|--:|--:|--:|",
    ]
    for one in report["public"]:
        name = f"{one['source']} {one['code']}"
        if "refused" in one:
            lines.append(f"| {name} | {one['network']} | {one['parameters']:,} | refused | |")
            continue
        there, back = (f"{one[key]['difference']:.1e}" for key in ("imported", "exported"))
        lines.append(f"| {name} | {one['network']} | {one['parameters']:,} | {there} | {back} |")
    if report["runs"]:
        lines += [
            "",
            "| run's network | format | logits differ by | same classes |",
            "|---|---|--:|--:|",
        ]
    for run in report["runs"]:
        for format, found in run["formats"].items():
            if "same_bits" in found:
                lines.append(f"| {run['network']} | {format} | the same bits | |")
                continue
            same = f"{found['same_classes']:,} of {found['images']:,}"
            lines.append(f"| {run['network']} | {format} | {found['difference']:.1e} | {same} |")
    versions = ", ".join(f"{name} {number}" for name, number in report["versions"].items())
    return "\n".join([*lines, "", f"{report['machine']}; {versions}."])


def main() -> int:
    """Runs the checks; returns 1 if one fails."""
    parser = script_parser(__doc__)
    parser.add_argument("--clones", type=Path, help="folder with clones of public repositories")
    parser.add_argument("--runs", type=Path, nargs="+", default=[], help="run folders")
    parser.add_argument("--data_dir", default="", help="TFDS directory; default: the runs' own")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--table", type=Path, help="print the table of this JSON file")
    args = parser.parse_args()
    if args.table:
        print(outfiles.read(args.table, table))
        return 0
    if not args.clones and not args.runs:
        raise UserError("give --clones DIR, or --runs RUN, or --table FILE")
    if args.out:
        outfiles.check_file("--out", args.out, (".json",))
    training.quiet_libraries()
    report: dict[str, Any] = {
        "revision": environment.git_revision(),
        "machine": environment.machine(),
        "versions": {
            name: metadata.version(name) for name in ("torch", "jax", "onnx", "onnxruntime")
        },
        "public": [],
        "runs": [],
    }
    before = outfiles.read(args.out, dict) if args.out and args.out.exists() else {}
    if before and all(before.get(key) == report[key] for key in ("revision", "versions")):
        report |= {key: before[key] for key in ("public", "runs")}

    def done(kind: str, found: dict[str, Any]) -> None:
        print(json.dumps(found), flush=True)
        report[kind].append(found)
        if args.out:
            outfiles.write("--out", args.out, json.dumps(report, indent=2) + "\n")

    known = {(one["file"], one["code"], one["network"]) for one in report["public"]}
    for case in CASES if args.clones else ():
        if not (args.clones / case.file).is_file():
            print(f"{case.file}: not there, left out")
        elif (case.file, case.function, case.network) not in known:
            with tempfile.TemporaryDirectory() as folder:
                done("public", check(case, args.clones, Path(folder)))
    names = {one["network"] for one in report["runs"]}
    for path in args.runs:
        if Run(path).model_name not in names:
            with tempfile.TemporaryDirectory() as folder:
                done("runs", check_run(path, args.data_dir, Path(folder)))
    print(table(report))
    return 0 if all(one["ok"] for one in report["public"] + report["runs"]) else 1


if __name__ == "__main__":
    cli.script(main)
