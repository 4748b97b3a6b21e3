"""Steps with a NaN or an infinity: nothing is touched, the step is named, the run can go on."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import random_dataset, random_images, share_programs
from flax import linen as nn

from jaxcnn.config import schema
from jaxcnn.config.schema import OptimConfig
from jaxcnn.data import augment
from jaxcnn.errors import UserError
from jaxcnn.models import resnet
from jaxcnn.run.checkpoint import Checkpoints
from jaxcnn.runtime.compilation import init_compiler_options
from jaxcnn.train import fit, metrics, step
from jaxcnn.train.optim import create_optimizer


class Tiny(nn.Module):
    """The least that has a kernel, a norm and a classifier: it compiles in no time."""

    @nn.compact
    def __call__(self, x, *, train):
        """Returns logits float32 `[B, 10]`."""
        x = nn.Conv(4, (3, 3), strides=4, name="conv")(x)
        x = nn.BatchNorm(use_running_average=not train, name="norm")(x)
        return nn.Dense(10, name="classifier")(nn.relu(x).mean((1, 2)))


BAD = 3  # the images of this class carry the poison


@pytest.fixture(scope="module", autouse=True)
def quick_to_compile():
    """Makes resnet20 a network of one block with stock operations."""
    small = resnet.ResNet, {"blocks": (1,), "widths": (8,), "ops": "stock"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(resnet.VARIANTS, "resnet20", small)
        yield


@jax.custom_vjp
def _poison_gradient(losses, bad):
    return losses


_poison_gradient.defvjp(
    lambda losses, bad: (losses, bad), lambda bad, grads: (jnp.where(bad, jnp.inf, grads), None)
)


def _poison(patch, place, value=jnp.nan):
    """Has a batch with an image of class BAD meet `value` in its data, loss or gradient."""
    entropy, normalize = metrics.cross_entropy, augment.normalize

    def cross_entropy(logits, labels, label_smoothing=0.0):
        losses = entropy(logits, labels, label_smoothing)
        if place == "loss":
            return jnp.where(labels == BAD, value, losses)
        return _poison_gradient(losses, labels == BAD) if place == "gradient" else losses

    def white(images, pixel_stats):
        images_are_bad = jnp.all(images == 255, axis=(1, 2, 3), keepdims=True)
        return jnp.where(images_are_bad, value, normalize(images, pixel_stats))

    patch.setattr(metrics, "cross_entropy", cross_entropy)
    if place == "data":
        patch.setattr(step, "normalize", white)


class _Setting:
    """A compiled step on 40 images, of which 10 are of class BAD and white."""

    def __init__(self, max_nonfinite, optimizer="adamw"):
        config = OptimConfig(
            name=optimizer,
            peak_lr=0.01,
            weight_decay=1e-4,
            clip_norm=1.0,
            schedule="constant",
            warmup_epochs=0.0,
        )
        self.optimizer = create_optimizer(config, epochs=1, steps_per_epoch=1)
        images = random_images(40)
        images[30:] = 255
        labels = np.where(np.arange(40) < 30, np.arange(40) % BAD, BAD).astype(np.int32)
        model = Tiny()
        self.good, self.bad = np.arange(8), np.arange(26, 34)
        self.init = jax.jit(
            lambda key: step.create_train_state(
                key, model=model, optimizer=self.optimizer, image_shape=(16, 16, 3), ema=True
            ),
            compiler_options=init_compiler_options(),
        )
        self.step = jax.jit(
            lambda state, indices: step.train_step(
                state,
                jax.random.key(1),
                jnp.asarray(images)[indices],
                jnp.asarray(labels)[indices],
                objective=step.Objective(model, augment.PixelStats((0.5,) * 3, (0.25,) * 3)),
                optimizer=self.optimizer,
                augment=augment.create_augment(crop_padding=0, flip=False),
                ema_decay=0.9,
                max_nonfinite=max_nonfinite,
            )
        )


def _assert_same(one, other, *, but=()):
    for field in dataclasses.fields(one):
        if field.name not in but:
            first, second = getattr(one, field.name), getattr(other, field.name)
            for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
                assert np.asarray(a).tobytes() == np.asarray(b).tobytes(), field.name


@pytest.mark.parametrize("place", ["data", "loss", "gradient"])
def test_a_bad_step_changes_nothing_and_the_clock_stops_before_it(place, monkeypatch):
    _poison(monkeypatch, place)
    setting = _Setting(max_nonfinite=1)
    before = setting.step(setting.init(jax.random.key(0)), setting.good)
    assert step.stopped(before, 1) is None
    after = before
    for indices in (setting.bad, setting.good, setting.bad):  # sent off before anyone looks
        after = setting.step(after, indices)
    _assert_same(step.stopped(after, 1), before)
    assert int(before.step) == 1 and int(before.sums["count"]) == 8


def test_an_infinite_loss_counts_as_bad(monkeypatch):
    _poison(monkeypatch, "loss", jnp.inf)
    setting = _Setting(max_nonfinite=1)
    state = setting.step(setting.init(jax.random.key(0)), setting.bad)
    assert step.stopped(state, 1) is not None


def test_skipped_steps_are_counted_and_stop_only_several_in_a_row(monkeypatch):
    _poison(monkeypatch, "gradient")
    setting = _Setting(max_nonfinite=3)
    good, bad = setting.good, setting.bad
    start = setting.step(setting.init(jax.random.key(0)), good)
    state = setting.step(setting.step(start, bad), bad)
    assert step.stopped(state, 3) is None
    _assert_same(state, start, but=("step", "nonfinite"))
    assert {name: int(n) for name, n in state.nonfinite.items()} == {"skipped": 2, "in_a_row": 2}
    assert int(state.step) == 3  # the clock goes on, and with it the data

    state = setting.step(state, good)
    assert {name: int(n) for name, n in state.nonfinite.items()} == {"skipped": 2, "in_a_row": 0}
    assert int(state.sums["count"]) == 16

    before = setting.step(setting.step(state, bad), bad)
    after = setting.step(setting.step(before, bad), good)
    _assert_same(step.stopped(after, 3), before)


def _settings(**train):
    settings = schema.default_config()
    settings.dataset.name, settings.model.name = "noise", "resnet20"
    settings.train.epochs, settings.train.batch_size, settings.train.eval_batch_size = 3, 8, 10
    settings.optim.peak_lr = 0.01
    settings.train.plots = False
    settings.train.update(train)
    return settings


def _dataset():
    """48 images, 6 steps an epoch; one image of class BAD."""
    dataset = random_dataset()
    labels = np.where(dataset.train.labels == BAD, 0, dataset.train.labels)
    labels[11] = BAD
    evaluation = dataset.eval._replace(labels=np.where(dataset.eval.labels == BAD, 0, 1))
    return dataset._replace(train=dataset.train._replace(labels=labels), eval=evaluation)


def test_a_run_stops_with_the_step_named_and_may_go_on_skipping(tmp_path, monkeypatch):
    _poison(monkeypatch, "loss")
    share_programs(monkeypatch)
    run = tmp_path / "run"
    for _ in range(2):  # the same command meets the same step again
        with pytest.raises(UserError) as stop:
            fit.fit(_settings(log_every_steps=4), _dataset(), run)
        last = int(str(stop.value).split("after step ")[1].split(" ")[0])
        assert f"gradient of step {last + 1} is not finite" in str(stop.value)
        assert "continue with train.on_nonfinite=skip" in str(stop.value)
        assert Checkpoints(run / "checkpoints").latest_step() == last < 6

    fit.fit(_settings(on_nonfinite="skip", max_nonfinite=2), _dataset(), run)
    other = tmp_path / "other"  # which skips from the start
    fit.fit(_settings(on_nonfinite="skip", max_nonfinite=2), _dataset(), other)
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [record["skipped_steps"] for record in records] == [1, 1, 1]
    arrays, expected = (Checkpoints(f / "checkpoints").arrays(18) for f in (run, other))
    for name in expected:
        assert arrays[name].tobytes() == expected[name].tobytes(), name


def test_too_many_skipped_steps_in_a_row_end_the_run(tmp_path, monkeypatch):
    _poison(monkeypatch, "loss")
    dataset = _dataset()
    dataset.train.labels[:] = BAD
    with pytest.raises(UserError, match="step 3, the last of 3 in a row, is not .* after step 2 "):
        fit.fit(_settings(on_nonfinite="skip", max_nonfinite=3), dataset, tmp_path / "run")
    assert Checkpoints(tmp_path / "run" / "checkpoints").latest_step() == 2


def test_an_evaluation_that_is_not_finite_ends_the_run_and_is_not_written(tmp_path, monkeypatch):
    _poison(monkeypatch, "loss")
    dataset = random_dataset()
    dataset.train.labels[:] = 0
    dataset.eval.labels[:] = BAD
    with pytest.raises(UserError, match="evaluation loss after step 6 is nan; the state is saved"):
        fit.fit(_settings(), dataset, tmp_path / "run")
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
