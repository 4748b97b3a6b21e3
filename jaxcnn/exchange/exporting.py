"""Exports a run's network to a file, reads it back, and keeps it only if it computes the same."""

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxcnn.errors import UserError, outside_reason
from jaxcnn.exchange import onnx_file, sources, stablehlo, state_dict, weights
from jaxcnn.exchange.subject import Subject
from jaxcnn.models import safetensors

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
        is_program: Whether it computes, else it is weights alone.
    """

    suffixes: tuple[str, ...]
    words: str
    reader: str
    is_program: bool


_PROGRAM = "uint8 [B, {}] to float32 logits [B, {}], any B, pixels normalized inside"
_STATE_DICT = "a state dict with the names of {}, for images normalized by {}"
FORMATS = {
    "stablehlo": Format((".stablehlo",), _PROGRAM, "jax.export", True),
    "onnx": Format((".onnx",), _PROGRAM, "onnxruntime", True),
    "safetensors": Format((".safetensors",), "float32 arrays and the card", "this program", False),
    "torch": Format((".pt", ".pth"), _STATE_DICT, "this program", False),
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


def export_program(subject: Subject, format: str, path: Path, images: np.ndarray) -> Comparison:
    """Writes a network as a program, reads it back and compares its logits with the run's.

    Args:
        subject: The run's network.
        format: A key of `FORMATS`, of a program.
        path: The file; one that is there is replaced, if all goes well.
        images: uint8 `[N, H, W, C]`.

    Raises:
        UserError: If the file cannot be written, or computes something else; then it is not there.
    """
    expected = subject.logits(images)
    module = onnx_file if format == "onnx" else stablehlo
    with replacing(path) as temporary:
        module.write(subject, temporary)
        found = compare(expected, module.read(temporary)(images))
        if not found.difference <= BOUND:  # NaN, too
            raise UserError(
                f"the {format} file of {subject.run.path} computes other logits: they differ by "
                f"{found.difference:.1e} of the largest, at most {BOUND:g} is rounding; {path} is "
                "not written"
            )
    return found


def export_weights(subject: Subject, format: str, path: Path, names: str = "") -> None:
    """Writes a network's weights, reads them back and compares their bits.

    Args:
        subject: The run's network.
        format: A key of `FORMATS`, of weights.
        path: The file; one that is there is replaced, if all goes well.
        names: For "torch": one of `sources.SOURCES`, "" for the first that has the network.

    Raises:
        UserError: If the file cannot be written, or is read back with other bits; then it is not
            there.
    """
    with replacing(path) as temporary:
        if format == "torch":
            state_dict.write(subject, temporary, names)
            found = state_dict.read(subject, temporary, names)
        else:
            card = weights.card(subject.run, subject.run.name, subject.step)
            safetensors.write(temporary, subject.arrays, weights.metadata(card))
            found = safetensors.read(temporary).arrays
        if other := [
            name
            for name, array in subject.arrays.items()
            if name not in found or found[name].tobytes() != array.tobytes()
        ]:
            raise UserError(
                f"the {format} file of {subject.run.path} is read back with other numbers "
                f"({', '.join(other[:3])}): {path} is not written; see whether the disk is full"
            )


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


def compare(expected: np.ndarray, found: np.ndarray) -> Comparison:
    """Compares logits `[N, K]`; the expected ones are the measure."""
    difference = np.abs(expected - found).max() / max(np.abs(expected).max(), 1e-30)
    same = (expected.argmax(-1) == found.argmax(-1)).sum()
    return Comparison(float(difference), int(same), len(expected))


def describe(subject: Subject, format: str, names: str = "") -> str:
    """Returns what a file of a format holds, in words."""
    words = FORMATS[format].words
    if format == "torch":
        layout = state_dict.layout_for(subject.network.name, names, subject.network.is_plain)
        return words.format(layout.code, sources.in_words(subject.run.settings.pixel_stats))
    shape, classes = subject.run.image_shape, len(subject.run.class_names)
    return words.format(", ".join(map(str, shape)), classes)
