"""What do the networks say to an image file, and where do they look?"""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxcnn.data import image_files
from jaxcnn.evaluate.classifier import Classifier, likeliest
from jaxcnn.evaluate.grad_cam import GradCam
from jaxcnn.evaluate.sources import Source

# From where a network hardly looks to where it looks most: red, green, blue.
_RAMP = np.array([[64, 0, 128], [230, 60, 60], [255, 235, 80]])
_MOST_OPAQUE = 190


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
            UserError: If there are no weights, image files do not have its number of channels, or
                as `grad_cam.layer`.
        """
        image_files.check_channels(source.image_shape)
        network = source.load()
        self.name, self.title = source.name, network.title
        self.class_names, self.image_shape = source.class_names, source.image_shape
        self._classifier, self._grad_cam = Classifier(network, 1), GradCam(network, 1)
        # The first call of a program takes longer than all others.
        self.answer(np.zeros(self.image_shape, np.uint8), with_pictures=True)

    def answer(self, image: np.ndarray, with_pictures: bool) -> dict[str, Any]:
        """Returns classes, probabilities and milliseconds, as `POST /api/predict` has them.

        Args:
            image: uint8 [H, W, C] of `image_shape`.
            with_pictures: Whether to add the image as the network has seen it, and where it has
                looked for the class.
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
            found["image"] = image_files.data_url(image)
            if "class" in found:
                (heat,) = self._grad_cam.maps(image[None], probabilities[None].argmax(1))
                found["grad_cam"] = image_files.data_url(overlay(heat))
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


def overlay(heat: np.ndarray) -> np.ndarray:
    """Returns a map of Grad-CAM as a picture to lay over the image, uint8 [H, W, 4].

    Args:
        heat: float [H, W], 0..1. Where it is 0 the picture is transparent.
    """
    places = np.linspace(0, 1, len(_RAMP))
    channels = [np.interp(heat, places, _RAMP[:, channel]) for channel in range(3)]
    return np.stack([*channels, _MOST_OPAQUE * heat], -1).round().astype(np.uint8)
