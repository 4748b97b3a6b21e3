"""Shows that a training means the same on 1, 2, 4 and 8 devices, in one process and in several.

python scripts/checks/devices.py --steps 50           # writes docs/results/devices.json
python scripts/checks/devices.py --steps 3 --processes ''

A small network of each family is trained in float64, where rounding cannot hide a mistake, on fake
CPU devices: the rows that arrive on the devices must be the same, and each step's loss must agree
with the single-device one to 1e-8. In float32 the first step's gradient must agree to 1e-5.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from jaxcnn import cli
from jaxcnn.commands import outfiles
from jaxcnn.runtime import launch

ROOT = Path(__file__).resolve().parents[2]


FAMILIES = ("lenet", "resnet", "densenet", "mobilenet")
LOSS_LIMIT, GRADIENT_LIMIT = 1e-8, 1e-5
BATCH, SIZE, EXAMPLES = 32, 16, 512


def child(options: argparse.Namespace) -> None:
    """Trains on devices of this process, or of all processes, and prints what happened as JSON."""
    import jax

    if options.coordinator:
        from jaxcnn.runtime import distributed

        distributed.initialize(options.coordinator, options.num_processes, options.process_id)
    counts = [jax.device_count()] if options.coordinator else options.devices
    for family in options.families:
        for count in counts:
            result = {"family": family, "devices": count, "processes": jax.process_count()}
            ops = "stock" if options.stock else "fast"
            result |= train(family, jax.devices()[:count], options.steps, ops)
            if jax.process_index() == 0:
                print(json.dumps(result), flush=True)


def network(family: str, dtype: Any, ops: str) -> Any:
    """Returns a small network of a family, with each kind of its layers."""
    from jaxcnn.models.densenet import DenseNet
    from jaxcnn.models.lenet import LeNet
    from jaxcnn.models.mobilenet import MobileNet
    from jaxcnn.models.resnet import ResNet

    if family == "lenet":
        return LeNet(dtype=dtype, ops=ops)
    if family == "resnet":
        return ResNet(blocks=(1, 1), widths=(8, 16), dtype=dtype, ops=ops)
    if family == "densenet":
        return DenseNet(blocks=(2, 2), growth_rate=4, dtype=dtype, ops=ops)
    return MobileNet(blocks=((16, 1), (32, 2)), stem_strides=2, dtype=dtype, ops=ops)


def train(family: str, devices: Any, count: int, ops: str) -> dict[str, Any]:
    """Returns losses of `count` float64 steps, rows of the batches, gradient of a float32 step."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from jaxcnn.data import batches
    from jaxcnn.runtime import sharding

    mesh = sharding.data_mesh(devices)
    order = batches.shuffled_batches(0, 0, EXAMPLES, BATCH)
    order = np.resize(order, (count, BATCH))
    # The first two values of an image are its number.
    arrived = jax.jit(
        lambda images: jnp.dot(images[:, 0, 0, :2].astype(int), jnp.array([1, 256])),
        out_shardings=sharding.replicated(mesh),
    )
    losses, rows = [], []
    with double_precision():
        programs = create(network(family, jnp.float64, ops), mesh)
        state = programs.init()
        for call in programs.calls(order):
            rows.append(np.asarray(arrived(call.batch[0])).tolist())
            state = programs.train(programs.begin_epoch(state), call)
            losses.append(float(state.sums["loss"]) / BATCH)
    programs = create(network(family, jnp.float32, ops), mesh)
    (call,) = programs.calls(order[:1])
    state = programs.train(programs.init(), call)
    # Before the first step the momentum is 0, after it it is the gradient.
    gradient = [np.asarray(leaf) for leaf in jax.tree.leaves(state.opt_state)]
    flat = np.concatenate([leaf.ravel() for leaf in gradient])
    assert rows == order.tolist(), "other rows arrived than were sent"
    return {"losses": losses, "rows": rows, "gradient": flat.tolist()}


def create(model: Any, mesh: Any) -> Any:
    """Returns the compiled programs for random images that carry their number."""
    import numpy as np

    from jaxcnn.config import default_config
    from jaxcnn.config.settings import Settings
    from jaxcnn.data import Dataset, Split
    from jaxcnn.train import optim, programs

    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (EXAMPLES, SIZE, SIZE, 3), dtype=np.uint8)
    images[:, 0, 0, 0], images[:, 0, 0, 1] = np.arange(EXAMPLES) % 256, np.arange(EXAMPLES) // 256
    split = Split(images, rng.integers(0, 10, EXAMPLES).astype(np.int32))
    dataset = Dataset(split, split, tuple("abcdefghij"), "noise")
    config = default_config()
    config.augment.crop_padding = 2
    config.train.batch_size = config.train.eval_batch_size = BATCH
    settings = Settings.resolve(config, dataset)
    return programs.Programs(settings, model, optim.constant_sgd(0.05), dataset, mesh)


@contextlib.contextmanager
def double_precision() -> Iterator[None]:
    """While entered, the training state is float64; the project itself always has float32."""
    import jax
    import jax.numpy as jnp

    from jaxcnn.train import metrics, programs

    create, zeros = programs.create_train_state, metrics.zeros

    def widen(tree: Any) -> Any:
        return jax.tree.map(
            lambda x: x.astype(float) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree
        )

    programs.create_train_state = lambda *args, **kwargs: widen(create(*args, **kwargs))
    metrics.zeros = lambda: widen(zeros())
    try:
        with jax.enable_x64(True):
            yield
    finally:
        programs.create_train_state, metrics.zeros = create, zeros


def run(
    families: list[str],
    devices: list[int],
    steps: int,
    process_counts: list[int],
    stock: bool = False,
) -> list[dict[str, Any]]:
    """Returns the results of all device counts in one process, then of each process count x 2."""
    settings = [f"--families={','.join(families)}", f"--steps={steps}", "--child"]
    settings += ["--stock"] if stock else []
    command = [sys.executable, str(Path(__file__).resolve()), *settings]
    alone = subprocess.run(
        [*command, f"--devices={','.join(map(str, devices))}"],
        env=launch.environment(0, max(devices), False),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    results = [json.loads(line) for line in alone.stdout.splitlines()]
    for count in process_counts:
        processes = launch.start(count, command, devices=2)
        outputs = [process.communicate()[0] for process in processes]
        if any(process.returncode for process in processes):
            raise SystemExit(f"a run of {count} processes failed:\n" + "\n".join(outputs))
        results += [json.loads(line) for line in outputs[0].splitlines() if line[:1] == "{"]
    return results


def compare(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns, for each result, how far it is from the family's single-device one."""
    import numpy as np

    rows = []
    reference = {r["family"]: r for r in results if r["devices"] == r["processes"] == 1}
    for result in results:
        one = reference[result["family"]]
        loss, loss_one = np.array(result["losses"]), np.array(one["losses"])
        gradient, gradient_one = np.array(result["gradient"]), np.array(one["gradient"])
        difference = np.linalg.norm(gradient - gradient_one) / np.linalg.norm(gradient_one)
        rows.append(
            {
                "family": result["family"],
                "processes": result["processes"],
                "devices": result["devices"],
                "steps": len(loss),
                "same_rows": result["rows"] == one["rows"],
                "loss_difference": float(np.max(np.abs(loss / loss_one - 1))),
                "gradient_difference": float(difference),
            }
        )
    return rows


def is_the_same(row: dict[str, Any]) -> bool:
    """Whether a row of `compare` is within the limits."""
    return (
        row["same_rows"]
        and row["loss_difference"] <= LOSS_LIMIT
        and row["gradient_difference"] <= GRADIENT_LIMIT
    )


def numbers(text: str) -> list[int]:
    """Returns the numbers of "1,2,4"."""
    return [int(part) for part in text.split(",") if part]


def main() -> None:
    """Runs everything, prints a table and writes the result; exits with 1 where it differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--families", type=lambda text: text.split(","), default=list(FAMILIES))
    parser.add_argument("--devices", type=numbers, default=[1, 2, 4, 8])
    parser.add_argument("--processes", type=numbers, default=[2, 4], help="with 2 devices each")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "results" / "devices.json")
    parser.add_argument("--stock", action="store_true", help="stock operations: quick to compile")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--coordinator", help=argparse.SUPPRESS)
    parser.add_argument("--num_processes", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--process_id", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options)
        return
    outfiles.check_folder("--output", options.output.parent, [options.output.name])
    results = run(
        options.families, options.devices, options.steps, options.processes, options.stock
    )
    rows = compare(results)
    print("| network | processes | devices | steps | loss differs by | gradient differs by |")
    print("|---|--:|--:|--:|--:|--:|")
    for row in rows:
        print(
            f"| {row['family']} | {row['processes']} | {row['devices']} | {row['steps']} "
            f"| {row['loss_difference']:.0e} | {row['gradient_difference']:.0e} |"
        )
    content = {"jax": metadata.version("jax"), "cpu_count": os.cpu_count(), "rows": rows}
    options.output.parent.mkdir(parents=True, exist_ok=True)
    outfiles.write("--output", options.output, json.dumps(content, indent=1) + "\n")
    if not all(map(is_the_same, rows)):
        raise SystemExit("a training differs between numbers of devices")


if __name__ == "__main__":
    cli.script(main)
