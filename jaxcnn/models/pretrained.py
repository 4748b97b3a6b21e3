"""Networks with their weights: by name, those of this package, or from a file of the same kind.

Such a file holds a network's variables by their paths, such as "params/conv1/kernel", and a card:
JSON that says what the network is, how pixels are normalized, which classes there are, and how it
was trained. `exchange.weights` makes one of a run.
"""

import dataclasses
import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import traverse_util

from jaxcnn import ops
from jaxcnn.errors import UserError
from jaxcnn.models import safetensors
from jaxcnn.models.networks import create
from jaxcnn.ops.pixels import PixelStats, normalize

WEIGHTS = Path(__file__).parents[1] / "pretrained" / "weights"
CARD = "card"
"""The name of the card among a file's texts."""

_SHOWN = 3  # arrays that a refusal names


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """A network with trained weights.

    Attributes:
        name: As it was asked for.
        module: The network.
        variables: {"params", "batch_stats"}, float32; the latter only if there are norms.
        card: What the file says of itself, see `exchange.weights.card`.
    """

    name: str
    module: nn.Module
    variables: dict[str, Any]
    card: dict[str, Any]

    @property
    def class_names(self) -> tuple[str, ...]:
        """A name for each class."""
        return tuple(self.card["class_names"])

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C) of the images that it was trained on."""
        height, width, channels = self.card["image_shape"]
        return height, width, channels

    @property
    def pixel_stats(self) -> PixelStats:
        """By which images are normalized: those of the training images."""
        return PixelStats(tuple(self.card["mean"]), tuple(self.card["std"]))

    def predict(self, images: np.ndarray) -> np.ndarray:
        """Returns probabilities, float32 `[B, K]`; compiled once for each B.

        Args:
            images: uint8 `[B, H, W, C]`, 0..255, of `image_shape`.

        Raises:
            UserError: For other images.
        """
        images = np.asarray(images)
        if images.dtype != np.uint8 or images.shape[1:] != self.image_shape:
            wanted = ", ".join(map(str, self.image_shape))
            raise UserError(
                f"{self.name} takes uint8 images [B, {wanted}], not {images.dtype} "
                f"{list(images.shape)}: read files by jaxcnn.data.image_files.read"
            )
        return np.asarray(self._program(self.variables, images))

    @functools.cached_property
    def _program(self) -> Any:
        def apply(variables: Any, images: jax.Array) -> jax.Array:
            normal = normalize(images, self.pixel_stats)
            logits: Any = self.module.apply(variables, normal, train=False)
            return jax.nn.softmax(logits)

        on_cpu = jax.default_backend() == "cpu"
        return jax.jit(apply, compiler_options=dict(ops.CPU_COMPILER_OPTIONS) if on_cpu else None)


def names() -> list[str]:
    """Returns the names of the weights that are part of the package."""
    return sorted(path.stem for path in WEIGHTS.glob(f"*{safetensors.SUFFIX}"))


def find(name: str) -> Path:
    """Returns the file of a name of `names`, or of a path that ends in .safetensors.

    Raises:
        UserError: If the name is neither.
    """
    if name.endswith(safetensors.SUFFIX):
        return Path(name)
    known = names()
    if name not in known:
        choice = f"choose one of {', '.join(known)}, or" if known else "there are none,"
        raise UserError(
            f"{name!r} is none of the weights that come with this version: {choice} name a "
            f"{safetensors.SUFFIX} file"
        )
    return WEIGHTS / f"{name}{safetensors.SUFFIX}"


def load_pretrained(name: str) -> Pretrained:
    """Returns a network with its weights.

    Args:
        name: One of `names`, or the path of a .safetensors file that has a card.

    Raises:
        UserError: If there is no such name or file, the file is damaged or has no card, or its
            arrays are not those of the network that the card names.
    """
    path = find(name)
    content = safetensors.read(path)
    card = read_card(path, content.metadata)
    if card is None:
        raise UserError(
            f"{path} has no card, so neither its network nor its classes are known: use it as "
            "train.init_from of a configuration, or make such a file of a run"
        )
    try:
        network = {**card["network"], "dtype": jnp.dtype(card["network"]["dtype"])}
        loaded = Pretrained(name, create(**network), as_variables(content.arrays), card)
        needed = shapes(loaded.module, loaded.image_shape)
        sizes = len(loaded.class_names), *map(len, loaded.pixel_stats)
        if sizes != (loaded.module.num_classes, *[loaded.image_shape[-1]] * 2):
            raise ValueError(f"classes, means and deviations are {sizes}")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"the card of {path} is not one that this version reads ({reason}): make the file anew"
        ) from error
    if wrong := misfits(needed, content.arrays):
        raise UserError(f"{path} does not hold the network of its card ({wrong}): get a whole copy")
    return loaded


def read_card(path: Path, metadata: Mapping[str, str]) -> dict[str, Any] | None:
    """Returns the card among a file's texts, or None if it has none.

    Raises:
        UserError: If it is no JSON object.
    """
    if CARD not in metadata:
        return None
    try:
        card = json.loads(metadata[CARD])
        if isinstance(card, dict):
            return card
        reason = "it is no object"
    except (ValueError, RecursionError) as error:
        reason = str(error)
    raise UserError(f"the card of {path} is no JSON object ({reason}): get a whole copy")


def as_variables(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Returns arrays by path as nested variables, float32."""
    flat = {name: array.astype(np.float32) for name, array in arrays.items()}
    variables: dict[str, Any] = traverse_util.unflatten_dict(flat, sep="/")
    return variables


def shapes(module: nn.Module, image_shape: tuple[int, int, int]) -> dict[str, tuple[int, ...]]:
    """Returns the shape of each of a network's variables by its path; computes nothing."""
    variables = jax.eval_shape(
        lambda: module.init(
            jax.random.key(0), jnp.zeros((1, *image_shape), jnp.float32), train=False
        )
    )
    return {
        path: leaf.shape for path, leaf in traverse_util.flatten_dict(variables, sep="/").items()
    }


def misfits(needed: Mapping[str, tuple[int, ...]], arrays: Mapping[str, np.ndarray]) -> str:
    """Returns which arrays are not those that are needed, in words; "" if all are."""
    others = [
        f"{name} is {list(arrays[name].shape)} in place of {list(shape)}"
        for name, shape in needed.items()
        if name in arrays and arrays[name].shape != shape
    ]
    wrong = [
        *others,
        *(f"{name} is missing" for name in needed if name not in arrays),
        *(f"{name} is unknown" for name in arrays if name not in needed),
    ]
    more = f" and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
    return ", ".join(wrong[:_SHOWN]) + more
