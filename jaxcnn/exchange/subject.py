"""What is exported of a run: its network with its weights, and images to compare results on."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxcnn.data.sources import is_here
from jaxcnn.errors import UserError
from jaxcnn.evaluate import classifier as evaluated
from jaxcnn.evaluate.run import Run
from jaxcnn.exchange import network
from jaxcnn.exchange.network import Network

COMPARED = 100
"""Images on which an exported network is compared."""


class Subject(NamedTuple):
    """A run's network, to be written in another format.

    Attributes:
        run: The run.
        step: Of the checkpoint.
        network: The network, float32 and with stock operations, whatever the run computes with.
        arrays: float32, by path.
    """

    run: Run
    step: int
    network: Network
    arrays: dict[str, np.ndarray]

    @property
    def words(self) -> str:
        """Which network it is."""
        return f"{self.network.name}, step {self.step}, {self.network.parameters:,} parameters"

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Returns what this program computes, float32 `[N, K]`, for uint8 `[N, H, W, C]`."""
        return classifier(self, self.arrays, len(images)).logits(images)


def of_run(run: Run, warn: Callable[[str], None], best: bool = False) -> Subject:
    """Returns the newest checkpoint of a run, or its best one.

    Raises:
        UserError: As `Run.newest` and `Run.best`.
    """
    step, variables = run.best() if best else run.newest(warn)
    plain: dict[str, Any] = {"remat": False} if hasattr(run.model, "remat") else {}
    module = run.model.clone(dtype=jnp.float32, ops="stock", **plain)
    described = network.describe(run.model_name, module, run.image_shape)
    return Subject(run, step, described, network.flatten(variables))


def classifier(
    subject: Subject, arrays: dict[str, np.ndarray], batch_size: int
) -> evaluated.Classifier:
    """Returns the network with these arrays, computed by this program's fast operations."""
    trained = evaluated.Network(
        subject.network.module.clone(ops="fast"),
        network.unflatten(arrays),
        subject.run.settings.pixel_stats,
        subject.run.image_shape,
    )
    return evaluated.Classifier(trained, batch_size)


def is_prepared(run: Run, data_dir: str = "") -> bool:
    """Whether the run's data can be read without a download."""
    section = run.settings.dataset
    return is_here(section.name, data_dir or section.data_dir)


def images_of(
    subject: Subject, data_dir: str = "", count: int = COMPARED
) -> tuple[np.ndarray, str]:
    """Returns (uint8 `[N, H, W, C]`, which they are in words); downloads nothing.

    They are the first of the run's evaluation data, or random ones where those are not there.
    """
    run = subject.run
    section = run.settings.dataset
    why = "are not prepared here"
    if is_prepared(run, data_dir):
        try:
            images = run.dataset(data_dir=data_dir).eval.images[:count]
            return images, f"{len(images)} images of {section.name} {section.eval_split}"
        except UserError:
            why = "cannot be used"
    random = np.random.default_rng(0).integers(0, 256, (count, *run.image_shape), np.uint8)
    return random, f"{count} random images (those of {section.name} {why})"
