"""Scores against simple definitions, and predictions against the network itself."""

import numpy as np
import pytest

from jaxcnn.evaluate import scores
from jaxcnn.evaluate.classifier import softmax
from jaxcnn.train import metrics

K = 7


def _logits(count=400):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, K, count).astype(np.int32)
    logits = rng.normal(size=(count, K)).astype(np.float32)
    logits[np.arange(count), labels] += 1.0
    return logits, labels


def test_loss_and_accuracies_are_those_of_their_definitions():
    logits, labels = _logits()
    found = scores.score(logits, labels)
    assert found.examples == len(labels)
    assert found.loss == pytest.approx(float(metrics.cross_entropy(logits, labels).mean()), 1e-5)
    ranks = np.argsort(-logits, 1)
    assert found.top1 == np.mean(ranks[:, 0] == labels)
    assert found.top5 == np.mean(
        [label in row[:5] for label, row in zip(labels, ranks, strict=True)]
    )


def test_figures_of_each_class_come_from_the_confusion_matrix():
    logits, labels = _logits()
    found = scores.score(logits, labels)
    predicted = logits.argmax(1)
    for true in range(K):
        for guess in range(K):
            assert found.confusion[true, guess] == np.sum((labels == true) & (predicted == guess))
    right = np.diag(found.confusion)
    np.testing.assert_allclose(found.precision, right / found.confusion.sum(0))
    np.testing.assert_allclose(found.recall, right / found.confusion.sum(1))
    np.testing.assert_allclose(
        found.f1, 2 * found.precision * found.recall / (found.precision + found.recall)
    )
    np.testing.assert_array_equal(found.support, found.confusion.sum(1))


def test_a_class_that_is_never_seen_nor_predicted_counts_zero_without_a_warning():
    found = scores.score(np.eye(3, dtype=np.float32)[[0, 0, 1]], np.array([0, 0, 1], np.int32))
    assert found.precision[2] == found.recall[2] == found.f1[2] == 0
    assert found.top5 == 1.0  # of three classes


def test_calibration_error_by_hand():
    # Two bins: confidence 0.6 with accuracy 1/2 (two examples), 0.9 with accuracy 1 (two).
    probabilities = np.array([[0.6, 0.4], [0.6, 0.4], [0.9, 0.1], [0.1, 0.9]])
    labels = np.array([0, 1, 0, 1])
    assert scores.calibration(probabilities, labels) == pytest.approx((2 * 0.1 + 2 * 0.1) / 4)
    sure = np.array([[1.0, 0.0], [0.0, 1.0]])
    assert scores.calibration(sure, np.array([0, 1])) == 0.0
    assert scores.calibration(sure, np.array([1, 0])) == 1.0


def test_softmax_of_large_logits_is_finite():
    rows = softmax(np.array([[1e4, 0.0], [-1e4, -1e4]], np.float32))
    np.testing.assert_allclose(rows, [[1.0, 0.0], [0.5, 0.5]])


def test_the_table_has_a_line_for_each_class():
    logits, labels = _logits()
    text = scores.table(scores.score(logits, labels), tuple("abcdefg"))
    lines = text.splitlines()
    assert lines[0].startswith("examples 400  loss ") and len(lines) == 3 + K
    assert [line.split()[0] for line in lines[3:]] == list("abcdefg")
