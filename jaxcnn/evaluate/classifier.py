"""A trained network as a compiled function from images to probabilities."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxcnn.data import augment, batches
from jaxcnn.runtime.compilation import compiled


class Network(NamedTuple):
    """A trained network.

    Attributes:
        module: The network.
        variables: {"params", "batch_stats"}.
        pixel_stats: By which images are normalized.
        image_shape: (H, W, C) of the images.
        title: For a picture or a page: which network, and where its weights come from.
        onednn: Whether it calls oneDNN where that is possible, see `compilation.compiled`: for many
            images, as few are classified sooner by a program that was kept.
    """

    module: nn.Module
    variables: Any
    pixel_stats: augment.PixelStats
    image_shape: tuple[int, int, int]
    title: str = ""
    onednn: bool = False


class BatchProgram:
    """A function of variables and of arrays with one row per image, compiled for one batch size."""

    def __init__(
        self,
        function: Callable[..., jax.Array],
        variables: Any,
        *batch: jax.ShapeDtypeStruct,
        onednn: bool,
    ) -> None:
        """Compiles `function(variables, *batch)` on the first device."""
        self._batch_size = batch[0].shape[0]
        self._variables = jax.device_put(variables, jax.local_devices()[0])
        self._program = compiled(jax.jit(function), (self._variables, *batch), onednn=onednn)

    def __call__(
        self, *arrays: np.ndarray, on_batch: Callable[[], None] = lambda: None
    ) -> np.ndarray:
        """Returns the results of all rows, in order; calls `on_batch` after each batch."""
        parts = []
        for indices, mask in batches.sequential_batches(len(arrays[0]), self._batch_size):
            result = self._program(self._variables, *(array[indices] for array in arrays))
            # The mask drops what has filled up the last batch.
            parts.append(np.asarray(result)[mask])
            on_batch()
        return np.concatenate(parts)


class Classifier:
    """A trained network with its normalization, compiled for batches of one size."""

    def __init__(self, network: Network, batch_size: int) -> None:
        """Compiles for `batch_size` images on the first device."""

        def apply(variables: Any, images: jax.Array) -> Any:
            normalized = augment.normalize(images, network.pixel_stats)
            return network.module.apply(variables, normalized, train=False)

        images = jax.ShapeDtypeStruct((batch_size, *network.image_shape), jnp.uint8)
        self._apply = BatchProgram(apply, network.variables, images, onednn=network.onednn)

    def logits(self, images: np.ndarray, on_batch: Callable[[], None] = lambda: None) -> np.ndarray:
        """Returns float32 `[N, K]` for uint8 `[N, H, W, C]`; calls `on_batch` after each batch."""
        return self._apply(images, on_batch=on_batch)

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """Returns float64 `[N, K]`, rows that add up to 1."""
        return softmax(self.logits(images))


def softmax(logits: np.ndarray) -> np.ndarray:
    """Returns float64 `[N, K]`, rows that add up to 1."""
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(-1, keepdims=True)
    powers = np.exp(shifted)
    return powers / powers.sum(-1, keepdims=True)


def likeliest(
    probabilities: np.ndarray, class_names: Sequence[str], count: int = 5
) -> dict[str, Any]:
    """Returns {"class", "top"}: the class of an image, and the likeliest ones, as JSON has them.

    Args:
        probabilities: float [K].
        class_names: A name for each class.
        count: How many classes "top" has, or all if there are fewer.
    """
    order = np.argsort(-probabilities, kind="stable")[:count]
    top = [{"class": class_names[i], "probability": float(probabilities[i])} for i in order]
    return {"class": class_names[order[0]], "top": top}
