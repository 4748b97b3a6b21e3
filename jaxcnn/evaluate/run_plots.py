"""The plots in a run's folder plots/: curves after epochs, all others at the end.

Plots do not influence the numbers: they are drawn between epochs, from the files and the state of
the run. An error here costs a plot, never the training.
"""

import dataclasses
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxcnn import plots
from jaxcnn.config.settings import Settings
from jaxcnn.data import Dataset, batches
from jaxcnn.data.augment import normalize
from jaxcnn.data.augmentations.pipeline import create_augmentation
from jaxcnn.evaluate import grad_cam_plot, scores
from jaxcnn.evaluate.chosen import spread, worst
from jaxcnn.evaluate.classifier import Classifier, Network, softmax
from jaxcnn.models.groups import WHITENING
from jaxcnn.run.folder import RunDir
from jaxcnn.run.observers import Observer
from jaxcnn.runtime.signals import Interrupted

FOLDER = "plots"
# Share of the run's time that drawing curves may take.
_SHARE = 0.02
_SHOWN = 16


class RunPlots(Observer):
    """An observer that draws the plots of one run.

    Attributes:
        path: The folder of the plots.
    """

    def __init__(
        self,
        run: RunDir,
        settings: Settings,
        say: Callable[[str], None],
        folder: Path | None = None,
    ) -> None:
        """Opens nothing yet.

        Args:
            run: The run folder.
            settings: Of the run.
            say: Gets a warning, once, if a picture could not be drawn.
            folder: To draw into; None for plots/ in the run folder.
        """
        self._run, self._settings, self._say = run, settings, say
        self.path = folder or run.path / FOLDER
        self._title = f"{settings.model.name} on {settings.dataset.name}"
        self._drawn_at, self._cost = -float("inf"), 0.0
        self._failed = False

    def epoch(self, record: dict[str, Any], epochs: int) -> None:
        """Redraws the curves after the last epoch, and after others if that costs little.

        Drawing can take a third of a short epoch's time, so it waits until it costs 2 % at most.
        """
        began = time.monotonic()
        last = record["epoch"] == epochs
        # The cost is that of the last time, so a run that grows slower to draw is drawn less often.
        if last or began - self._drawn_at > self._cost / _SHARE:
            self.curves()
            self._drawn_at = time.monotonic()
            self._cost = self._drawn_at - began

    def curves(self) -> None:
        """Draws the curves of the epochs so far."""
        self._attempt("curves.png", lambda: plots.curves(self._run.read_metrics(), self._title))

    def end(
        self, variables: dict[str, Any], dataset: Dataset, on_batch: Callable[[], None]
    ) -> None:
        """Draws everything that needs the trained network.

        Args:
            variables: What is evaluated, {"params", "batch_stats"}.
            dataset: The run's data.
            on_batch: Called after each batch and between plots; may raise Interrupted.
        """
        names = dataset.class_names
        first = _first_kernel(variables)
        self._attempt(
            "filters.png",
            lambda: plots.filters(first, f"first-layer filters of {self._title}; grey is 0"),
        )
        self._attempt("augmented.png", lambda: self._augmented(dataset))
        on_batch()
        images, labels = dataset.eval
        network = Network(
            self._settings.create_model(),
            variables,
            self._settings.pixel_stats,
            images.shape[1:],
            self._title,
            bool(self._settings.train.onednn),
        )
        size = min(self._settings.train.eval_batch_size, len(labels))
        logits = self._safely(lambda: Classifier(network, size).logits(images, on_batch))
        if logits is None:
            return
        found = scores.score(logits, labels)
        probabilities = softmax(logits)
        split = self._settings.dataset.eval_split
        title = f"{self._title}, {split}: accuracy {100 * found.top1:.1f} %"
        self._attempt("confusion.png", lambda: plots.confusion(found.confusion, names, title))
        self._attempt(
            "per_class.png",
            lambda: plots.per_class(found.precision, found.recall, found.f1, names, title),
        )
        for name, chosen in {
            "predictions": spread(len(labels), _SHOWN),
            "worst mistakes": worst(probabilities, labels, _SHOWN),
        }.items():
            items = [plots.Prediction(images[i], probabilities[i], int(labels[i])) for i in chosen]
            heading = f"{name} of {self._title}, {split}; the true class above each image"
            draw = partial(plots.predictions, items, names, heading)
            self._attempt(f"{name.replace('worst ', '')}.png", draw)
            on_batch()
        self._attempt(
            "grad_cam.png",
            lambda: grad_cam_plot.draw(network, dataset.eval, probabilities, names),
        )
        on_batch()

    def _augmented(self, dataset: Dataset) -> Any:
        """Draws images of the first batch as stored, and as the first step got them."""
        settings = self._settings
        order = batches.shuffled_batches(
            settings.seed, 0, len(dataset.train.labels), settings.train.batch_size
        )
        stored = dataset.train.images[order[0]]
        _, key = jax.random.split(jax.random.key(settings.seed))  # as `Programs` derives it
        augmentation = create_augmentation(
            settings.facts.mean, **dataclasses.asdict(settings.augment)
        )
        augmented = augmentation.preview(key, stored, order[0])
        normalized = np.asarray(normalize(augmented, settings.pixel_stats))[:8]
        low, high = normalized.min(), normalized.max()
        return plots.rows(
            {
                "stored": stored[:8],
                "augmented": np.asarray(augmented)[:8],
                f"normalised: black is {low:.1f}, white is {high:.1f}": (normalized - low)
                / max(high - low, 1e-6),
            },
            f"what {settings.model.name} sees in training",
        )

    def _attempt(self, name: str, draw: Callable[[], Any]) -> None:
        self._safely(lambda: plots.save(draw(), self.path / name), name)

    def _safely(self, work: Callable[[], Any], name: str = "") -> Any:
        """Returns the result of `work`, or None if it fails; warns at the first failure."""
        try:
            return work()
        # A signal is no failure of a plot, and must end the run.
        except Interrupted:
            raise
        except Exception as error:
            # Whatever it is - a full disk, a broken matplotlib - the training is worth more.
            if not self._failed:
                reason = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
                self._say(
                    f"warning: cannot draw {self.path / name} ({' '.join(str(reason).split())}): "
                    f"mend this, then `jaxcnn plot {self._run.path}` draws it; nothing else "
                    "depends on it"
                )
            self._failed = True
            return None


def _first_kernel(variables: dict[str, Any]) -> np.ndarray:
    """Returns the kernel that sees the image, by the names that networks have for its layer."""
    layers = {**variables["params"], **variables.get("batch_stats", {})}
    name = next(name for name in (WHITENING, "stem_conv", "conv1") if name in layers)
    return np.asarray(layers[name]["kernel"])
