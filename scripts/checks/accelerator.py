"""Does the accelerator compute what the CPU computes, and does a lack of its memory end well?

python scripts/checks/accelerator.py                       # writes docs/results/gpu-checks.json
python scripts/checks/accelerator.py --networks lenet --batch_size 8 --too_many 40000

Parity: loss and gradients of one batch in float32, products at the highest precision, on the first
device and on the CPU of the same process; for each network the relative difference of the loss,
and that of the gradients by the norm of the difference. Memory: `jaxcnn train --dry_run` of
ResNet-18 with a batch too large for any device has to end with exit code 1 and one line, naming
train.batch_size. Exits with 1 if a difference is above its bound, or an error is another.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.flatten_util
import numpy as np

from jaxcnn import cli, models
from jaxcnn.commands import outfiles
from jaxcnn.commands.parser import at_least, script_parser
from jaxcnn.ops.pixels import PixelStats, normalize
from jaxcnn.runtime import environment
from jaxcnn.train import recipe, step

ROOT = Path(__file__).resolve().parents[2]
NETWORKS = ("lenet", "resnet20", "resnet18", "densenet40_k12", "mobilenet")
STATS = PixelStats((0.5,) * 3, (0.25,) * 3)

# A ReLU whose input is 0 up to rounding passes its gradient on one device and not on the other.
LOSS_BOUND, GRADIENT_BOUND = 1e-5, 1e-2


def computed(network: str, batch_size: int, device: jax.Device) -> tuple[np.ndarray, np.ndarray]:
    """Returns the mean loss and all gradients, `[n]`, of one step of a network on a device."""
    model = models.create(network, dtype="float32")
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (batch_size, 32, 32, 3), dtype=np.uint8)
    labels = rng.integers(0, 10, batch_size, dtype=np.int32)
    with jax.default_device(jax.devices("cpu")[0]):
        variables = model.init(jax.random.key(0), images[:1].astype(np.float32), train=False)
    variables, images, labels = jax.device_put((variables, images, labels), device)

    def gradients(variables: Any, images: jax.Array, labels: jax.Array) -> Any:
        grads, losses, _, _ = step.loss_and_grads(
            variables["params"],
            variables.get("batch_stats", {}),
            images,
            labels,
            jax.random.key(1),
            model=model,
            preprocess=lambda images: normalize(images, STATS),
            loss=lambda logits, labels: recipe.cross_entropy(logits, labels, 0.0),
        )
        return losses.mean(), jax.flatten_util.ravel_pytree(grads)[0]

    with jax.default_matmul_precision("highest"):
        loss, flat = jax.jit(gradients)(variables, images, labels)
    return np.asarray(loss), np.asarray(flat)


def parity(network: str, batch_size: int) -> dict[str, Any]:
    """Compares a network's loss and gradients on the first device with those on the CPU."""
    places = (jax.devices()[0], jax.devices("cpu")[0])
    (loss, flat), (cpu_loss, cpu_flat) = (computed(network, batch_size, d) for d in places)
    of_loss = float(abs(loss - cpu_loss) / abs(cpu_loss))
    of_gradients = float(np.linalg.norm(flat - cpu_flat) / np.linalg.norm(cpu_flat))
    return {
        "network": network,
        "loss": of_loss,
        "gradients": of_gradients,
        "passed": of_loss <= LOSS_BOUND and of_gradients <= GRADIENT_BOUND,
    }


def too_large(images: int) -> dict[str, Any]:
    """Asks for batches of so many of CIFAR-10's images; returns how that ended."""
    command = [
        sys.executable, "-m", "jaxcnn", "train", "--config=resnet", "--dry_run",
        f"--train.batch_size={images}", f"--dataset.train_split=train[:{images}]",
        "--train.steps_per_call=1",
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [*command, f"--workdir={folder}/run"],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )
    lines = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    is_said = done.returncode == 1 and len(lines) == 1 and "train.batch_size" in lines[0]
    return {
        "batch_size": images,
        "exit_code": done.returncode,
        "line": lines[-1] if lines else done.stderr[-500:],
        "passed": is_said and "Traceback" not in done.stderr,
    }


def main() -> int:
    """Runs the program; returns its exit code."""
    parser = script_parser(__doc__)
    parser.add_argument("--networks", nargs="+", default=NETWORKS)
    parser.add_argument("--batch_size", type=at_least(1), default=64)
    parser.add_argument("--too_many", type=at_least(1), default=50_000, help="images of a batch")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results" / "gpu-checks.json")
    args = parser.parse_args()
    outfiles.check_file("--out", args.out, (".json",))
    compared = []
    for network in args.networks:
        compared.append(parity(network, args.batch_size))
        print(json.dumps(compared[-1]), flush=True)
    memory = too_large(args.too_many)
    print(json.dumps(memory), flush=True)
    report = {
        "device": jax.devices()[0].device_kind,
        "machine": environment.machine(),
        "git_revision": environment.git_revision(),
        "jax": jax.__version__,
        "batch_size": args.batch_size,
        "bounds": {"loss": LOSS_BOUND, "gradients": GRADIENT_BOUND},
        "parity": compared,
        "memory": memory,
    }
    outfiles.write("--out", args.out, json.dumps(report, indent=1) + "\n")
    return int(not all(found["passed"] for found in (*compared, memory)))


if __name__ == "__main__":
    cli.script(main)
