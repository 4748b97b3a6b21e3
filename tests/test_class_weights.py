"""Weights of classes: what a setting means, and what it does in the loss."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import random_dataset, small_settings
from sklearn.utils.class_weight import compute_class_weight
from test_layout import Tiny
from test_recipe import IMAGES, LABELS, PIXEL_STATS

from jaxcnn.config import class_weights, schema
from jaxcnn.config.settings import Settings
from jaxcnn.data import Dataset, Split
from jaxcnn.data.augmentations.mixing import Targets
from jaxcnn.errors import UserError
from jaxcnn.run import losses
from jaxcnn.runtime import sharding
from jaxcnn.runtime.compilation import init_compiler_options
from jaxcnn.train import metrics, optim, programs, recipe
from jaxcnn.train.step import Objective, create_train_state, train_step

WEIGHTS = (0.5, 2.0, 1.0)
LOGITS = jnp.asarray(np.random.default_rng(0).normal(size=(6, 3)), jnp.float32)
TARGETS = jnp.array([0, 1, 2, 1, 0, 2])


def _dataset(labels):
    """A data set of the classes a, b and c whose training split has these labels."""
    split = Split(np.zeros((len(labels), 1, 1, 3), np.uint8), labels)
    return Dataset(split, split, tuple("abc"), "zeros")


def test_balanced_weights_are_those_of_scikit_learn_with_mean_1():
    labels = np.array([0] * 5 + [1] * 2 + [2] * 13, np.int32)
    found = class_weights.parse(class_weights.decide("balanced", _dataset(labels)))
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    assert found == tuple(expected.tolist())
    assert np.mean(np.array(found)[labels]) == pytest.approx(1)


@pytest.mark.parametrize("text", ["", "1,", "1,a", "1;2", "-1,2", "nan,1", "inf,1", "0,0", "auto"])
def test_what_is_no_list_of_weights_is_refused(text):
    config = schema.default_config()
    config.train.class_weights = text
    with pytest.raises(UserError, match="none, balanced, or a number for each class"):
        schema.validate(config)


def test_a_list_has_a_number_for_each_class_and_balance_an_image():
    labels = np.array([0, 2], np.int32)
    assert class_weights.decide("1, 2,0.5", _dataset(labels)) == "1, 2,0.5"
    with pytest.raises(UserError, match=r"=1,2 has 2 numbers, the data has 3 classes"):
        class_weights.decide("1,2", _dataset(labels))
    with pytest.raises(UserError, match=r"there is none of b: take a larger training split"):
        class_weights.decide("balanced", _dataset(labels))


def test_a_run_notes_the_numbers_and_is_continued_by_either_setting():
    dataset = random_dataset()
    settings = small_settings(dataset, class_weights="balanced")
    numbers = settings.train.class_weights
    assert len(class_weights.parse(numbers)) == 10
    assert small_settings(dataset, class_weights=numbers) == settings
    assert Settings.from_json(settings.to_json()) == settings
    records = [{"train_loss": 1.0, "eval_loss": 1.0}]
    assert "classes have weights" in losses.difference(settings, [], records)


def test_the_loss_of_each_image_is_multiplied_by_the_weight_of_its_label():
    plain = metrics.cross_entropy(LOGITS, TARGETS, 0.1)
    weighted = recipe.cross_entropy(LOGITS, TARGETS, 0.1, WEIGHTS)
    expected = [WEIGHTS[label] * loss for label, loss in zip(TARGETS, plain, strict=True)]
    np.testing.assert_allclose(weighted, expected, rtol=1e-6)
    mixed = Targets(TARGETS, TARGETS[::-1], jnp.full(6, 0.7))
    other = recipe.cross_entropy(LOGITS, TARGETS[::-1], 0.1, WEIGHTS)
    expected = 0.7 * weighted + 0.3 * other
    np.testing.assert_allclose(
        recipe.cross_entropy(LOGITS, mixed, 0.1, WEIGHTS), expected, rtol=1e-6
    )


def test_without_weights_the_program_is_that_of_plain_cross_entropy():
    def program(loss):
        return str(jax.make_jaxpr(lambda logits: loss(logits, TARGETS, 0.1))(LOGITS))

    assert program(recipe.cross_entropy) == program(metrics.cross_entropy)
    assert program(lambda *given: recipe.cross_entropy(*given, WEIGHTS)) != program(
        metrics.cross_entropy
    )


def test_a_step_minimizes_the_sum_of_weighted_losses_over_the_number_of_images():
    """Weights of 3 for all take the same step as a rate of 3 times as much."""
    model = Tiny()

    def after_a_step(weights, rate):
        optimizer = optim.constant_sgd(rate)
        state = create_train_state(
            jax.random.key(0), model=model, optimizer=optimizer, image_shape=(16, 16, 3)
        )
        step = jax.jit(
            lambda state: train_step(
                state,
                jax.random.key(1),
                IMAGES,
                LABELS,
                objective=Objective(model, PIXEL_STATS, class_weights=weights),
                optimizer=optimizer,
                augment=lambda key, images: images,
            ),
            compiler_options=init_compiler_options(),
        )
        return step(state)

    heavy, fast = after_a_step((3.0,) * 10, 0.1), after_a_step(None, 0.3)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
        heavy.params,
        fast.params,
    )
    np.testing.assert_allclose(heavy.sums["loss"], 3 * fast.sums["loss"], rtol=1e-5)


def test_the_weights_of_the_settings_reach_the_compiled_step(dataset, monkeypatch):
    seen = []
    monkeypatch.setattr(programs, "Objective", lambda *fields: seen.append(fields))
    monkeypatch.setattr(programs, "compiled", lambda *arguments, **options: None)
    given = ",".join(str(0.5 + index) for index in range(10))
    for weights, expected in (("none", None), (given, tuple(0.5 + i for i in range(10)))):
        settings = small_settings(dataset, class_weights=weights)
        programs.Programs(settings, Tiny(), optim.constant_sgd(0.1), dataset, sharding.data_mesh())
        assert seen.pop()[-1] == expected
