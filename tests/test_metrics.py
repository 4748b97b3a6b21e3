"""Loss against its definition, gradients against differences, sums in any grouping."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jaxcnn.train import metrics

LOGITS = np.float32([[2.0, -1.0, 0.5], [0.0, 3.0, -2.0], [1.0, 1.5, 1.0], [-4.0, 0.0, 4.0]])
LABELS = np.int32([0, 1, 2, 0])


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_cross_entropy_is_its_definition(smoothing):
    expected = []
    for logits, label in zip(LOGITS.astype(np.float64), LABELS, strict=True):
        log_probabilities = logits - np.log(np.exp(logits).sum())
        targets = np.full(3, smoothing / 3)
        targets[label] += 1 - smoothing
        expected.append(-(targets * log_probabilities).sum())
    np.testing.assert_allclose(
        metrics.cross_entropy(LOGITS, LABELS, smoothing), expected, rtol=1e-5
    )


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_gradient_of_the_loss_agrees_with_differences(smoothing):
    check_grads(
        jax.jit(lambda logits: metrics.cross_entropy(logits, LABELS, smoothing).mean()),
        (jnp.asarray(LOGITS),),
        order=2,
        modes=("fwd", "rev"),
        atol=1e-2,
        rtol=1e-2,
    )


def test_loss_of_huge_logits_is_finite():
    assert np.isfinite(metrics.cross_entropy(1e30 * LOGITS, LABELS)).all()


def test_means_count_only_what_the_mask_admits():
    losses = metrics.cross_entropy(LOGITS, LABELS)
    mask = np.array([True, False, True, True])
    loss, accuracy = metrics.means(metrics.sums(losses, LOGITS, LABELS, mask))
    assert loss == pytest.approx(float(np.mean(np.asarray(losses)[mask])), rel=1e-6)
    assert accuracy == pytest.approx(1 / 3)


def test_a_masked_loss_that_is_not_finite_does_not_count():
    losses = jnp.float32([1.0, jnp.nan, 2.0, jnp.inf])
    total = metrics.sums(losses, LOGITS, LABELS, np.array([True, False, True, False]))
    assert metrics.means(total)[0] == 1.5


def test_sums_of_parts_add_up_to_the_sum_of_all():
    losses = metrics.cross_entropy(LOGITS, LABELS)
    rows = [slice(0, 1), slice(1, 4)]
    ones = np.ones(4, bool)
    parts = [metrics.sums(losses[r], LOGITS[r], LABELS[r], ones[r]) for r in rows]
    total = metrics.add(metrics.add(metrics.zeros(), parts[0]), parts[1])
    assert jax.device_get(total)["count"] == 4
    assert metrics.means(total) == pytest.approx(
        metrics.means(metrics.sums(losses, LOGITS, LABELS, ones))
    )
