"""Trained weights by name: those of the package, those of a safetensors file, those of a run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from flax import traverse_util

from jaxcnn.data import locate
from jaxcnn.errors import UserError
from jaxcnn.evaluate.run import Run
from jaxcnn.models import pretrained, safetensors


class Weights(NamedTuple):
    """Weights, and what is known of them.

    Attributes:
        kind: What their name is: "the package's", "the file" or "the run".
        arrays: float32, by the paths of the network's variables, such as "params/conv1/kernel".
        network: The network's name; None if it is not known, as are the others.
        image_shape: (H, W, C) of the images that they were trained on.
        fingerprint: Of the data that they were trained on.
        train_split: The part of the data that they were trained on.
    """

    kind: str
    arrays: dict[str, np.ndarray]
    network: str | None = None
    image_shape: tuple[int, int, int] | None = None
    fingerprint: str | None = None
    train_split: str | None = None


def read(name: str) -> Weights:
    """Returns the weights of a name.

    Args:
        name: Of weights that come with this version, which go before files and folders of the same
            name, or a path: that of a safetensors file, whose card may be missing, or of a run
            folder, whose newest checkpoint is taken.

    Raises:
        UserError: If it is none of these, or what it names is damaged.
    """
    known, path = pretrained.names(), locate.expanded(name)
    if name in known:
        return _of_file("the package's", pretrained.find(name))
    if name.endswith(safetensors.SUFFIX):
        return _of_file("the file", path)
    if path.is_dir():
        return _of_run(Run(path))
    raise UserError(
        f"{name!r} is neither the name of weights that come with this version "
        f"({', '.join(known) or 'there are none'}) nor a run folder nor a {safetensors.SUFFIX} file"
    )


def _of_file(kind: str, path: Path) -> Weights:
    content = safetensors.read(path)
    arrays = {name: array.astype(np.float32) for name, array in content.arrays.items()}
    card = pretrained.read_card(path, content.metadata)
    if card is None:
        return Weights(kind, arrays)
    try:
        height, width, channels = card["image_shape"]
        return Weights(
            kind,
            arrays,
            _text(card["network"]["name"]),
            (int(height), int(width), int(channels)),
            _text(card["data"]["fingerprint"]),
            _text(card["data"]["train_split"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"the card of {path} is not one that this version reads ({error}): make the file anew"
        ) from error


def _of_run(run: Run) -> Weights:
    def refuse(warning: str) -> None:
        # An older checkpoint would be other weights than those that were asked for.
        raise UserError(f"{run.path}: {warning.removeprefix('warning: ')}: restore it")

    _, variables = run.newest(refuse)
    arrays: Mapping[str, Any] = traverse_util.flatten_dict(variables, sep="/")
    facts = run.settings.facts
    return Weights(
        "the run",
        dict(arrays),
        run.model_name,
        facts.image_shape,
        facts.fingerprint,
        run.settings.dataset.train_split,
    )


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value
