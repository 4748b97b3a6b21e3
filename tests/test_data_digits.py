"""The embedded digits: fixed pixels, fixed split."""

import hashlib

import numpy as np
import pytest
from sklearn.datasets import load_digits

from jaxcnn import data
from jaxcnn.data import digits, splits


def load(train="train", evaluation="test"):
    """Loads the embedded data set."""
    return data.load("digits", data_dir="", train_split=train, eval_split=evaluation)


@pytest.fixture(scope="module")
def loaded():
    return load()


def test_shapes_types_and_names(loaded):
    for split, count in ((loaded.train, 1437), (loaded.eval, 360)):
        assert split.images.shape == (count, 32, 32, 3) and split.images.dtype == np.uint8
        assert split.labels.shape == (count,) and split.labels.dtype == np.int32
    assert loaded.class_names == tuple("0123456789")
    assert (loaded.train.images.min(), loaded.train.images.max()) == (0, 255)


def test_data_never_change(loaded):
    # Not compared with a simpler definition: this is what a recorded result depends on.
    assert loaded.fingerprint == "digits/1.0.0 sha256:5d54e85d87e5005c"
    assert load("train[:100]", "train[100:200]").fingerprint == loaded.fingerprint


def test_split_keeps_every_example_once_and_every_class_its_share(loaded):
    bunch = load_digits()
    whole = digits.upscale(bunch.images.astype(int))
    joined = np.concatenate([loaded.train.images, loaded.eval.images])
    hashes = [
        sorted(hashlib.sha256(i.tobytes()).digest() for i in set_) for set_ in (whole, joined)
    ]
    assert hashes[0] == hashes[1]
    sizes = np.bincount(bunch.target)
    shares = np.bincount(loaded.eval.labels)
    assert np.all(np.abs(shares - sizes * 360 / 1797) < 1)


def test_labels_belong_to_their_images(loaded):
    bunch = load_digits()
    by_image = {
        image.tobytes(): label
        for image, label in zip(digits.upscale(bunch.images.astype(int)), bunch.target, strict=True)
    }
    for image, label in zip(*loaded.eval, strict=True):
        assert by_image[image.tobytes()] == label


def test_upscaling_is_bilinear_interpolation():
    small = np.random.default_rng(0).integers(0, 17, (3, 8, 8))
    centres = np.clip((np.arange(32) + 0.5) / 4 - 0.5, 0, 7)
    low = np.floor(centres).astype(int).clip(0, 6)
    fraction = centres - low
    rows = small[:, low] * (1 - fraction)[:, None] + small[:, low + 1] * fraction[:, None]
    both = rows[..., low] * (1 - fraction) + rows[..., low + 1] * fraction
    expected = np.floor(both * 255 / 16 + 0.5)
    for channel in range(3):
        np.testing.assert_array_equal(digits.upscale(small)[..., channel], expected)


def test_stratified_choice_rounds_fairly():
    labels = np.repeat([0, 1, 2], [10, 10, 5])
    chosen = splits.stratified_choice(labels, 7)
    assert np.bincount(labels[chosen]).tolist() == [3, 3, 1]  # from 2.8, 2.8 and 1.4
