"""What do the networks say to an image file?"""

import base64
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxcnn.data import image_files
from jaxcnn.evaluate.classifier import likeliest
from jaxcnn.evaluate.sources import Source


class ServedNetwork:
    """A network with its weights, compiled for one image.

    One image at a time: that is the program, and these are the numbers, of `jaxcnn predict` with
    one file.

    Attributes:
        name: As the page calls it.
        title: Which network, and from where its weights are.
        class_names: A name for each class.
        image_shape: (H, W, C).
    """

    def __init__(self, source: Source) -> None:
        """Reads the weights and compiles.

        Raises:
            UserError: If there are no weights, or image files do not have its number of channels.
        """
        image_files.check_channels(source.image_shape)
        network = source.load()
        self.name, self.title = source.name, network.title
        self.class_names, self.image_shape = source.class_names, source.image_shape
        self._classifier = network.classifier(1)
        # The first call of a program takes longer than all others.
        self._classifier.logits(np.zeros((1, *self.image_shape), np.uint8))

    def answer(self, image: np.ndarray, with_pictures: bool) -> dict[str, Any]:
        """Returns classes, probabilities and milliseconds, as `POST /api/predict` has them.

        Args:
            image: uint8 [H, W, C] of `image_shape`.
            with_pictures: Whether to add the image as the network has seen it.
        """
        began = time.perf_counter()
        (probabilities,) = self._classifier.probabilities(image[None])
        milliseconds = 1000 * (time.perf_counter() - began)
        found = {"name": self.name, "title": self.title, "milliseconds": round(milliseconds, 3)}
        if np.isfinite(probabilities).all():
            found |= likeliest(probabilities, self.class_names)
        else:
            found["error"] = "its output is no number: the training has diverged"
        if with_pictures:
            found["image"] = data_url(image)
        return found


def answers(
    networks: Sequence[ServedNetwork], content: bytes, with_pictures: bool
) -> list[dict[str, Any]]:
    """Returns each network's answer to the content of an image file, within `decoding`.

    Raises:
        image_files.Refused: If it cannot be used.
    """
    shapes = {network.image_shape for network in networks}
    images = {shape: image_files.decode_content(content, shape) for shape in shapes}
    return [network.answer(images[network.image_shape], with_pictures) for network in networks]


def data_url(image: np.ndarray) -> str:
    """Returns uint8 [H, W, C] as a PNG that a page can show as it is."""
    return "data:image/png;base64," + base64.b64encode(image_files.png(image)).decode()
