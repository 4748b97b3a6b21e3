"""A run's trained weights as one safetensors file of 16-bit numbers, with a card.

The names are the paths of the network's variables, such as "params/conv1/kernel". The card is the
text "card" in the file, and the same stands beside it as JSON.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from flax import traverse_util

from jaxcnn import models
from jaxcnn.evaluate.run import Run
from jaxcnn.models import safetensors
from jaxcnn.models.pretrained import CARD
from jaxcnn.run.folder import write_atomically

FORMAT = 1

# What is known of a data set whose pixels are not the published ones, by its fingerprint's digest.
_COPIES = {
    "298b7c7a7a12f793": "JPEG copy: every image was compressed once, so its pixels are not those "
    "that were published",
}
_KRIZHEVSKY = (
    "published without a licence (A. Krizhevsky, Learning Multiple Layers of Features from Tiny "
    "Images, 2009)"
)
_LICENCES = {
    "cifar10": _KRIZHEVSKY,
    "cifar100": _KRIZHEVSKY,
    "digits": "CC BY 4.0 (E. Alpaydin, C. Kaynak, doi:10.24432/C50P49)",
}


def as_float16(variables: dict[str, Any]) -> dict[str, np.ndarray]:
    """Returns variables by their paths, parameters as float16.

    float16 has three bits more than bfloat16 for the digits of a number, and parameters are far
    from its largest, 65,504; an array with a larger one stays float32. So do batch statistics: a
    few thousand numbers, but a variance may be smaller than what float16 tells from zero.
    """
    arrays: dict[str, np.ndarray] = {}
    for path, array in traverse_util.flatten_dict(variables, sep="/").items():
        array = np.asarray(array, np.float32)
        fits = path.startswith("params/") and np.abs(array).max(initial=0) <= _MOST
        arrays[path] = array.astype(np.float16) if fits else array
    return arrays


_MOST = np.finfo(np.float16).max


def card(run: Run, name: str, step: int, accuracy: dict[str, Any] | None = None) -> dict[str, Any]:
    """Returns what a file of weights says of itself, as JSON has it.

    Args:
        run: The run that trained them.
        name: The weights' name.
        step: Of the checkpoint that they are from.
        accuracy: What they reach: `split`, `images`, and a fraction for each kind of numbers.
    """
    settings, facts = run.settings, run.settings.facts
    model, records = settings.model, run.records
    config = settings.to_json()
    config["dataset"]["data_dir"] = ""  # a place on the machine of the training
    start = run.starts[-1] if run.starts else {}
    kept = ("jaxcnn", "git_revision", "python", "packages", "platform", "devices", "cpu")
    return {
        "format": FORMAT,
        "name": name,
        # The arguments of `models.create`.
        "network": {
            "name": model.name,
            "num_classes": len(facts.class_names),
            "dtype": model.dtype,
            "norm_momentum": model.bn_momentum,
            **{option: getattr(model, option) for option in models.options(model.name)},
        },
        "image_shape": list(facts.image_shape),
        "class_names": list(facts.class_names),
        "mean": list(facts.mean),
        "std": list(facts.std),
        "data": {
            "name": settings.dataset.name,
            "fingerprint": facts.fingerprint,
            "copy": copy_of(facts.fingerprint),
            "train_split": settings.dataset.train_split,
            "train_examples": facts.train_examples,
        },
        "epochs": next((r["epoch"] for r in reversed(records) if r["step"] == step), None),
        "step": step,
        "seed": settings.seed,
        "accuracy": accuracy,
        "config": config,
        "environment": {key: start[key] for key in kept if key in start},
        "licence": {
            "weights": None,
            "data": _LICENCES.get(settings.dataset.name, "see the data set's own page"),
        },
    }


def copy_of(fingerprint: str) -> str:
    """Returns whether a data set has the published pixels, in words."""
    title, _, digest = fingerprint.partition(" sha256:")
    if not digest:  # weights that were imported
        return "unknown"
    if "modified" not in title:
        return "the published images"
    return _COPIES.get(digest, "a copy whose pixels are not those that were published")


def metadata(card: dict[str, Any]) -> dict[str, str]:
    """Returns a card as a file's texts have it."""
    return {CARD: json.dumps(card, allow_nan=False)}


def write(path: Path, arrays: dict[str, np.ndarray], card: dict[str, Any]) -> None:
    """Writes a file of weights, with its card in it and beside it as JSON.

    Raises:
        UserError: If it cannot be written.
    """
    safetensors.write(path, arrays, metadata(card))
    write_atomically(path.with_suffix(".json"), json.dumps(card, indent=2) + "\n")
