"""What classifies images: the network of a run, or weights by name, each with all it needs."""

from collections.abc import Callable
from typing import NamedTuple

from jaxcnn.data import locate
from jaxcnn.evaluate.classifier import Network
from jaxcnn.evaluate.run import Run
from jaxcnn.models import load_pretrained


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


def trained(run: Run, warn: Callable[[str], None], best: bool = False) -> tuple[int, Network]:
    """Returns (step, network) of a run's newest checkpoint, with `best` of its best one.

    Args:
        run: A run, finished or not.
        warn: Gets a line about a damaged checkpoint.
        best: See `Run.best`.

    Raises:
        UserError: If the run has no whole checkpoint.
    """
    step, variables = run.best() if best else run.newest(warn)
    title = f"{run.model_name}, step {step}"
    settings = run.settings
    onednn = bool(settings.train.onednn)
    return step, Network(run.model, variables, settings.pixel_stats, run.image_shape, title, onednn)


def of_run(run: Run, warn: Callable[[str], None]) -> Source:
    """Returns a run's network, for few images; loading it is `trained`, with its errors."""

    def load() -> Network:
        return trained(run, warn)[1]._replace(onednn=False)

    return Source(run.name, run.class_names, run.image_shape, load)


def of_weights(name: str) -> Source:
    """Returns the network of `models.load_pretrained`, for few images, with its errors."""
    weights = load_pretrained(str(locate.expanded(name)))
    network = Network(
        weights.module,
        weights.variables,
        weights.pixel_stats,
        weights.image_shape,
        f"{weights.card['network']['name']}, pretrained",
    )
    return Source(name, weights.class_names, weights.image_shape, lambda: network)
