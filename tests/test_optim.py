"""Schedules against closed forms; which parameters decay; the direction of each optimizer."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxcnn import models
from jaxcnn.config import recipe
from jaxcnn.config.schema import OptimConfig
from jaxcnn.models import groups
from jaxcnn.train import decay, optim, schedules


def _schedule(name, **changes):
    settings = dict(
        peak_lr=0.2, warmup_steps=10, total_steps=100, milestones=(0.5, 0.75), decay_factor=0.1
    )
    return optim.create_schedule(name, **{**settings, **changes})


@pytest.mark.parametrize("name", ["cosine", "multistep", "constant", "linear", "1-sqrt"])
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


def test_linear_falls_to_zero_at_the_end_from_the_peak():
    rates = [float(_schedule("linear", warmup_steps=0)(step)) for step in range(101)]
    np.testing.assert_allclose(rates, 0.2 * (1 - np.arange(101) / 100), rtol=1e-5, atol=1e-8)


def test_multistep_falls_at_the_milestones():
    rate = _schedule("multistep")
    expected = {49: 0.2, 50: 0.02, 74: 0.02, 75: 0.002, 99: 0.002}
    for step, value in expected.items():
        assert float(rate(step)) == pytest.approx(value, rel=1e-5)


def test_triangular_rises_until_its_peak_and_falls_linearly_to_zero():
    rate = _schedule("triangular", peak_at=0.25)
    rates = [float(rate(step)) for step in range(101)]
    np.testing.assert_allclose(rates[:25], 0.2 * np.arange(1, 26) / 25, rtol=1e-5)
    np.testing.assert_allclose(rates[25:], 0.2 * (1 - np.arange(76) / 75), rtol=1e-5, atol=1e-7)


def test_onecycle_rises_falls_back_and_ends_almost_at_zero():
    rate = _schedule("onecycle", peak_at=0.4)
    expected = {0: 0.008, 20: 0.104, 40: 0.2, 85: 0.008, 100: 0.2e-4}
    for step, value in expected.items():
        assert float(rate(step)) == pytest.approx(value, rel=1e-5)
    falling = [float(rate(step)) for step in range(40, 101)]
    assert falling == sorted(falling, reverse=True)


def test_one_minus_sqrt_stays_then_falls_as_its_name_says():
    rate = _schedule("1-sqrt", cooldown=0.25)
    rates = np.array([float(rate(step)) for step in range(101)])
    np.testing.assert_allclose(rates[10:75], 0.2, rtol=1e-6)
    expected = 0.2 * (1 - np.sqrt(np.arange(26) / 25))
    np.testing.assert_allclose(rates[75:], expected, rtol=1e-5, atol=1e-7)
    # Until its cooldown a training does not depend on its length.
    longer = _schedule("1-sqrt", cooldown=0.25, total_steps=1000)
    np.testing.assert_allclose([float(longer(step)) for step in range(75)], rates[:75])


@pytest.mark.parametrize("name", schedules.SCHEDULES)
@pytest.mark.parametrize("total", [1, 2, 7])
def test_no_rate_of_a_short_training_is_undefined_or_above_the_peak(name, total):
    rate = _schedule(name, total_steps=total, warmup_steps=total)
    rates = [float(rate(step)) for step in range(total)]
    assert all(0 <= value <= 0.2 * (1 + 1e-6) for value in rates) and max(rates) > 0


def test_every_schedule_that_can_be_chosen_exists():
    assert set(schedules.SCHEDULES) == set(recipe.SCHEDULES)


def test_constant_stays_and_no_warmup_starts_at_the_peak():
    rate = _schedule("constant", warmup_steps=0)
    assert float(rate(0)) == pytest.approx(0.2) == float(rate(99))


def _create(**changes):
    config = OptimConfig(**{"weight_decay": 0.0, "schedule": "constant", **changes})
    return optim.create_optimizer(config, epochs=1, steps_per_epoch=10)


def test_a_warmup_longer_than_the_training_takes_all_of_it_and_no_more_of_a_longer_one():
    def rates(epochs, warmup_epochs):
        config = OptimConfig(peak_lr=0.2, schedule="constant", warmup_epochs=warmup_epochs)
        made = optim.create_optimizer(config, epochs=epochs, steps_per_epoch=5)
        return [float(made.learning_rate(step)) for step in range(5 * epochs)]

    np.testing.assert_allclose(rates(1, 2.0), 0.2 * np.arange(1, 6) / 5, rtol=1e-6)
    assert rates(1, 2.0) == rates(1, 1.0)
    # A run that goes on to 3 epochs has the rates of its configuration from there on.
    np.testing.assert_allclose(rates(3, 2.0)[5:10], 0.2 * np.arange(6, 11) / 10, rtol=1e-6)
    assert rates(3, 2.0)[10:] == [pytest.approx(0.2)] * 5


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


def _names(name, **options):
    """Returns the group of each parameter of a network by its path; nothing is computed."""
    model = models.create(name, **options)
    images = jnp.zeros((1, 32, 32, 1))
    shapes = jax.eval_shape(lambda key: model.init(key, images, train=False), jax.random.key(0))
    leaves = jax.tree_util.tree_leaves_with_path(shapes["params"])
    return {"/".join(e.key for e in p): (groups.parameter_group(p), leaf) for p, leaf in leaves}


@pytest.mark.parametrize("name", ["lenet", "resnet20", "densenet40_k12", "mobilenet", "speedrun"])
def test_every_parameter_has_its_group(name):
    """Of grey images, whose stem has kernels of the shape of depthwise ones."""
    for path, (group, leaf) in _names(name).items():
        if group in ("norm", "whitening"):
            assert leaf.ndim == 1
        else:
            assert path.endswith("/kernel") and leaf.ndim in (2, 4)
        assert (group == "head") == (path == "classifier/kernel")
        is_depthwise = name == "mobilenet" and leaf.shape[:3] == (3, 3, 1) and "stem" not in path
        assert (group == "depthwise") == is_depthwise
        assert (group == "whitening") == (path == "whitening/bias")
    found = {group for group, _ in _names(name).values()}
    of_one = {"depthwise": "mobilenet", "whitening": "speedrun"}
    assert found == {group for group in groups.GROUPS if of_one.get(group, name) == name}


def test_each_group_decays_at_its_own_rate():
    one = jnp.ones(2)
    params = {
        "block1": {"depthwise_conv": {"kernel": one}, "pointwise_conv": {"kernel": one}},
        "norm": {"scale": one, "bias": one},
        "classifier": {"kernel": one, "bias": one},
    }

    def decayed(**rates):
        tx = decay.weight_decay(OptimConfig(weight_decay=0.5, **rates))
        zeros = jax.tree.map(jnp.zeros_like, params)
        direction, _ = tx.update(zeros, tx.init(params), params)
        return [float(leaf[0]) for leaf in jax.tree.leaves(direction)]

    # depthwise, pointwise, classifier's bias and kernel, norm's bias and scale
    assert decayed() == [0.5, 0.5, 0.0, 0.5, 0.0, 0.0]
    assert decayed(weight_decay_depthwise=0.0) == [0.0, 0.5, 0.0, 0.5, 0.0, 0.0]
    rates = {"weight_decay_head": 0.25, "weight_decay_norm": 0.125, "weight_decay_depthwise": 0.0}
    assert decayed(**rates) == [0.0, 0.5, 0.125, 0.25, 0.125, 0.125]


def test_groups_at_one_rate_leave_the_optimizers_state_as_it_was():
    plain = optax.add_decayed_weights(0.01, mask=lambda tree: jax.tree.map(lambda _: True, tree))
    made = decay.weight_decay(OptimConfig(weight_decay=0.01))
    same = jax.tree.structure(made.init(PARAMS)) == jax.tree.structure(plain.init(PARAMS))
    assert same


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
