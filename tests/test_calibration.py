"""Temperature scaling: closed cases, which images it is fitted to, and the command."""

import numpy as np
import pytest

from jaxcnn import plots
from jaxcnn.data import held_out
from jaxcnn.data.splits import Piece
from jaxcnn.errors import UserError
from jaxcnn.evaluate import calibration, scores


def _drawn(temperature, count=40_000, classes=5):
    """Returns logits, and labels drawn from them divided by `temperature`."""
    rng = np.random.default_rng(0)
    logits = 3 * rng.normal(size=(count, classes))
    gumbel = rng.gumbel(size=logits.shape)
    return logits.astype(np.float32), (logits / temperature + gumbel).argmax(1).astype(np.int32)


@pytest.mark.parametrize(("right", "margin"), [(0.75, 1.0), (0.9, 8.0), (0.6, 0.05)])
def test_the_temperature_of_equal_images_is_that_of_the_closed_form(right, margin):
    """All images have the logits (margin, 0); sigmoid(margin / T) has to be the fraction right."""
    labels = (np.arange(1000) >= 1000 * right).astype(np.int32)
    logits = np.tile(np.array([margin, 0], np.float32), (1000, 1))
    expected = margin / np.log(right / (1 - right))
    assert calibration.fit_temperature(logits, labels) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_the_temperature_that_made_the_labels_is_found_and_mends_the_probabilities(temperature):
    logits, labels = _drawn(temperature)
    found = calibration.fit_temperature(logits, labels)
    assert found == pytest.approx(temperature, rel=0.05)
    after = calibration.reliability(logits / found, labels)
    assert after.calibration_error < 0.01
    before = calibration.reliability(logits, labels)
    assert after.loss <= before.loss
    for other in (0.9 * found, 1.1 * found):
        assert after.loss < calibration.reliability(logits / other, labels).loss


@pytest.mark.parametrize("sign", [1, -1])
def test_images_without_a_best_temperature_are_refused(sign):
    logits = sign * 10 * np.eye(3, dtype=np.float32)
    with pytest.raises(UserError, match="3 held-out images have no best temperature between 0.01"):
        calibration.fit_temperature(logits, np.arange(3, dtype=np.int32))


def test_bins_hold_every_prediction_once_and_give_the_calibration_error():
    logits, labels = _drawn(2.0, count=500)
    found = calibration.reliability(logits, labels)
    assert found.bins.examples.sum() == 500
    filled = found.bins.examples > 0
    accuracy = found.bins.correct[filled] / found.bins.examples[filled]
    confidence = found.bins.confidence[filled] / found.bins.examples[filled]
    upper = np.arange(1, scores.BINS + 1)[filled] / scores.BINS
    assert ((upper - 1 / scores.BINS < confidence) & (confidence <= upper)).all()
    error = np.average(np.abs(accuracy - confidence), weights=found.bins.examples[filled])
    assert found.calibration_error == pytest.approx(error)


@pytest.mark.parametrize(
    ("used", "left"),
    [
        ([(0, 100)], []),
        ([(0, 60)], [(60, 100)]),
        ([(90, 100), (0, 10), (5, 20)], [(20, 90)]),
        ([(30, 40)], [(0, 30), (40, 100)]),
        ([(0, 50), (10, 20)], [(50, 100)]),
        ([], [(0, 100)]),
    ],
)
def test_what_is_left_of_a_split(used, left):
    pieces = [Piece("train", *span) for span in used] + [Piece("test", 0, 100)]
    found = held_out.without(Piece("train", 0, 100), pieces)
    assert found == [Piece("train", *span) for span in left]


def test_held_out_images_are_in_no_other_split_and_never_in_the_test_split():
    def spec(train, evaluation):
        return held_out.held_out("digits", data_dir="", train_split=train, eval_split=evaluation)

    assert spec("train[:1000]", "test") == "train[1000:1437]"
    assert spec("train[:1000]", "train[1000:1400]") == "train[1400:1437]"
    assert spec("train", "test[:10]") == spec("train[:1000]", "train[1000:]") == ""


def test_a_reliability_diagram_shows_each_bin():
    logits, labels = _drawn(2.0, count=300)
    parts = {"as trained": calibration.reliability(logits, labels).bins}
    drawn = plots.reliability(parts, "a network")
    above, below = drawn.axes
    bars = [bar.get_height() for bar in above.containers[0]]
    counts = parts["as trained"].examples
    np.testing.assert_allclose(bars, parts["as trained"].correct / np.maximum(counts, 1))
    np.testing.assert_allclose([bar.get_height() for bar in below.patches], counts / 300)
