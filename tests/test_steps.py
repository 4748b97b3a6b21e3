"""One step and one evaluation: learning, averaging, independence of batching."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import FAMILIES, SMALL, random_dataset, random_images, small_settings
from flax import linen as nn

from jaxcnn.data import augment
from jaxcnn.runtime import sharding
from jaxcnn.runtime.compilation import init_compiler_options
from jaxcnn.train import metrics, optim
from jaxcnn.train.programs import Programs
from jaxcnn.train.step import (
    Objective,
    _all_finite,
    create_train_state,
    evaluated_variables,
    train_step,
)

PIXEL_STATS = augment.PixelStats((0.5,) * 3, (0.25,) * 3)
NO_AUGMENT = augment.create_augment(crop_padding=0, flip=False)


def _optimizer(peak_lr=0.05):
    return optim.constant_sgd(peak_lr)


@functools.cache
def _programs(**settings):
    """Returns the programs of a small ResNet on noise; tests with equal settings share them."""
    dataset = random_dataset()
    settings = small_settings(dataset, **settings)
    return Programs(settings, SMALL["resnet"], _optimizer(), dataset, sharding.data_mesh())


def _train(programs, state, first):
    """Takes a step on 8 images from `first` on."""
    (call,) = programs.calls(np.arange(first, first + 8, dtype=np.int32)[None])
    return programs.train(state, call)


@pytest.mark.parametrize(
    "name",
    [
        "lenet",
        *(
            pytest.param(name, marks=[pytest.mark.slow, pytest.mark.ci])
            for name in FAMILIES
            if name != "lenet"
        ),
    ],
)
def test_each_family_memorises_16_images(name):
    # Speedrun divides its logits by the number of its features.
    model, optimizer = SMALL[name], _optimizer(peak_lr=0.3 if name == "speedrun" else 0.01)
    images, labels = jnp.asarray(random_images(16)), jnp.arange(16) % 10
    state = jax.jit(
        lambda key: create_train_state(
            key, model=model, optimizer=optimizer, image_shape=(16, 16, 3)
        ),
        compiler_options=init_compiler_options(),
    )(jax.random.key(0))
    step = jax.jit(
        lambda state: train_step(
            state,
            jax.random.key(1),
            images,
            labels,
            objective=Objective(model, PIXEL_STATS),
            optimizer=optimizer,
            augment=NO_AUGMENT,
        )
    )
    for _ in range(400):
        state = step(state)
        loss, accuracy = metrics.means(state.sums)
        if accuracy == 1.0 and loss < 0.1:
            return
        state = state.replace(sums=metrics.zeros())
    raise AssertionError(f"after 400 steps the loss is {loss}, the accuracy {accuracy}")


def test_a_step_counts_itself_and_adds_its_batch_to_the_sums():
    programs = _programs()
    state = programs.init()
    assert int(state.step) == 0
    for index in range(3):
        state = _train(programs, state, 8 * index)
    assert int(state.step) == 3
    assert int(state.sums["count"]) == 24


def test_a_step_depends_on_its_number_through_the_augmentation():
    programs = _programs()

    def losses(first_step):
        state = programs.init().replace(step=jnp.int32(first_step))
        return float(_train(programs, state, 0).sums["loss"])

    assert losses(0) == losses(0)
    assert losses(0) != losses(1)


def test_a_step_has_the_learning_rate_of_its_own_number():
    """With a rate of 0 at step 0 and 1 from then on, the first step moves no parameter."""
    model = nn.Sequential([lambda x, train: x.mean((1, 2)), nn.Dense(10)])
    optimizer = optim.Optimizer(optax.identity(), lambda step: jnp.float32(step > 0))
    images, labels = jnp.asarray(random_images(4)), jnp.arange(4)
    step = jax.jit(
        functools.partial(
            train_step,
            objective=Objective(model, PIXEL_STATS),
            optimizer=optimizer,
            augment=NO_AUGMENT,
        )
    )
    states = [
        create_train_state(
            jax.random.key(0), model=model, optimizer=optimizer, image_shape=(16, 16, 3)
        )
    ]
    for _ in range(2):
        states.append(step(states[-1], jax.random.key(1), images, labels))
    kernels = [state.params["layers_1"]["kernel"] for state in states]
    np.testing.assert_array_equal(kernels[0], kernels[1])
    assert not np.array_equal(kernels[1], kernels[2])


def test_initial_state_and_step_depend_on_the_seed():
    first, second = _programs(), _programs(seed=1)
    assert float(_train(first, first.init(), 0).sums["loss"]) != float(
        _train(second, second.init(), 0).sums["loss"]
    )


def test_evaluation_is_the_same_for_every_batch_size():
    results = []
    for programs in (_programs(), _programs(eval_batch_size=7), _programs(eval_batch_size=64)):
        sums = jax.device_get(programs.evaluate(programs.init()))
        assert sums["count"] == 20
        results.append((int(sums["correct"]), float(sums["loss"])))
    assert len({correct for correct, _ in results}) == 1
    np.testing.assert_allclose([loss for _, loss in results], results[0][1], rtol=1e-5)


def test_averaged_weights_follow_their_recurrence_and_are_the_ones_evaluated():
    programs = _programs(ema_decay=0.75)
    state = programs.init()
    expected = np.asarray(state.params["stem_conv"]["kernel"])
    for index in range(3):
        state = _train(programs, state, 8 * index)
        expected = 0.75 * expected + 0.25 * np.asarray(state.params["stem_conv"]["kernel"])
    averaged = evaluated_variables(state)["params"]["stem_conv"]["kernel"]
    np.testing.assert_allclose(averaged, expected, rtol=1e-5)
    assert not np.allclose(averaged, state.params["stem_conv"]["kernel"])


def test_nothing_is_compiled_after_the_first_step():
    programs = _programs()
    compiled = []
    state = programs.init()
    state = _train(programs, state, 0)
    programs.evaluate(state)

    def listen(event, duration, **kwargs):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        for index in range(3):
            state = _train(programs, state, index)
            programs.evaluate(state)
        assert not compiled
        jax.jit(lambda x: x + len(compiled))(jnp.zeros(3))  # the listener does hear compilations
        assert compiled
    finally:
        jax.monitoring.clear_event_listeners()


def test_another_batch_size_than_the_compiled_one_is_an_error():
    programs = _programs()
    with pytest.raises(ValueError, match="size 9 into shape"):
        list(programs.calls(np.arange(9, dtype=np.int32)[None]))


@pytest.mark.parametrize("devices", [1, 2])
def test_numbers_that_are_not_finite_are_found_in_arrays_of_any_size(devices):
    tree = {"large": np.ones((300, 300), np.float32), "small": np.ones(3, np.float32)}
    tree["none"] = np.float32(1)
    assert _all_finite(tree, devices)
    for name, bad in itertools.product(tree, (np.nan, np.inf, -np.inf)):
        broken = np.array(tree[name])
        broken.flat[-1] = bad
        assert not _all_finite({**tree, name: broken}, devices), (name, bad)
