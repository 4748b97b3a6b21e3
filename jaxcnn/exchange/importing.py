"""A run folder from weights that another program has trained."""

import dataclasses
import hashlib
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxcnn.config import schema
from jaxcnn.config.compat import fingerprint
from jaxcnn.config.settings import DataFacts, Settings
from jaxcnn.data import Dataset, Split
from jaxcnn.data.augment import PixelStats
from jaxcnn.data.cifar10 import published
from jaxcnn.errors import UserError
from jaxcnn.exchange import torch_file
from jaxcnn.exchange.network import unflatten
from jaxcnn.exchange.torch_values import shown
from jaxcnn.models import safetensors
from jaxcnn.models.pretrained import read_card
from jaxcnn.run.checkpoint import Checkpoints
from jaxcnn.run.folder import RunDir
from jaxcnn.runtime import environment

# Of each CIFAR data set.
_TRAIN_EXAMPLES, _TEST_EXAMPLES = 50_000, 10_000

DATASETS = tuple(published.SETS)
"""Data sets whose images and classes are known without reading them."""


def read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any] | None]:
    """Returns (arrays by name, card or None) of a safetensors file, or of one of torch.save.

    Raises:
        UserError: If it cannot be read, is damaged or holds more than arrays.
    """
    if not is_safetensors(path):
        return torch_file.read(path), None
    arrays, metadata = safetensors.read(path)
    return arrays, read_card(path, metadata)


def is_safetensors(path: Path) -> bool:
    """Whether a file's name says that it is a safetensors file."""
    return path.suffix.lower() == safetensors.SUFFIX


def pixels_of(card: Mapping[str, Any] | None) -> PixelStats | None:
    """Returns the mean and std that a card of this program states; None where it states none."""
    try:
        stats = PixelStats(*(tuple(map(float, (card or {})[key])) for key in ("mean", "std")))
    except (KeyError, TypeError, ValueError):
        return None
    return stats if {len(stats.mean), len(stats.std)} == {published.IMAGE_SHAPE[-1]} else None


def check_classes(card: Mapping[str, Any] | None, dataset: str, file: Path) -> None:
    """Raises UserError if a card of this program names other classes than the data set's."""
    named = (card or {}).get("class_names")
    if isinstance(named, list) and tuple(named) != class_names(dataset):
        some = ", ".join(shown(str(name)) for name in named[:3])
        raise UserError(
            f"{file} knows other classes ({some}, ...) than {dataset}: use it as it is, by jaxcnn "
            "predict --pretrained FILE, or train with train.init_from=FILE"
        )


def dataset_of(found: Mapping[str, np.ndarray]) -> str:
    """Returns the data set with as many classes as a dense layer of the file has; "" for none."""
    sizes = {size for array in found.values() if array.ndim == 2 for size in array.shape}
    return next((name for name in DATASETS if len(class_names(name)) in sizes), "")


def class_names(dataset: str) -> tuple[str, ...]:
    """Returns the names of the classes of one of `DATASETS`, in label order."""
    return published.SETS[dataset].class_names[-1]


def settings(
    model: str, options: Mapping[str, Any], dataset: str, pixels: PixelStats, file: Path
) -> Settings:
    """Returns the settings of a run that has the imported weights.

    What the weights do not tell, such as the learning rate, has its default.

    Args:
        model: A network.
        options: Values of the configuration by dotted key.
        dataset: One of `DATASETS`.
        pixels: By which the network's images are normalized.
        file: Where the weights are from.

    Raises:
        UserError: If there is no such network, or it does not have an option.
    """
    config = schema.default_config()
    config.dataset.name, config.model.name, config.model.dtype = dataset, model, "float32"
    for key, value in options.items():
        schema.put(config, key, value)
    names = class_names(dataset)
    blank = Split(np.zeros((1, *published.IMAGE_SHAPE), np.uint8), np.zeros(1, np.int32))
    made = Settings.resolve(config, Dataset(blank, blank, names, ""))
    facts = DataFacts(
        fingerprint=f"unknown (imported from {file.name})",
        class_names=names,
        image_shape=published.IMAGE_SHAPE,
        train_examples=_TRAIN_EXAMPLES,
        eval_examples=_TEST_EXAMPLES,
        mean=pixels.mean,
        std=pixels.std,
    )
    return dataclasses.replace(made, facts=facts)


def check_free(out: Path) -> None:
    """Raises UserError if something is where the run folder shall be."""
    if os.path.lexists(out) and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"--out={out} exists: name a folder that is new")


def write_run(
    out: Path, decided: Settings, arrays: Mapping[str, np.ndarray], origin: Mapping[str, Any]
) -> None:
    """Writes a run folder with one checkpoint, of step 0; whole, or not at all.

    Args:
        out: The folder, which is not there or empty.
        decided: Its settings.
        arrays: float32, by path.
        origin: Noted in environment.json under "imported".

    Raises:
        UserError: If it cannot be written.
    """
    config = decided.to_json()
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as error:
        raise UserError(
            f"--out={out} cannot be written ({error.strerror}): name another folder"
        ) from error
    try:
        run = RunDir(temporary)
        with run.locked(config):
            run.add_start({**environment.describe(), "imported": dict(origin), "warnings": []})
            checkpoints = Checkpoints(run.checkpoints, fingerprint=fingerprint(config))
            checkpoints.save(0, unflatten(dict(arrays)))
            checkpoints.wait()
        os.chmod(temporary, 0o755)  # mkdtemp's 0700 would hide the run from colleagues
        os.rename(temporary, out)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def origin(path: Path, how: str) -> dict[str, str]:
    """Returns what environment.json notes of a file of weights."""
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"file": path.name, "sha256": digest, "matched_by": how}


def numbers(flag: str, text: str, low: float) -> tuple[float, ...]:
    """Returns the numbers of a channel each, such as 0.49,0.48,0.45.

    Raises:
        UserError: If there are not three, above `low` and at most 1.
    """
    try:
        found: Sequence[float] = [float(part) for part in text.split(",")]
    except ValueError:
        found = []
    if len(found) != published.IMAGE_SHAPE[-1] or not all(low <= n <= 1 for n in found):
        raise UserError(
            f"{flag}={text} is not allowed: three numbers for red, green and blue in units of full "
            f"scale, {low:g} to 1, such as 0.4914,0.4822,0.4465"
        )
    return tuple(found)
