"""Exports a run's network to a file, reads it back, and keeps it only if it computes the same."""

import contextlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxcnn.errors import UserError, outside_reason
from jaxcnn.exchange import onnx_file, safetensors, stablehlo, state_dict, weights
from jaxcnn.exchange.subject import Subject, classifier
from jaxcnn.models.pretrained import CARD

Predictor = Callable[[np.ndarray], np.ndarray]
"""From uint8 `[N, H, W, C]` to float32 logits `[N, K]`."""

# Of the largest logit. Sums in another order differ by the rounding of float32, far less even in
# the deepest network; another padding, order of channels or epsilon, by far more.
BOUND = 1e-4


class Format(NamedTuple):
    """A format to export to.

    Attributes:
        suffixes: Endings of its files.
        words: What a file holds.
        reader: What reads it back.
    """

    suffixes: tuple[str, ...]
    words: str
    reader: str


_PROGRAM = "uint8 [B, {}] to float32 logits [B, {}], any B, pixels normalized inside"
FORMATS = {
    "stablehlo": Format((".stablehlo",), _PROGRAM, "jax.export"),
    "onnx": Format((".onnx",), _PROGRAM, "onnxruntime"),
    "safetensors": Format((".safetensors",), "float32 arrays and the card", "this program"),
    "torch": Format((".pt", ".pth"), "a state dict with the names of {}", "this program"),
}


class Comparison(NamedTuple):
    """How an exported network compares with the run's.

    Attributes:
        difference: The largest one between logits, as a fraction of the largest logit.
        same_classes: Of how many images the likeliest class is the same.
        images: Number of images.
    """

    difference: float
    same_classes: int
    images: int


def export(
    subject: Subject, format: str, path: Path, images: np.ndarray, names: str = ""
) -> Comparison:
    """Writes `path` in a format, reads it back and compares its logits with the run's.

    Args:
        subject: The run's network.
        format: A key of `FORMATS`.
        path: The file; one that is there is replaced, if all goes well.
        images: uint8 `[N, H, W, C]`.
        names: For "torch": one of `sources.SOURCES`, "" for the first that has the network.

    Raises:
        UserError: If the file cannot be written, or computes something else; then it is not there.
    """
    expected = subject.logits(images)
    with replacing(path) as temporary:
        predict = _written(subject, format, temporary, names, len(images))
        found = compare(expected, predict(images))
        if not found.difference <= BOUND:  # NaN, too
            raise UserError(
                f"the {format} file of {subject.run.path} computes other logits: they differ by "
                f"{found.difference:.1e} of the largest, at most {BOUND:g} is rounding; {path} is "
                "not written"
            )
    return found


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a file that takes the place of `path` when all has gone well, and is removed if not.

    Raises:
        UserError: If a file cannot be written.
    """
    try:
        handle, name = tempfile.mkstemp(
            prefix=f".{path.stem}.", suffix=path.suffix, dir=path.parent
        )
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            os.chmod(temporary, 0o644)  # mkstemp's 0600 would hide the file from colleagues
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot write {path} ({outside_reason(error)}): name a file that can be written"
        ) from error


def _written(subject: Subject, format: str, path: Path, names: str, batch_size: int) -> Predictor:
    """Writes a file and returns what it computes."""
    if format == "stablehlo":
        stablehlo.write(subject, path)
        return stablehlo.read(path)
    if format == "onnx":
        onnx_file.write(subject, path)
        return onnx_file.read(path)
    if format == "torch":
        state_dict.write(subject, path, names)
        arrays = state_dict.read(subject, path, names)
    else:
        card = weights.card(subject.run, subject.run.name, subject.step)
        safetensors.write(path, subject.arrays, {CARD: json.dumps(card, allow_nan=False)})
        arrays = safetensors.read(path).arrays
    return classifier(subject, arrays, batch_size).logits


def compare(expected: np.ndarray, found: np.ndarray) -> Comparison:
    """Compares logits `[N, K]`; the expected ones are the measure."""
    difference = np.abs(expected - found).max() / max(np.abs(expected).max(), 1e-30)
    same = (expected.argmax(-1) == found.argmax(-1)).sum()
    return Comparison(float(difference), int(same), len(expected))


def describe(subject: Subject, format: str, names: str = "") -> str:
    """Returns what a file of a format holds, in words."""
    words = FORMATS[format].words
    if format == "torch":
        return words.format(state_dict.layout_for(subject.network.name, names).code)
    shape, classes = subject.run.image_shape, len(subject.run.class_names)
    return words.format(", ".join(map(str, shape)), classes)
