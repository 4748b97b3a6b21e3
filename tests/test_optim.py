"""Schedules against closed forms; which parameters decay; the direction of each optimizer."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn.config.schema import OptimConfig
from jaxcnn.train import optim


def _schedule(name, **changes):
    settings = dict(
        peak_lr=0.2, warmup_steps=10, total_steps=100, milestones=(0.5, 0.75), decay_factor=0.1
    )
    return optim.create_schedule(name, **{**settings, **changes})


@pytest.mark.parametrize("name", ["cosine", "multistep", "constant"])
def test_warmup_rises_linearly_to_the_peak(name):
    rates = [float(_schedule(name)(step)) for step in range(11)]
    np.testing.assert_allclose(
        rates, [0.2 * min(step + 1, 10) / 10 for step in range(11)], rtol=1e-6
    )


def test_cosine_falls_to_zero_at_the_end():
    rate = _schedule("cosine")
    for step in (10, 30, 55, 99, 100):
        expected = 0.1 * (1 + math.cos(math.pi * (step - 10) / 90))
        assert float(rate(step)) == pytest.approx(expected, rel=1e-5, abs=1e-8)


def test_multistep_falls_at_the_milestones():
    rate = _schedule("multistep")
    expected = {49: 0.2, 50: 0.02, 74: 0.02, 75: 0.002, 99: 0.002}
    for step, value in expected.items():
        assert float(rate(step)) == pytest.approx(value, rel=1e-5)


def test_constant_stays_and_no_warmup_starts_at_the_peak():
    rate = _schedule("constant", warmup_steps=0)
    assert float(rate(0)) == pytest.approx(0.2) == float(rate(99))


def _create(**changes):
    config = OptimConfig(**{"weight_decay": 0.0, "schedule": "constant", **changes})
    return optim.create_optimizer(config, epochs=1, steps_per_epoch=10)


PARAMS = {
    "conv": {"kernel": jnp.float32([2.0, -1.0]), "bias": jnp.float32([3.0])},
    "norm": {"scale": jnp.float32([4.0])},
}
GRADS = {
    "conv": {"kernel": jnp.float32([0.5, 0.5]), "bias": jnp.float32([1.0])},
    "norm": {"scale": jnp.float32([-2.0])},
}


def _direction(optimizer, grads=GRADS):
    return optimizer.tx.update(grads, optimizer.tx.init(PARAMS), PARAMS)[0]


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_weight_decay_touches_kernels_only(name):
    plain, decayed = (_direction(_create(name=name, weight_decay=w)) for w in (0.0, 0.01))
    np.testing.assert_array_equal(plain["conv"]["bias"], decayed["conv"]["bias"])
    np.testing.assert_array_equal(plain["norm"]["scale"], decayed["norm"]["scale"])
    assert not np.array_equal(plain["conv"]["kernel"], decayed["conv"]["kernel"])


def test_nesterov_momentum_follows_its_recurrence():
    optimizer = _create(weight_decay=0.01)
    state, kernel, velocity = optimizer.tx.init(PARAMS), np.float32([2.0, -1.0]), 0.0
    for _ in range(3):
        direction, state = optimizer.tx.update(GRADS, state, PARAMS)
        grad = 0.5 + 0.01 * kernel
        velocity = 0.9 * velocity + grad
        np.testing.assert_allclose(direction["conv"]["kernel"], grad + 0.9 * velocity, rtol=1e-6)


def test_adamw_takes_the_sign_first_and_decays_apart():
    direction = _direction(_create(name="adamw", weight_decay=0.01))
    np.testing.assert_allclose(
        direction["conv"]["kernel"], [1 + 0.01 * 2.0, 1 - 0.01 * 1.0], rtol=1e-5
    )


def test_clipping_bounds_the_global_norm():
    direction = _direction(_create(momentum=0.0, nesterov=False, clip_norm=0.5))
    leaves = np.concatenate([np.ravel(v) for group in direction.values() for v in group.values()])
    assert np.linalg.norm(leaves) == pytest.approx(0.5, rel=1e-5)
