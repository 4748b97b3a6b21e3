"""Which images of its data does a run get wrong, and which lie behind a cell of the confusion?"""

import math
import threading
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxcnn.data import locate
from jaxcnn.data.image_files import data_url
from jaxcnn.data.sources import is_here
from jaxcnn.data.splits import Split
from jaxcnn.errors import UserError
from jaxcnn.evaluate import scores, sources
from jaxcnn.evaluate.chosen import worst
from jaxcnn.evaluate.classifier import Classifier, softmax
from jaxcnn.evaluate.run import Run

SHOWN = 60
"""Images of the worst mistakes, and of a cell."""


class _Stopped(Exception):
    """The server ends."""


class _Found(NamedTuple):
    """What a run says to its evaluation split.

    Attributes:
        split: Images and labels.
        probabilities: float [N, K].
        predicted: int [N].
        scores: Of all images.
        note: What is to be known of the data, "" for nothing.
    """

    split: Split
    probabilities: np.ndarray
    predicted: np.ndarray
    scores: scores.Scores
    note: str


class Gallery:
    """A run's answers to its evaluation split, computed in a thread when they are first wanted."""

    def __init__(self, run: Run, alone: threading.Lock) -> None:
        """Computes nothing yet.

        Args:
            run: The run.
            alone: Held while computing, so that of several galleries one computes at a time.
        """
        self._run, self._alone = run, alone
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()
        self._done = self._total = 0
        self._found: _Found | None = None
        self._failure: str | None = None

    def start(self) -> None:
        """Begins to compute, unless that was done before."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name=f"gallery of {self._run.name}")
            self._thread.start()

    def stop(self, seconds: float) -> bool:
        """Has the computation end; returns whether it has, within a time."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(seconds)
        return self._thread is None or not self._thread.is_alive()

    def state(self) -> dict[str, Any]:
        """Returns how far it is, or what was found, as `GET /api/gallery/N` has it."""
        if self._failure is not None:
            return {"state": "unavailable", "reason": self._failure}
        if self._found is None:
            state = "idle" if self._thread is None else "computing"
            return {"state": state, "done": self._done, "total": self._total}
        found = self._found
        return {
            "state": "ready",
            "split": self._run.settings.dataset.eval_split,
            "class_names": self._run.class_names,
            "accuracy": found.scores.top1,
            "examples": found.scores.examples,
            "confusion": found.scores.confusion.tolist(),
            "note": found.note,
            "mistakes": self._items(worst(found.probabilities, found.split.labels, SHOWN)),
        }

    def cell(self, label: int, predicted: int) -> dict[str, Any] | None:
        """Returns the images of one class taken for one, the surest first; None if there is none.

        Args:
            label: The true class.
            predicted: The likeliest class to the network.
        """
        found = self._found
        if found is None or max(label, predicted) >= len(self._run.class_names):
            return None
        (chosen,) = np.nonzero((found.split.labels == label) & (found.predicted == predicted))
        sureness = found.probabilities[chosen, predicted]
        order = np.argsort(-sureness, kind="stable")
        return {"count": len(chosen), "images": self._items(chosen[order][:SHOWN].tolist())}

    def _items(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """Returns images of the split with what the run says to them."""
        assert self._found is not None
        split, probabilities, predicted, *_ = self._found
        names = self._run.class_names
        return [
            {
                "index": i,
                "image": data_url(split.images[i]),
                "label": names[split.labels[i]],
                "label_probability": float(probabilities[i, split.labels[i]]),
                "class": names[predicted[i]],
                "probability": float(probabilities[i, predicted[i]]),
            }
            for i in indices
        ]

    def _work(self) -> None:
        try:
            with self._alone:
                self._found = self._compute()
        except _Stopped:
            pass
        except (UserError, OSError) as error:
            self._failure = " ".join(str(error).split())
        finally:
            if self._found is None and self._failure is None:
                self._failure = "a mistake of the program: the terminal says more"

    def _compute(self) -> _Found:
        self._go_on()
        check_here(self._run)
        dataset = self._run.dataset()
        settings, split = self._run.settings, dataset.eval
        note = ""
        if dataset.fingerprint != settings.facts.fingerprint:
            note = (
                f"The run has learned from {settings.facts.fingerprint}; "
                f"these are {dataset.fingerprint}."
            )
        _, trained = sources.trained(self._run, lambda _: None)
        size = min(settings.train.eval_batch_size, len(split.labels))
        self._total = math.ceil(len(split.labels) / size)
        self._go_on()
        network = Classifier(trained, size)

        def on_batch() -> None:
            self._done += 1
            self._go_on()

        logits = network.logits(split.images, on_batch)
        if not np.isfinite(logits).all():
            raise UserError(
                f"{self._run.name}: its output is no number for some images, as the training has "
                "diverged: train anew"
            )
        found = scores.score(logits, split.labels)
        return _Found(split, softmax(logits), logits.argmax(1), found, note)

    def _go_on(self) -> None:
        if self._stopping.is_set():
            raise _Stopped


def check_here(run: Run) -> None:
    """Raises UserError if a run's data are not on this machine; loading would download them."""
    section = run.settings.dataset
    if not is_here(section.name, section.data_dir):
        root = locate.data_root(section.data_dir)
        raise UserError(
            f"the images of {section.name} are not in {root}, and a server downloads none: "
            f"prepare them, or name their directory by {locate.DATA_DIR_VARIABLE}, and start again"
        )
