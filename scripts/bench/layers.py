"""How fast each algorithm for a 3x3 convolution is, by shape: the measurements behind `jaxcnn.ops`.

    python scripts/bench/layers.py --peer torch --out docs/results/cpu-layers.json
    python scripts/bench/layers.py --default_options --out docs/results/cpu-layers-default.json
    python scripts/bench/layers.py --table docs/results/cpu-layers.json

Forward, gradient of the images and gradient of the kernel. What is timed takes turns, so a busy
moment of the machine meets all; medians in milliseconds. Stock: XLA's operation and its gradients.
With `--peer torch` also PyTorch (channels_last), forward and all three passes together.
"""

import functools
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import steps
from jax import lax

from jaxcnn import cli, ops
from jaxcnn.commands import outfiles
from jaxcnn.commands.parser import at_least, script_parser
from jaxcnn.ops.chunks import chunk_size, sum_chunks
from jaxcnn.ops.conv import im2col, kernel_grad_as_conv, onednn, xla
from jaxcnn.ops.spec import ConvSpec
from jaxcnn.ops.winograd import stride1
from jaxcnn.runtime import environment, memory

# Size, input and output channels: ResNet-18's four stages, ResNet-20's three, and a dense layer's.
SHAPES = [
    *((32, 64, 64), (16, 128, 128), (8, 256, 256), (4, 512, 512)),
    *((32, 16, 16), (16, 32, 32), (8, 64, 64)),
    (32, 48, 12),
]
PADDING = ((1, 1), (1, 1))
Timed = Callable[[], Any]


def ours(
    x: jax.Array, kernel: jax.Array, dy: jax.Array, options: dict[str, Any]
) -> dict[str, Timed]:
    """Each algorithm, compiled with these options, on these arrays."""
    spec = ConvSpec(
        input_size=(x.shape[1], x.shape[2]),
        kernel_size=(3, 3),
        strides=(1, 1),
        padding=PADDING,
        depthwise=False,
    )

    def stock(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return lax.conv_general_dilated(
            x, kernel, (1, 1), PADDING, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    def patch_gradient(x: jax.Array, dy: jax.Array) -> jax.Array:
        return sum_chunks(
            lambda x, dy: im2col.conv_kernel_grad(x, dy, (3, 3), (1, 1), PADDING),
            (x, dy),
            chunk_size(x.shape[0], 9 * x[0].nbytes),
        )

    functions: dict[str, tuple[Callable[..., jax.Array], jax.Array, jax.Array]] = {
        "forward: stock": (stock, x, kernel),
        "forward: Winograd": (
            lambda x, k: stride1.conv_forward(x, k, spec, xla.MATMULS),
            x,
            kernel,
        ),
        "images: stock": (lambda dy, k: jax.vjp(lambda x: stock(x, k), x)[1](dy)[0], dy, kernel),
        "images: ours": (
            lambda dy, k: xla.conv_input_grad(dy, k, spec),
            dy,
            kernel,
        ),
        "kernel: stock": (lambda x, dy: jax.vjp(lambda k: stock(x, k), kernel)[1](dy)[0], x, dy),
        "kernel: patches": (patch_gradient, x, dy),
        "kernel: Winograd": (
            lambda x, dy: stride1.conv_kernel_grad(x, dy, spec, xla.MATMULS),
            x,
            dy,
        ),
        "kernel: exchanged": (
            lambda x, dy: kernel_grad_as_conv.conv_kernel_grad(x, dy, PADDING),
            x,
            dy,
        ),
    }
    if ops.has_onednn():
        by_library = {
            "forward": (onednn.conv_forward, x, kernel),
            "images": (onednn.conv_input_grad, dy, kernel),
            "kernel": (onednn.conv_kernel_grad, x, dy),
        }
        for name, (function, a, b) in by_library.items():
            functions[f"{name}: oneDNN"] = (functools.partial(function, spec=spec), a, b)

    def compiled(function: Callable[..., jax.Array], a: jax.Array, b: jax.Array) -> Timed:
        program = jax.jit(function).lower(a, b).compile(options)
        return lambda: jax.block_until_ready(program(a, b))

    return {name: compiled(*operation) for name, operation in functions.items()}


def pytorch(x: np.ndarray, kernel: np.ndarray, dy: np.ndarray, threads: int) -> dict[str, Timed]:
    """PyTorch's convolution of the same arrays."""
    import torch

    torch.set_num_threads(threads)
    images, weight, gradient = (
        torch.tensor(array).permute(order).contiguous(memory_format=torch.channels_last)
        for array, order in ((x, (0, 3, 1, 2)), (kernel, (3, 2, 0, 1)), (dy, (0, 3, 1, 2)))
    )
    images.requires_grad_()
    weight.requires_grad_()

    def forward() -> None:
        with torch.no_grad():
            torch.nn.functional.conv2d(images, weight, padding=1)

    def everything() -> None:
        images.grad = weight.grad = None
        torch.nn.functional.conv2d(images, weight, padding=1).backward(gradient)

    return {"forward: PyTorch": forward, "all three: PyTorch": everything}


def measure(
    shape: tuple[int, int, int],
    batch: int,
    rounds: int,
    peers: list[str],
    options: dict[str, Any],
) -> Any:
    """Milliseconds of each algorithm for one shape."""
    size, channels, features = shape
    rng = np.random.default_rng(0)
    shapes = ((batch, size, size, channels), (3, 3, channels, features))
    x, kernel, dy = (
        rng.normal(size=s).astype(np.float32) for s in (*shapes, (*shapes[0][:3], features))
    )
    timed = ours(jnp.asarray(x), jnp.asarray(kernel), jnp.asarray(dy), options)
    if "torch" in peers:
        timed |= pytorch(x, kernel, dy, os.cpu_count() or 1)
    seconds: dict[str, list[float]] = {name: [] for name in timed}
    for _ in range(rounds + 1):
        for name, run in timed.items():
            begin = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - begin)
    medians = {name: 1e3 * statistics.median(times[1:]) for name, times in seconds.items()}
    return {"size": size, "channels": channels, "features": features, "milliseconds": medians}


def table(report: dict[str, Any]) -> str:
    """The report in Markdown."""
    names = list(report["shapes"][0]["milliseconds"])
    lines = [
        "| H, C, F | " + " | ".join(names) + " |",
        "|---|" + "--:|" * len(names),
    ]
    for row in report["shapes"]:
        times = " | ".join(f"{row['milliseconds'][name]:.1f}" for name in names)
        lines.append(f"| {row['size']}, {row['channels']}, {row['features']} | {times} |")
    lines.append("")
    options = "jaxcnn's" if report["compiler_options"] else "default"
    lines.append(
        f"Milliseconds, batch {report['batch_size']}, float32, medians of {report['rounds']}, "
        f"{report['machine']}, jax {report['jax']}, {options} compiler options."
    )
    return "\n".join(lines)


def main() -> int:
    """Runs the program; returns its exit code."""
    parser = script_parser(__doc__)
    parser.add_argument("--batch_size", type=at_least(1), default=128)
    parser.add_argument(
        "--rounds", type=at_least(1), default=15, help="rounds of which medians are taken"
    )
    parser.add_argument("--peer", action="append", choices=["torch"], default=[])
    parser.add_argument(
        "--default_options",
        action="store_true",
        help="compile as JAX does where nobody passes ops.CPU_COMPILER_OPTIONS",
    )
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument(
        "--table", type=Path, help="prints the table of such a file; measures nothing"
    )
    args = parser.parse_args()
    if args.table:
        print(outfiles.read(args.table, table))
        return 0
    steps.check_peers(args.peer)
    if args.out:
        outfiles.check_file("--out", args.out, (".json", ""))
    memory.configure_malloc()
    options: dict[str, Any] = {} if args.default_options else dict(ops.CPU_COMPILER_OPTIONS)
    report: dict[str, Any] = {
        "machine": environment.machine(),
        "jax": jax.__version__,
        "batch_size": args.batch_size,
        "rounds": args.rounds,
        "compiler_options": options,
        "shapes": [],
    }
    for shape in SHAPES:
        report["shapes"].append(measure(shape, args.batch_size, args.rounds, args.peer, options))
        if args.out:
            outfiles.write("--out", args.out, json.dumps(report, indent=1) + "\n")
    print(table(report))
    return 0


if __name__ == "__main__":
    cli.script(main)
