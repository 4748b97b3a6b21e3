"""What recipes change beside the images: averaging, running statistics, weight decay in a step."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags
from conftest import SMALL, SMALL_FAST, init, random_images
from test_layout import Tiny

from jaxcnn.commands import config_flag
from jaxcnn.config import compat, recipe, schema
from jaxcnn.config.settings import Settings, check_network
from jaxcnn.data import augment
from jaxcnn.runtime.compilation import init_compiler_options
from jaxcnn.train import optim
from jaxcnn.train import recipe as train_recipe
from jaxcnn.train.step import Objective, create_train_state, evaluated_variables, train_step

PIXEL_STATS = augment.PixelStats((0.5,) * 3, (0.25,) * 3)
IMAGES, LABELS = random_images(8), np.arange(8, dtype=np.int32)


def _states(count, optimizer=None, **step_arguments):
    """Returns the states of `Tiny` after 0 to `count` steps on the same batch."""
    model, optimizer = Tiny(norm=True), optimizer or optim.constant_sgd(0.1)
    ema = bool(step_arguments.get("ema_decay"))
    state = jax.jit(
        lambda key: create_train_state(
            key, model=model, optimizer=optimizer, image_shape=(16, 16, 3), ema=ema
        )
    )(jax.random.key(0))
    step = jax.jit(
        functools.partial(
            train_step,
            objective=Objective(model, PIXEL_STATS),
            optimizer=optimizer,
            augment=augment.create_augment(crop_padding=0, flip=False),
            **step_arguments,
        ),
        compiler_options=init_compiler_options(),
    )
    states = [state]
    for _ in range(count):
        states.append(step(states[-1], jax.random.key(1), IMAGES, LABELS))
    return states


def test_a_warm_average_keeps_little_at_first_and_owns_its_statistics():
    states = _states(4, ema_decay=train_recipe.ema_decay(0.3, True))
    of = [{"params": state.params, "batch_stats": state.batch_stats} for state in states]
    expected = of[0]
    # (1 + t) / (10 + t) is 0.1, 0.18, 0.25, 0.31 for t = 0 to 3: the last one is cut to 0.3.
    for t, now in enumerate(of[1:]):
        kept = min(0.3, (1 + t) / (10 + t))
        expected = jax.tree.map(lambda old, new, k=kept: k * old + (1 - k) * new, expected, now)
    averaged = evaluated_variables(states[-1])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), averaged, expected)
    running = states[-1].batch_stats["norm"]["var"]
    assert not np.allclose(averaged["batch_stats"]["norm"]["var"], running, rtol=1e-3)


# The fused block of a fast DenseNet updates its statistics on a way of its own.
@pytest.mark.parametrize("model", [SMALL["mobilenet"], SMALL_FAST["densenet"].clone(blocks=(2,))])
def test_running_statistics_forget_as_fast_as_asked(model):
    images = jnp.asarray(random_images(4, size=8), jnp.float32)
    variables = init(model, images)

    def moved(momentum):
        run = jax.jit(
            lambda variables: model.clone(norm_momentum=momentum).apply(
                variables, images, train=True, mutable=["batch_stats"]
            ),
            compiler_options=init_compiler_options(),
        )
        new = run(variables)[1]["batch_stats"]
        return jax.tree.map(jnp.subtract, new, variables["batch_stats"])

    slow, fast = moved(0.9), moved(0.5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(5 * a, b, 1e-4, 1e-4), slow, fast)
    assert all(np.any(leaf) for leaf in jax.tree.leaves(slow))


def test_the_momentum_of_statistics_reaches_every_network(dataset):
    for name in ("lenet", "resnet20", "densenet40_k12", "mobilenet"):
        config = schema.default_config()
        config.model.name, config.model.bn_momentum = name, 0.6
        check_network(config)
        settings = Settings.resolve(config, dataset)
        assert settings.create_model().norm_momentum == 0.6
        assert Settings.from_json(settings.to_json()) == settings


def test_an_average_without_warmup_keeps_the_same_at_every_step():
    assert train_recipe.ema_decay(0.3, False) == 0.3
    warm = train_recipe.ema_decay(0.3, True)
    assert [round(float(warm(t)), 4) for t in (0, 1, 2, 3, 100)] == [0.1, 0.1818, 0.25, 0.3, 0.3]


def test_what_older_runs_lack_is_off_by_default():
    """The value that was in force before such a setting existed is the one without effect."""
    tree = schema.to_dict(schema.default_config())
    sections = {"augment": "AugmentRecipe", "model": "ModelRecipe", "optim": "OptimRecipe"}
    sections |= {"train": "TrainRecipe", "dataset": "FolderRecipe"}
    for section, name in sections.items():
        for field in dataclasses.fields(getattr(recipe, name)):
            key = f"{section}.{field.name}"
            # Older runs called oneDNN; today it is by the data, and a run may change it.
            expected = True if key == "train.onednn" else tree[section][field.name]
            assert compat.ADDED[key] == expected, key


# ml_collections executes configuration files so.
@pytest.mark.filterwarnings(r"ignore:the load_module\(\) method:DeprecationWarning")
def test_a_command_line_may_set_every_kind_of_a_recipes_settings():
    arguments = ["--config=lenet:digits", "--augment.randaugment=(2,9)", "--train.patience=3"]
    arguments += [
        "--optim.weight_decay_depthwise=0",
        "--train.keep_best",
        "--optim.schedule=1-sqrt",
    ]
    config = config_flag.parse(arguments, flags.FlagValues()).config
    schema.validate(config)
    assert config.augment.randaugment == (2, 9) and config.train.patience == 3
    assert config.optim.weight_decay_depthwise == 0.0 and config.train.keep_best


def _lookahead(every, alpha):
    config = schema.OptimConfig(
        peak_lr=0.1,
        weight_decay=0.0,
        schedule="constant",
        warmup_epochs=0.0,
        lookahead_steps=every,
        lookahead_alpha=alpha,
    )
    return optim.create_optimizer(config, epochs=1, steps_per_epoch=1)


def test_lookahead_follows_its_algorithm():
    """On a plain loop around the optimizer inside (Zhang et al. 2019, algorithm 1)."""
    optimizer, inner = _lookahead(3, 0.4), optim.constant_sgd(0.1)
    params = {"kernel": jnp.float32([2.0, -1.0])}
    fast, slow, inner_state = params, params, inner.tx.init(params)
    state = optimizer.tx.init(params)
    for step in range(7):
        grads = {"kernel": jnp.sin(params["kernel"]) + step}
        direction, state = optimizer.tx.update(grads, state, params)
        params = {"kernel": params["kernel"] - 0.1 * direction["kernel"]}
        params, state = optimizer.finish(params, state, jnp.int32(step))

        grads = {"kernel": jnp.sin(fast["kernel"]) + step}
        direction, inner_state = inner.tx.update(grads, inner_state, fast)
        fast = {"kernel": fast["kernel"] - 0.1 * direction["kernel"]}
        if (step + 1) % 3 == 0:
            slow = {"kernel": slow["kernel"] + 0.4 * (fast["kernel"] - slow["kernel"])}
            fast = slow
        np.testing.assert_allclose(params["kernel"], fast["kernel"], rtol=1e-6)
        np.testing.assert_allclose(state.slow["kernel"], slow["kernel"], rtol=1e-6)


def test_a_step_ends_with_lookahead():
    """With alpha 1 it is the plain optimizer; with less, weights go back every second step."""
    plain, whole, half = (
        [state.params for state in _states(2, optimizer)]
        for optimizer in (optim.constant_sgd(0.1), _lookahead(2, 1.0), _lookahead(2, 0.5))
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), plain[2], whole[2])
    jax.tree.map(np.testing.assert_array_equal, plain[1], half[1])
    middle = jax.tree.map(lambda start, end: (start + end) / 2, plain[0], plain[2])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-4, 1e-6), half[2], middle)
