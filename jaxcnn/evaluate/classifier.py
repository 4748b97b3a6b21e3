"""A trained network as a compiled function from images to probabilities."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxcnn.data import augment, batches
from jaxcnn.runtime.compilation import compiled


class Classifier:
    """A trained network with its normalization, compiled for batches of one size."""

    def __init__(
        self,
        model: nn.Module,
        variables: dict[str, Any],
        pixel_stats: augment.PixelStats,
        image_shape: tuple[int, int, int],
        *,
        batch_size: int,
    ) -> None:
        """Compiles for `batch_size` images of `image_shape`, (H, W, C), on the first device."""
        self._batch_size = batch_size
        self._variables = jax.device_put(variables, jax.local_devices()[0])

        def apply(variables: Any, images: jax.Array) -> Any:
            return model.apply(variables, augment.normalize(images, pixel_stats), train=False)

        images = jax.ShapeDtypeStruct((batch_size, *image_shape), jnp.uint8)
        self._apply = compiled(jax.jit(apply), (self._variables, images))

    def logits(self, images: np.ndarray, on_batch: Callable[[], None] = lambda: None) -> np.ndarray:
        """Returns float32 `[N, K]` for uint8 `[N, H, W, C]`; calls `on_batch` after each batch."""
        parts = []
        for indices, mask in batches.sequential_batches(len(images), self._batch_size):
            # The mask drops what has filled up the last batch.
            parts.append(np.asarray(self._apply(self._variables, images[indices]))[mask])
            on_batch()
        return np.concatenate(parts)

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
