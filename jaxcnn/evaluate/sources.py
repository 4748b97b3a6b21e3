"""What classifies images: the network of a run, or weights by name, each with all it needs."""

from collections.abc import Callable
from typing import Any, NamedTuple

from flax import linen as nn

from jaxcnn.data import locate
from jaxcnn.evaluate.classifier import Classifier
from jaxcnn.evaluate.run import Run
from jaxcnn.models import load_pretrained
from jaxcnn.ops.pixels import PixelStats


class Network(NamedTuple):
    """A network with its weights.

    Attributes:
        title: For a picture or a page: which network, and from where its weights are.
        module: The network.
        variables: {"params", "batch_stats"}.
        pixel_stats: By which images are normalized.
        image_shape: (H, W, C) of the images.
    """

    title: str
    module: nn.Module
    variables: dict[str, Any]
    pixel_stats: PixelStats
    image_shape: tuple[int, int, int]

    def classifier(self, batch_size: int) -> Classifier:
        """Returns the network compiled for `batch_size` images."""
        return Classifier(
            self.module, self.variables, self.pixel_stats, self.image_shape, batch_size=batch_size
        )


class Source(NamedTuple):
    """Where a network comes from; its weights are read when they are needed.

    Attributes:
        name: Of the run or the weights.
        class_names: A name for each class.
        image_shape: (H, W, C).
        load: Reads the weights.
    """

    name: str
    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]
    load: Callable[[], Network]


def of_run(run: Run, warn: Callable[[str], None]) -> Source:
    """Returns a run's network; `warn` gets a line about a damaged checkpoint.

    Loading it raises UserError if the run has no whole checkpoint.
    """

    def load() -> Network:
        step, variables = run.newest(warn)
        title = f"{run.model_name}, step {step}"
        return Network(title, run.model, variables, run.settings.pixel_stats, run.image_shape)

    return Source(run.name, run.class_names, run.image_shape, load)


def of_weights(name: str) -> Source:
    """Returns the network of `models.load_pretrained`, with its errors."""
    weights = load_pretrained(str(locate.expanded(name)))
    network = Network(
        f"{weights.card['network']['name']}, pretrained",
        weights.module,
        weights.variables,
        weights.pixel_stats,
        weights.image_shape,
    )
    return Source(name, weights.class_names, weights.image_shape, lambda: network)
