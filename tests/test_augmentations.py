"""What recipes add to the crop and the flip: properties of each, and that training uses them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import random_dataset, random_images, small_settings
from hypothesis import given, settings
from hypothesis import strategies as st
from test_layout import ORDER, Tiny, _bytes, _optimizer

from jaxcnn.config import schema
from jaxcnn.data import augment
from jaxcnn.data.augmentations import flips, occlusion, pipeline
from jaxcnn.runtime import sharding
from jaxcnn.train import recipe
from jaxcnn.train.programs import Programs

KEY = jax.random.key(5)
MEAN = (0.1, 0.5, 0.9)
FILL = np.uint8([26, 128, 230])


def _augmentation(**changes):
    """Returns the pipeline of the default settings with some changed; nothing is drawn by them."""
    section = dataclasses.asdict(schema.AugmentConfig(crop_padding=0, flip=False))
    return pipeline.create_augmentation(MEAN, **(section | changes))


def test_every_setting_of_the_section_has_its_place_in_the_pipeline():
    own = {"crop_padding", "crop_mode", "flip", "flip_mode"}
    keys = {field.name for field in dataclasses.fields(schema.AugmentConfig)}
    assert keys - own == set(pipeline.TRANSFORMS)


def test_with_everything_at_its_default_the_transform_is_the_crop_and_flip():
    images = random_images(8)
    plain = augment.create_augment(crop_padding=2, flip=True)
    made = _augmentation(crop_padding=2, flip=True)
    assert not made.alternates
    np.testing.assert_array_equal(plain(KEY, images), made.transform(KEY, images))
    np.testing.assert_array_equal(_augmentation().transform(KEY, images), images)


STRENGTHS = {"cutout": 5}


@pytest.mark.parametrize(("name", "strength"), STRENGTHS.items())
def test_a_transform_is_a_function_of_its_key_and_of_rows_alone(name, strength):
    images = random_images(12)
    transform = _augmentation(**{name: strength}).transform
    one, again, other = (np.asarray(transform(jax.random.key(k), images)) for k in (1, 1, 2))
    assert one.dtype == np.uint8 and one.shape == images.shape
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other) and not np.array_equal(one, images)
    # Each image is drawn for alone, and micro-batches are cut without a difference.
    assert len({image.tobytes() for image in transform(KEY, np.repeat(images[:1], 12, 0))}) > 4
    cut = transform(jax.random.key(1), images.reshape(3, 4, *images.shape[1:]))
    np.testing.assert_array_equal(one, np.reshape(cut, images.shape))


def test_a_transform_that_is_switched_on_changes_nothing_that_another_one_draws():
    images = random_images(6)
    cropped = _augmentation(crop_padding=2, flip=True).transform(KEY, images)
    covered = np.asarray(_augmentation(crop_padding=2, flip=True, cutout=4).transform(KEY, images))
    same = (covered == cropped) | (covered == FILL)
    assert same.all() and not np.array_equal(covered, cropped)


def test_a_reflected_crop_is_a_window_of_the_reflected_image():
    padding = 3
    images = random_images(20, size=7)
    crops = np.asarray(augment.random_crop(KEY, images, padding, "reflect"))
    margins = ((padding, padding), (padding, padding), (0, 0))
    for image, crop in zip(images, crops, strict=True):
        wide = np.pad(image, margins, "reflect")
        places = range(2 * padding + 1)
        windows = [wide[i : i + 7, j : j + 7] for i in places for j in places]
        assert any(np.array_equal(crop, window) for window in windows)
    black = augment.random_crop(KEY, images, padding)
    assert not np.array_equal(crops, black)


@settings(deadline=None, max_examples=20)
@given(st.lists(st.integers(0, 2**31 - 1), min_size=3, max_size=3), st.integers(0, 1000))
def test_an_alternating_flip_turns_every_image_every_epoch(indices, epoch):
    images = np.resize(random_images(4, size=4), (len(indices), 4, 4, 3))
    rows = jnp.int32(indices)
    turned = [
        np.asarray(flips.alternating_flip(KEY, images, rows, jnp.int32(e)))
        for e in (epoch, epoch + 1, epoch + 2)
    ]
    np.testing.assert_array_equal(turned[0], turned[1][:, :, ::-1])
    np.testing.assert_array_equal(turned[0], turned[2])
    for image, shown in zip(images, turned[0], strict=True):
        assert np.array_equal(image, shown) or np.array_equal(image[:, ::-1], shown)
    # It follows the index, wherever in a batch the image stands.
    backwards = flips.alternating_flip(KEY, images[::-1], rows[::-1], jnp.int32(epoch))
    np.testing.assert_array_equal(turned[0], backwards[::-1])


def test_an_alternating_flip_begins_with_half_of_the_images_mirrored():
    images = np.tile(np.uint8([0, 1]).reshape(1, 1, 2, 1), (1000, 1, 1, 1))
    shown = flips.alternating_flip(KEY, images, jnp.arange(1000), jnp.int32(0))
    assert 440 < int(np.asarray(shown)[:, 0, 0, 0].sum()) < 560
    other = flips.alternating_flip(jax.random.key(6), images, jnp.arange(1000), jnp.int32(0))
    assert not np.array_equal(shown, other)


@pytest.mark.parametrize("size", [1, 4, 5, 40])
def test_cutout_covers_one_square_with_the_mean_and_leaves_the_rest(size):
    images = random_images(200, size=9)
    images[images == FILL] = 0
    covered = np.asarray(occlusion.cutout(KEY, images, size, FILL))
    holes = (covered == FILL).all(-1)
    assert np.array_equal(covered[~holes], images[~holes])
    assert holes.any((1, 2)).all()
    for hole in holes:
        rows, columns = hole.any(1), hole.any(0)
        assert np.array_equal(hole, np.outer(rows, columns))  # a box
        for line in (rows, columns):
            assert 1 <= line.sum() <= min(size, 9)
            if 0 < np.flatnonzero(line)[0] and np.flatnonzero(line)[-1] < 8:
                assert line.sum() == size  # shorter at the border only
    # The center is uniform: of a square of one pixel, that is the pixel itself.
    if size == 1:
        assert len({tuple(np.argwhere(hole)[0]) for hole in holes}) > 60


def _train(groups, augmentation, **train):
    """Trains on the batches of `groups`, and returns the state."""
    dataset = random_dataset()
    base = small_settings(dataset, **train)
    section = dataclasses.replace(base.augment, **augmentation)
    programs = Programs(
        dataclasses.replace(base, augment=section),
        Tiny(),
        _optimizer(),
        dataset,
        sharding.data_mesh(),
    )
    state = programs.init()
    for group in groups:
        for call in programs.calls(group):
            state = programs.train(state, call)
    return state


ALTERNATING = {"flip": True, "flip_mode": "alternating", "crop_mode": "reflect", "cutout": 3}


def test_how_an_alternating_training_is_fed_and_cut_changes_no_bit():
    layout = {"grad_accum_steps": 2, "steps_per_call": 4}
    whole = _bytes(_train([ORDER], ALTERNATING, **layout))
    assert whole == _bytes(_train([ORDER], ALTERNATING, data_gigabytes=0.0, **layout))
    assert whole == _bytes(_train([ORDER[:1], ORDER[1:]], ALTERNATING, **layout))


def test_the_step_mirrors_by_index_and_by_the_epoch_of_its_number():
    """What the step is given is what `alternating_flip` gives for its epoch."""
    images, indices = random_images(4), np.int32([7, 0, 3, 9])

    @dataclasses.dataclass
    class State:
        step: jax.Array

    def step(state, key, images, labels):
        return images

    wrapped = recipe.wrapped(step, _augmentation(flip=True, flip_mode="alternating"), 10)
    for number, epoch in ((0, 0), (9, 0), (10, 1), (25, 2)):
        seen = wrapped(State(jnp.int32(number)), KEY, images, np.zeros(4), jnp.asarray(indices))
        expected = flips.alternating_flip(KEY, images, jnp.asarray(indices), jnp.int32(epoch))
        np.testing.assert_array_equal(seen, expected)
    assert recipe.wrapped(step, _augmentation(flip=True), 10) is step


def test_the_preview_shows_what_the_first_step_gets():
    images, rows = random_images(4), np.int32([7, 0, 3, 9])
    made = _augmentation(flip=True, flip_mode="alternating", cutout=3, crop_padding=1)
    key, _ = jax.random.split(jax.random.fold_in(KEY, 0))
    flipped = flips.alternating_flip(KEY, images, jnp.asarray(rows), jnp.int32(0))
    np.testing.assert_array_equal(made.preview(KEY, images, rows), made.transform(key, flipped))
