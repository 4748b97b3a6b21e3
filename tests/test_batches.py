"""Batch order: permutations that depend on seed and epoch; every evaluated example once."""

import numpy as np
import pytest

from jaxcnn.data import batches


def test_an_epoch_is_a_permutation_when_batches_divide_the_data():
    order = batches.shuffled_batches(0, 0, 60, 12)
    assert order.shape == (5, 12) and order.dtype == np.int32
    np.testing.assert_array_equal(np.sort(order.ravel()), np.arange(60))


def test_the_remainder_changes_by_epoch():
    orders = [batches.shuffled_batches(0, epoch, 65, 12) for epoch in range(30)]
    assert all(order.shape == (5, 12) and len(np.unique(order)) == 60 for order in orders)
    assert (
        len(set().union(*(set(range(65)) - set(order.ravel().tolist()) for order in orders))) > 30
    )


def test_order_depends_on_seed_and_epoch_alone():
    same = batches.shuffled_batches(3, 4, 100, 10)
    np.testing.assert_array_equal(same, batches.shuffled_batches(3, 4, 100, 10))
    for seed, epoch in ((3, 5), (4, 4), (4, 3)):
        assert not np.array_equal(same, batches.shuffled_batches(seed, epoch, 100, 10))


def test_order_is_the_same_on_every_machine():
    # Philox is specified, so this row holds for any NumPy; a change would break every old run.
    assert batches.shuffled_batches(0, 0, 10, 10).tolist() == [[0, 2, 9, 1, 8, 5, 4, 3, 6, 7]]


@pytest.mark.parametrize("size", [1, 7, 10, 64])
def test_in_order_gives_every_example_once(size):
    rows = list(batches.sequential_batches(23, size))
    assert all(indices.shape == mask.shape == (size,) for indices, mask in rows)
    seen = np.concatenate([indices[mask] for indices, mask in rows])
    np.testing.assert_array_equal(seen, np.arange(23))
    assert all((indices < 23).all() for indices, _ in rows)
