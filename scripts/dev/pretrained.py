r"""Makes the weights that are part of the package from finished runs.

python scripts/dev/pretrained.py --run study/night/runs/lenet-seed0 study/night/runs/mobilenet-seed0
python scripts/dev/pretrained.py --examples    # only writes tests/data/pretrained.npz again

Of each run's newest checkpoint comes jaxcnn/pretrained/weights/NETWORK.safetensors, parameters in
16 bits, with its card beside it; the card has the accuracy on the test split, in 32 and in 16 bits.
A run must have seed 0, so that no seed is chosen by what it reaches, and must be finished. Then 20
test images and what the weights say of them are written for the tests that have no data set.
"""

import argparse
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxcnn import cli, data, models
from jaxcnn.commands.console import warn
from jaxcnn.commands.parser import script_parser
from jaxcnn.errors import UserError
from jaxcnn.evaluate import scores
from jaxcnn.evaluate.classifier import Classifier, Network
from jaxcnn.evaluate.run import Run
from jaxcnn.exchange import weights
from jaxcnn.models import pretrained, safetensors
from jaxcnn.runtime import compilation_cache

EXAMPLES = Path(__file__).resolve().parents[2] / "tests" / "data" / "pretrained.npz"
MAX_BYTES = 8_000_000  # of all weights together: they are part of every installation
# Points of accuracy that 16 bits may cost: 10 of 10,000 images.
MOST_LOST = 0.001
_SPLIT = "test"
_EXAMPLES = 20


class Made(NamedTuple):
    """Weights that can be written: their name, arrays and card."""

    name: str
    arrays: dict[str, np.ndarray]
    card: dict[str, Any]


def name_of(run: Run) -> str:
    """Returns the name of a run's weights: its network's, with the data set if not CIFAR-10."""
    data_set = run.settings.dataset.name
    return run.model_name if data_set == "cifar10" else f"{run.model_name}-{data_set}"


def make(run: Run, data_dir: str = "") -> Made:
    """Returns the weights of a run, evaluated on the test split.

    Raises:
        UserError: If the run has another seed than 0, is not finished, or its data are not here;
            if 16 bits cost more accuracy than `MOST_LOST`.
    """
    seed = run.settings.seed
    if seed != 0:
        raise UserError(
            f"{run.path} has seed {seed}: only seed 0 is taken, as a choice among seeds would be "
            "made by the test split"
        )
    summary = run.summary
    if summary is None or not (
        summary["epoch"] == run.settings.train.epochs or summary.get("stopped_early")
    ):
        raise UserError(f"{run.path} is not finished: continue its training")
    step, variables = run.newest(warn)
    if step != summary["step"]:
        raise UserError(
            f"{run.path} ended with step {summary['step']}, but its newest whole checkpoint is of "
            f"step {step}: train it again"
        )
    dataset = run.dataset(_SPLIT, data_dir)
    if dataset.fingerprint != run.settings.facts.fingerprint:
        raise UserError(
            f"{run.path} was trained on {run.settings.facts.fingerprint}, here are "
            f"{dataset.fingerprint}: name its data with --data_dir"
        )
    arrays = weights.as_float16(variables)
    kinds = {"float32": variables, "float16": pretrained.as_variables(arrays)}
    reached = {kind: _accuracy(run, these, dataset) for kind, these in kinds.items()}
    if reached["float32"] - reached["float16"] > MOST_LOST:
        raise UserError(
            f"{run.path}: accuracy {reached['float16']:.4f} in 16 bits, {reached['float32']:.4f} "
            f"in 32: at most {MOST_LOST} may be lost"
        )
    accuracy = {"split": _SPLIT, "images": len(dataset.eval.labels), **reached}
    card = weights.card(run, name_of(run), step, accuracy)
    card["licence"]["weights"] = "Apache-2.0"
    return Made(name_of(run), arrays, card)


def _accuracy(run: Run, variables: dict[str, Any], dataset: data.Dataset) -> float:
    """Returns the fraction of the evaluation split that the variables classify correctly."""
    size = min(run.settings.train.eval_batch_size, len(dataset.eval.labels))
    network = Network(run.model, variables, run.settings.pixel_stats, run.image_shape)
    logits = Classifier(network, size).logits(dataset.eval.images)
    return float(scores.score(logits, dataset.eval.labels).top1)


def write(made: list[Made]) -> None:
    """Writes weights beside those that are there, if all together are small enough."""
    folder = pretrained.WEIGHTS
    others = {name: (folder / f"{name}{safetensors.SUFFIX}") for name in pretrained.names()}
    sizes = {name: path.stat().st_size for name, path in others.items()}
    sizes |= {each.name: sum(array.nbytes for array in each.arrays.values()) for each in made}
    if sum(sizes.values()) > MAX_BYTES:
        listed = ", ".join(f"{name} {size:,}" for name, size in sizes.items())
        raise UserError(
            f"the weights would take {sum(sizes.values()):,} bytes ({listed}): at most "
            f"{MAX_BYTES:,}, leave one out or delete one in {folder}"
        )
    folder.mkdir(parents=True, exist_ok=True)
    for name, arrays, card in made:
        weights.write(folder / f"{name}{safetensors.SUFFIX}", arrays, card)
        accuracy = card["accuracy"]
        print(
            f"{name}: {accuracy['images']:,} {accuracy['split']} images, accuracy "
            f"{accuracy['float32']:.4f} in 32 bits, {accuracy['float16']:.4f} in 16; "
            f"{sizes[name]:,} bytes"
        )


def examples(data_dir: str = "") -> dict[str, np.ndarray]:
    """Returns test images, their labels, and the probabilities that all weights give them.

    The first images of each class, as many of each, under the names "images/DATASET",
    "labels/DATASET" and "probabilities/NAME".
    """
    found: dict[str, np.ndarray] = {}
    for name in pretrained.names():
        network = models.load_pretrained(name)
        source = network.card["data"]
        if f"images/{source['name']}" not in found:
            loaded = data.load(
                source["name"], data_dir=data_dir, train_split="train", eval_split=_SPLIT
            )
            if loaded.fingerprint != source["fingerprint"]:
                raise UserError(
                    f"{name} was trained on {source['fingerprint']}, here are "
                    f"{loaded.fingerprint}: name its data with --data_dir"
                )
            labels = loaded.eval.labels
            each = -(-_EXAMPLES // len(network.class_names))
            rows = np.sort(
                [np.flatnonzero(labels == label)[:each] for label in np.unique(labels)], axis=None
            )[:_EXAMPLES]
            found[f"images/{source['name']}"] = loaded.eval.images[rows]
            found[f"labels/{source['name']}"] = labels[rows]
        images = found[f"images/{source['name']}"]
        found[f"probabilities/{name}"] = network.predict(images)
    return found


def main() -> None:
    """Runs the program."""
    parser = script_parser(__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--run", nargs="+", type=Path, help="run folders")
    what.add_argument("--examples", action="store_true", help="only write the examples again")
    parser.add_argument("--data_dir", default="", help="TFDS directory; default: the runs' own")
    args: argparse.Namespace = parser.parse_args()
    compilation_cache.use_compilation_cache()
    if args.run:
        write([make(Run(path), args.data_dir) for path in args.run])
    np.savez_compressed(EXAMPLES, **examples(args.data_dir))  # type: ignore[arg-type]
    print(f"{EXAMPLES}: {EXAMPLES.stat().st_size:,} bytes")


if __name__ == "__main__":
    cli.script(main)
