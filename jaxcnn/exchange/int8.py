"""An 8-bit ONNX file of a run, with its accuracy beside that of the float one."""

import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxcnn.data import Dataset
from jaxcnn.errors import UserError
from jaxcnn.evaluate.run import Run
from jaxcnn.exchange import exporting, onnx_file
from jaxcnn.exchange.subject import Subject, is_prepared

# Points of accuracy. Eight bits cost a few tenths; what costs more was calibrated on other images.
LARGEST_LOSS = 5.0

_BATCH = 500


class Scores(NamedTuple):
    """What eight bits cost.

    Attributes:
        float_accuracy: Of the float model, a fraction.
        int8_accuracy: Of the 8-bit one.
        images: Evaluation images.
        calibration_images: Training images by which ranges were found.
    """

    float_accuracy: float
    int8_accuracy: float
    images: int
    calibration_images: int


def dataset_of(run: Run, data_dir: str = "") -> Dataset:
    """Returns the run's data, if they are there.

    Raises:
        UserError: If they are not prepared, or are others.
    """
    if not is_prepared(run, data_dir):
        raise UserError(
            f"8-bit numbers are calibrated on training images, and {run.settings.dataset.name} is "
            "not prepared here: name its folder with --data_dir, or leave out --int8"
        )
    return run.dataset(data_dir=data_dir)


def write(plain: Path, path: Path, dataset: Dataset) -> int:
    """Writes the 8-bit model of a float one; returns the number of images that calibrated it.

    Args:
        plain: An ONNX file of `onnx_file.write`.
        path: The file to write.
        dataset: The run's data, of which training images are taken.
    """
    from jaxcnn.exchange import onnx_int8

    train = dataset.train.images
    count = min(onnx_int8.CALIBRATION_IMAGES, len(train))
    # From the whole split, in which images may be sorted by class.
    chosen = np.linspace(0, len(train) - 1, count).astype(int)
    onnx_int8.quantize(plain, path, train[chosen])
    return count


def export(subject: Subject, path: Path, dataset: Dataset) -> Scores:
    """Writes the 8-bit model and evaluates both it and the float one.

    Raises:
        UserError: If it cannot be written, or loses too much; then it is not there.
    """
    images, labels = dataset.eval
    with tempfile.TemporaryDirectory() as folder, exporting.replacing(path) as temporary:
        plain = Path(folder) / "float.onnx"
        onnx_file.write(subject, plain)
        count = write(plain, temporary, dataset)
        before, after = (
            _accuracy(onnx_file.read(file), images, labels) for file in (plain, temporary)
        )
        scores = Scores(before, after, len(labels), count)
        if 100 * (scores.float_accuracy - scores.int8_accuracy) > LARGEST_LOSS:
            raise UserError(
                f"with 8 bits {subject.run.path} has {100 * scores.int8_accuracy:.2f} % accuracy "
                f"in place of {100 * scores.float_accuracy:.2f} %, at most {LARGEST_LOSS:g} points "
                f"less are allowed; {path} is not written: leave out --int8"
            )
    return scores


def _accuracy(predict: exporting.Predictor, images: np.ndarray, labels: np.ndarray) -> float:
    right = 0
    for begin in range(0, len(labels), _BATCH):
        batch = slice(begin, begin + _BATCH)
        right += int((predict(images[batch]).argmax(-1) == labels[batch]).sum())
    return right / len(labels)
