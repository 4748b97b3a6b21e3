"""How steps are cut and fed makes no difference: micro-batches, calls, streaming, recomputation."""

import functools
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import SMALL, init, random_dataset, random_images, small_settings
from flax import linen as nn
from test_steps import _optimizer

from jaxcnn import models
from jaxcnn.data import Split, augment
from jaxcnn.errors import UserError
from jaxcnn.runtime import sharding
from jaxcnn.train import feed
from jaxcnn.train.programs import Programs

ORDER = np.random.default_rng(0).permutation(48).astype(np.int32).reshape(6, 8)


class Tiny(nn.Module):
    """The least that has a kernel and a classifier, with or without a norm: quick to compile."""

    norm: bool = False

    @nn.compact
    def __call__(self, x, *, train):
        """Returns logits float32 `[B, 10]`."""
        x = nn.Conv(4, (3, 3), strides=4, name="conv")(x)
        if self.norm:
            x = nn.BatchNorm(use_running_average=not train, name="norm")(x)
        return nn.Dense(10, name="classifier")(nn.relu(x).mean((1, 2)))


@functools.cache
def _programs(model, **train):
    dataset = random_dataset()
    settings = small_settings(dataset, label_smoothing=0.1, **train)
    return Programs(settings, model, _optimizer(), dataset, sharding.data_mesh())


def _train(model, groups, **train):
    """Trains on the batches of each of `groups`, one after another, and returns the state."""
    programs = _programs(model, **train)
    state = programs.init()
    for group in groups:
        for call in programs.calls(group):
            state = programs.train(state, call)
    return state, programs.evaluate(state)


def _bytes(tree):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


def test_where_calls_of_several_steps_begin_changes_no_bit():
    whole = _train(Tiny(), [ORDER], steps_per_call=4)
    stopped = _train(Tiny(), [ORDER[:1], ORDER[1:3], ORDER[3:]], steps_per_call=4)
    assert _bytes(whole) == _bytes(stopped)
    assert int(whole[0].step) == 6
    single, _ = _train(Tiny(), [ORDER])
    for a, b in zip(jax.tree.leaves(whole[0]), jax.tree.leaves(single), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    other, _ = _train(Tiny(), [ORDER[::-1]], steps_per_call=4)
    assert _bytes(whole[0].params) != _bytes(other.params)


@pytest.mark.parametrize("layout", [{}, {"grad_accum_steps": 2, "steps_per_call": 4}])
def test_a_streamed_data_set_gives_the_same_bytes_as_one_on_the_devices(layout):
    resident = _train(Tiny(), [ORDER], **layout)
    assert _bytes(resident) == _bytes(_train(Tiny(), [ORDER], data_gigabytes=0.0, **layout))


def test_micro_batches_give_the_step_of_the_whole_batch():
    """Without norms and dropout; augmentation draws the same for each image."""
    whole, micro = _train(Tiny(), [ORDER])[0], _train(Tiny(), [ORDER], grad_accum_steps=4)[0]
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(micro), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    assert int(micro.sums["count"]) == 48 and int(micro.step) == 6


def test_running_means_of_micro_batches_are_those_of_the_whole_batch():
    """In the first norm, that is: later ones see what the first has normalised otherwise."""
    whole, micro = (
        _train(Tiny(norm=True), [ORDER[:1]], grad_accum_steps=count)[0].batch_stats["norm"]
        for count in (1, 4)
    )
    np.testing.assert_allclose(whole["mean"], micro["mean"], rtol=1e-4, atol=1e-6)
    assert not np.allclose(whole["var"], micro["var"], rtol=1e-3)


def test_an_image_is_augmented_alike_in_a_batch_and_in_micro_batches():
    images = random_images(12)
    both = augment.create_augment(crop_padding=2, flip=True)
    whole = both(jax.random.key(3), images)
    micro = both(jax.random.key(3), images.reshape(3, 4, *images.shape[1:]))
    np.testing.assert_array_equal(whole, micro.reshape(images.shape))


@pytest.mark.parametrize("name", ["resnet18", "mobilenet", "densenet40_k12"])
def test_recomputing_blocks_changes_no_variable(name):
    images = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
    plain, recomputed = (
        jax.eval_shape(
            partial(models.create(name, remat=remat, ops="stock").init, train=True),
            jax.random.key(0),
            images,
        )
        for remat in (False, True)
    )
    assert plain == recomputed


@pytest.mark.parametrize("name", ["mobilenet", pytest.param("resnet", marks=pytest.mark.slow)])
def test_recomputing_blocks_changes_no_gradient(name):
    images = random_images(8).astype(np.float32) / 255
    gradients, products = [], []
    variables = init(SMALL[name], images)
    for remat in (False, True):
        model = SMALL[name].clone(remat=remat)

        def loss(params, model=model):
            both = {**variables, "params": params}
            logits, _ = model.apply(both, images, train=True, mutable=["batch_stats"])
            return jnp.mean(logits**2)

        lowered = jax.jit(jax.grad(loss)).lower(variables["params"])
        products.append(
            len(re.findall(r"stablehlo\.(?:convolution|dot_general)", lowered.as_text()))
        )
        gradients.append(lowered.compile()(variables["params"]))
    assert products[0] < products[1]
    for a, b in zip(*map(jax.tree.leaves, gradients), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


def test_lenet_has_nothing_to_recompute():
    with pytest.raises(UserError, match="train.remat=True: lenet has no blocks"):
        models.create("lenet", remat=True)


def test_a_consumer_that_stops_early_ends_the_prefetching():
    split = Split(random_images(8), np.arange(8, dtype=np.int32))
    source = feed.StreamedDataset(split, sharding.data_mesh(), (2,))
    asked = []

    def indices():
        for start in range(1000):
            asked.append(start)
            yield np.array([start % 8, 0], np.int32)

    batches = source.batches(indices())
    images, labels = next(batches)
    np.testing.assert_array_equal(images, split.images[[0, 0]])
    np.testing.assert_array_equal(labels, [0, 0])
    batches.close()
    assert len(asked) < 10


def test_an_error_of_the_prefetching_thread_reaches_the_consumer():
    split = Split(random_images(8), np.arange(8, dtype=np.int32))
    source = feed.StreamedDataset(split, sharding.data_mesh(), (1,))
    with pytest.raises(IndexError):
        list(source.batches([np.array([8], np.int32)]))
