"""Why the training and evaluation losses of a run differ: said where it applies, not elsewhere."""

import dataclasses

import pytest
from conftest import small_settings

from jaxcnn.models.summary import BlockSummary
from jaxcnn.run import losses

NORMED = [BlockSummary("stem", 1, 1, (1, 1, 1), 1, 1), BlockSummary("head", 1, 0, (1,), 1, 1)]
PLAIN = NORMED[1:]
SMOOTHING = "label smoothing (0.1) counts in the training loss alone"
STATISTICS = "running statistics, which in the first epochs lag behind the weights"


@pytest.mark.parametrize(
    ("smoothing", "rows", "first", "expected"),
    [
        (0.1, NORMED, 56.0, [SMOOTHING, STATISTICS]),
        (0.1, NORMED, 2.0, [SMOOTHING]),
        (0.0, NORMED, 56.0, [STATISTICS]),
        (0.1, PLAIN, 56.0, [SMOOTHING]),
        (0.0, PLAIN, 56.0, []),
        (0.0, NORMED, 2.0, []),
    ],
)
def test_each_reason_is_given_where_it_applies(smoothing, rows, first, expected, dataset):
    settings = small_settings(dataset, label_smoothing=smoothing)
    records = [{"train_loss": 2.0, "eval_loss": first}, {"train_loss": 1.0, "eval_loss": 9.0}]
    text = losses.difference(settings, rows, records)
    assert "\n" not in text and bool(text) == bool(expected)
    for reason in (SMOOTHING, STATISTICS):
        assert (reason in text) == (reason in expected)


@pytest.mark.parametrize("name", ["mixup", "cutmix"])
def test_images_that_are_mixed_are_a_reason(name, dataset):
    settings = small_settings(dataset, label_smoothing=0.0)
    records = [{"train_loss": 2.0, "eval_loss": 2.0}]
    assert losses.difference(settings, PLAIN, records) == ""
    mixed = dataclasses.replace(settings.augment, **{name: 1.0})
    settings = dataclasses.replace(settings, augment=mixed)
    assert "images are mixed in training alone" in losses.difference(settings, PLAIN, records)
