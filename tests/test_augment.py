"""Augmentation as properties: windows of the padded image, mirrored or not."""

import jax
import numpy as np
import pytest
from conftest import random_images

from jaxcnn.data import augment


def _windows(image, padding):
    """Yields every window of the padded image."""
    padded = np.pad(image, ((padding, padding), (padding, padding), (0, 0)))
    height, width = image.shape[:2]
    for top in range(2 * padding + 1):
        for left in range(2 * padding + 1):
            yield padded[top : top + height, left : left + width]


@pytest.mark.parametrize("channels", [1, 3])
def test_every_crop_is_a_window_of_the_padded_image(channels):
    images = random_images(40, size=9, channels=channels)
    crops = np.asarray(augment.random_crop(jax.random.key(0), images, 2))
    assert crops.shape == images.shape and crops.dtype == np.uint8
    for image, crop in zip(images, crops, strict=True):
        assert any(np.array_equal(crop, window) for window in _windows(image, 2))


def test_all_windows_occur():
    image = random_images(1, size=4)
    crops = np.asarray(augment.random_crop(jax.random.key(0), np.repeat(image, 400, 0), 1))
    seen = {crop.tobytes() for crop in crops}
    assert seen == {window.tobytes() for window in _windows(image[0], 1)}


def test_flip_mirrors_about_half_and_leaves_the_others():
    images = random_images(1000, size=4)
    flipped = np.asarray(augment.random_flip(jax.random.key(0), images))
    same = (flipped == images).all((1, 2, 3))
    mirrored = (flipped == images[:, :, ::-1]).all((1, 2, 3))
    assert (same | mirrored).all()
    assert 400 < mirrored.sum() < 600


def test_augment_depends_on_the_key_and_on_its_switches():
    images = random_images(8)
    both = augment.create_augment(crop_padding=2, flip=True)
    one, again, other = (np.asarray(both(jax.random.key(k), images)) for k in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other)
    neither = augment.create_augment(crop_padding=0, flip=False)
    np.testing.assert_array_equal(neither(jax.random.key(1), images), images)


@pytest.mark.parametrize("count", [5, 2_345])
def test_pixel_moments_are_those_of_numpy(count):
    images = random_images(count, size=8)
    moments = augment.pixel_stats(images)
    scaled = images.astype(np.float64) / 255
    np.testing.assert_allclose(moments.mean, scaled.mean((0, 1, 2)), atol=1e-6)
    np.testing.assert_allclose(moments.std, scaled.std((0, 1, 2)), atol=1e-6)


def test_normalised_images_have_mean_zero_and_variance_one():
    images = random_images(50, size=8)
    x = np.asarray(augment.normalize(images, augment.pixel_stats(images)))
    assert x.dtype == np.float32
    np.testing.assert_allclose(x.mean((0, 1, 2)), 0, atol=1e-4)
    np.testing.assert_allclose(x.std((0, 1, 2)), 1, atol=1e-4)


def test_constant_channel_does_not_divide_by_zero():
    images = np.full((3, 4, 4, 1), 7, np.uint8)
    assert augment.pixel_stats(images).std == (1.0,)
