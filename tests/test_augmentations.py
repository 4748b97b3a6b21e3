"""What recipes add to the crop and the flip: properties of each, and that training uses them."""

import dataclasses
import functools
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import random_dataset, random_images, small_settings
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance, ImageOps
from test_layout import ORDER, Tiny, _bytes, _optimizer

from jaxcnn.config import schema
from jaxcnn.data import augment
from jaxcnn.data.augmentations import color, flips, mixing, occlusion, pipeline, randaugment
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
    own = {"crop_padding", "crop_mode", "flip", "flip_mode", "mixup", "cutmix"}
    keys = {field.name for field in dataclasses.fields(schema.AugmentConfig)}
    assert keys - own == set(pipeline.TRANSFORMS)


def test_with_everything_at_its_default_the_transform_is_the_crop_and_flip():
    images = random_images(8)
    plain = augment.create_augment(crop_padding=2, flip=True)
    made = _augmentation(crop_padding=2, flip=True)
    assert not made.alternates
    np.testing.assert_array_equal(plain(KEY, images), made.transform(KEY, images))
    np.testing.assert_array_equal(_augmentation().transform(KEY, images), images)


STRENGTHS = {
    "cutout": 5,
    "random_erasing": 1.0,
    "brightness": 0.5,
    "contrast": 0.5,
    "randaugment": (2, 9),
}


def test_each_transform_has_a_number_of_its_own_that_never_changes():
    numbers = {name: number for name, (number, _) in pipeline.TRANSFORMS.items()}
    names = ("cutout", "random_erasing", "brightness", "contrast", "randaugment")
    assert numbers == dict(zip(names, range(2, 7), strict=True))
    assert set(STRENGTHS) == set(numbers)


@pytest.mark.parametrize(("name", "strength"), STRENGTHS.items())
def test_a_transform_is_a_function_of_its_key_and_of_rows_alone(name, strength):
    images = random_images(12)
    transform = jax.jit(_augmentation(**{name: strength}).transform)
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
    one, both = (_augmentation(crop_padding=2, flip=True, cutout=size) for size in (0, 4))
    cropped, covered = (np.asarray(jax.jit(m.transform)(KEY, images)) for m in (one, both))
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


def test_erasing_puts_one_rectangle_of_noise_into_the_chosen_share_of_images():
    images = np.full((400, 12, 10, 1), 77, np.uint8)
    erase = jax.jit(occlusion.random_erasing, static_argnums=2)
    erased = np.asarray(erase(KEY, images, 0.5))
    holes = (erased != 77)[..., 0]
    changed = holes.any((1, 2))
    assert 150 < changed.sum() < 250
    areas = []
    for hole in holes[changed]:
        rows, columns = (np.flatnonzero(hole.any(axis)) for axis in (1, 0))
        box = hole[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert box.mean() > 0.7  # noise may be 77, too
        areas.append(box.size / 120)
    assert max(areas) < 0.45 and 0.15 < np.mean(areas) < 0.25  # of 0.02 to 0.4
    noise = erased[holes]
    assert noise.min() < 5 and noise.max() > 250 and 120 < noise.mean() < 135
    np.testing.assert_array_equal(erase(KEY, images, 1e-9), images)


@pytest.mark.parametrize("name", ["brightness", "contrast"])
def test_colors_are_those_of_pillow_with_factors_over_the_whole_range(name):
    image = random_images(1, size=8)
    images = np.repeat(image, 200, 0)
    enhance = {"brightness": ImageEnhance.Brightness, "contrast": ImageEnhance.Contrast}[name]
    made = np.asarray(getattr(color, name)(KEY, images, 0.4)).astype(int)
    factors = np.asarray(color._factors(KEY, images, 0.4))
    assert factors.min() < 0.63 and factors.max() > 1.37 and abs(factors.mean() - 1) < 0.05
    for shown, factor in zip(made[:10], factors[:10], strict=True):
        expected = np.asarray(enhance(Image.fromarray(image[0])).enhance(float(factor)))
        assert np.abs(shown - expected).max() <= 1  # Pillow cuts off, this rounds
    np.testing.assert_array_equal(getattr(color, name)(KEY, image, 0.0), image)


# ------------------------------------------------------------------------------- RandAugment


@functools.cache
def _compiled(name):
    return jax.jit(randaugment.OPERATIONS[name])


def _operate(name, image, magnitude, sign=1.0):
    return np.asarray(_compiled(name)(image, jnp.float32(magnitude), jnp.float32(sign), FILL))


NO_STRENGTH = ("auto_contrast", "equalize")


@pytest.mark.parametrize("name", randaugment.OPERATIONS)
def test_an_operation_of_magnitude_0_changes_nothing(name):
    image = random_images(1, size=9)[0]
    if name not in NO_STRENGTH:
        np.testing.assert_array_equal(_operate(name, image, 0.0), image)
        if name != "identity":
            assert not np.array_equal(_operate(name, image, 0.9), image)
    assert _operate(name, image, 0.9).dtype == np.uint8


def _pillow(name, image, magnitude):
    """Returns what Pillow makes of an image, for the sign 1."""
    picture = Image.fromarray(image)
    enhancers = {
        "saturation": ImageEnhance.Color,
        "contrast": ImageEnhance.Contrast,
        "brightness": ImageEnhance.Brightness,
        "sharpness": ImageEnhance.Sharpness,
    }
    if name in enhancers:
        return np.asarray(enhancers[name](picture).enhance(1 + 0.9 * magnitude))
    functions = {
        "auto_contrast": ImageOps.autocontrast,
        "equalize": ImageOps.equalize,
        "posterize": lambda p: ImageOps.posterize(p, 8 - round(4 * magnitude)),
        "solarize": lambda p: ImageOps.solarize(p, round(256 * (1 - magnitude))),
    }
    return np.asarray(functions[name](picture))


@pytest.mark.parametrize("magnitude", [0.3, 1.0])
@pytest.mark.parametrize(
    ("name", "most"),
    [
        ("auto_contrast", 1),  # Pillow's table is made in floating point
        ("equalize", 0),
        ("posterize", 0),
        ("solarize", 0),
        ("saturation", 1),  # Pillow cuts off, this rounds
        ("contrast", 1),
        ("brightness", 1),
        ("sharpness", 1),
    ],
)
def test_operations_on_values_are_those_of_pillow(name, most, magnitude):
    rng = np.random.default_rng(0)
    smooth = np.clip(rng.normal(120, 30, (32, 32, 3)), 3, 250).astype(np.uint8)
    found = _operate(name, smooth, magnitude).astype(int)
    assert np.abs(found - _pillow(name, smooth, magnitude)).max() <= most
    constant = np.full((32, 32, 3), 50, np.uint8)
    found = _operate(name, constant, magnitude).astype(int)
    assert np.abs(found - _pillow(name, constant, magnitude)).max() <= most


@pytest.mark.parametrize("name", ["rotate", "shear_x", "shear_y", "translate_x", "translate_y"])
def test_operations_on_places_only_move_pixels(name):
    image = random_images(1, size=9)[0]
    image[(image == FILL).all(-1)] = 0
    there, back = (_operate(name, image, 0.9, sign) for sign in (1.0, -1.0))
    pixels = {tuple(pixel) for pixel in image.reshape(-1, 3)} | {tuple(FILL)}
    for moved in (there, back):
        assert {tuple(pixel) for pixel in moved.reshape(-1, 3)} <= pixels
    assert not np.array_equal(there, back)
    middle = image[4, 4]
    if not name.startswith("translate"):
        assert (there[4, 4] == middle).all()


def test_an_affine_map_of_a_quarter_turn_or_of_whole_pixels_is_exact():
    image = random_images(1, size=8)[0]
    turn = jnp.float32([[0, 1, 0], [-1, 0, 0]])
    np.testing.assert_array_equal(randaugment.affine(image, turn, FILL), np.rot90(image))
    move = jnp.float32([[1, 0, 2], [0, 1, -3]])
    moved = np.asarray(randaugment.affine(image, move, FILL))
    np.testing.assert_array_equal(moved[:6, 3:], image[2:, :5])
    assert (moved[6:] == FILL).all() and (moved[:, :3] == FILL).all()


@pytest.mark.slow
@pytest.mark.ci
def test_every_operation_of_randaugment_occurs():
    image = random_images(1, size=9)
    images = np.repeat(image, 300, 0)
    rand = jax.jit(lambda key: randaugment.rand_augment(key, images, (1, 9), FILL))
    seen = {shown.tobytes() for shown in np.asarray(rand(KEY))}
    for name in randaugment.OPERATIONS:
        # Compiled as one program, an operation may round a half otherwise than alone: by places.
        made = {_operate(name, image[0], 0.9, sign).tobytes() for sign in (1.0, -1.0)}
        if name not in ("saturation", "contrast", "brightness", "sharpness"):
            assert made & seen, name
    assert len(seen) > 18


# ------------------------------------------------------------------------------------ mixing

LABELS = np.int32([0, 1, 2, 3, 4, 5, 6, 7])


def _shares(images, alphas, labels=LABELS):
    """Mixes images of which the i-th is all i * 30; returns images and targets."""
    made = mixing.create_mix(**{"mixup": 0.0, "cutmix": 0.0, **alphas})
    return [np.asarray(x) for x in jax.tree.leaves(made(KEY, images, jnp.asarray(labels)))]


@pytest.mark.parametrize("alphas", [{"mixup": 0.7}, {"cutmix": 1.0}, {"mixup": 1.0, "cutmix": 1.0}])
def test_labels_are_mixed_with_the_weights_of_the_images(alphas):
    """An image of one value each, so that its mean says how much of which image is in it."""
    images = np.broadcast_to((30 * LABELS).astype(np.uint8)[:, None, None, None], (8, 12, 12, 3))
    mixed, heavier, lighter, weight = _shares(images, alphas)
    assert (weight >= 0.5).all() and (weight <= 1).all() and len(set(weight.tolist())) > 4
    expected = 30 * (weight * heavier + (1 - weight) * lighter)
    np.testing.assert_allclose(mixed.astype(np.float64).mean((1, 2, 3)), expected, rtol=1e-4)
    assert {frozenset(pair) for pair in zip(heavier, lighter, strict=True)} == {
        frozenset((i, 7 - i)) for i in range(8)
    }
    assert mixed.dtype == (np.uint8 if alphas == {"cutmix": 1.0} else np.float32)


def test_cutmix_only_exchanges_pixels_within_a_rectangle():
    images = random_images(8, size=12)
    mixed, _, _, weight = _shares(images, {"cutmix": 1.0})
    for own, other, shown, share in zip(images, images[::-1], mixed, weight, strict=True):
        foreign = (shown != own).any(-1)
        assert (shown[foreign] == other[foreign]).all()
        assert np.array_equal(foreign, np.outer(foreign.any(1), foreign.any(0)))
        assert max(foreign.mean(), 1 - foreign.mean()) == pytest.approx(share)


def test_the_weights_of_mixup_are_those_of_a_beta_distribution():
    images = np.zeros((20_000, 1, 1, 1), np.uint8)
    mix_up = jax.jit(mixing.mix_up)
    for alpha in (0.2, 1.0):
        _, weight = mix_up(KEY, images, alpha)
        assert float(weight.mean()) == pytest.approx(0.5, abs=0.01)
        assert float(weight.var()) == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.03)


def test_mixing_depends_on_key_and_rows_and_not_on_how_they_are_cut():
    images = random_images(8, size=6)
    mix = jax.jit(mixing.create_mix(mixup=1.0, cutmix=1.0))
    labels = jnp.asarray(LABELS)
    whole = jax.tree.leaves(mix(KEY, images, labels))
    cut = jax.tree.leaves(mix(KEY, images.reshape(2, 4, 6, 6, 3), labels.reshape(2, 4)))
    other = mix(jax.random.key(6), images, labels)
    for one, again in zip(whole, cut, strict=True):
        np.testing.assert_array_equal(one, np.reshape(again, one.shape))
    assert not np.array_equal(whole[0], other[0])


def test_without_mixing_there_is_nothing_that_mixes():
    assert mixing.create_mix(mixup=0.0, cutmix=0.0) is None
    assert _augmentation().mix is None and _augmentation(mixup=0.2).mix is not None


def test_the_loss_of_mixed_labels_is_that_of_the_mixed_target():
    rng = np.random.default_rng(0)
    logits, weight = rng.normal(size=(8, 10)).astype(np.float32), rng.uniform(0.5, 1, 8)
    targets = mixing.Targets(LABELS, LABELS[::-1], weight.astype(np.float32))
    one_hot = np.eye(10)
    target = weight[:, None] * one_hot[LABELS] + (1 - weight[:, None]) * one_hot[LABELS[::-1]]
    target = 0.9 * target + 0.1 / 10
    log_probabilities = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    expected = -(target * log_probabilities).sum(1)
    np.testing.assert_allclose(recipe.cross_entropy(logits, targets, 0.1), expected, rtol=1e-5)


@functools.cache
def _programs(augmentation, **train):
    """Returns programs that train with (key, value) pairs of the section `augment`."""
    dataset = random_dataset()
    base = small_settings(dataset, **train)
    section = dataclasses.replace(base.augment, **dict(augmentation))
    settings = dataclasses.replace(base, augment=section)
    return Programs(settings, Tiny(), _optimizer(), dataset, sharding.data_mesh())


def _train(groups, augmentation, **train):
    """Trains on the batches of `groups`, and returns the state."""
    programs = _programs(tuple(augmentation.items()), **train)
    state = programs.init()
    for group in groups:
        for call in programs.calls(group):
            state = programs.train(state, call)
    return state


EVERYTHING = {
    "flip": True,
    "flip_mode": "alternating",
    "crop_mode": "reflect",
    "cutout": 3,
    "mixup": 0.4,
    "cutmix": 1.0,
}


@pytest.mark.slow
@pytest.mark.ci
def test_how_a_training_is_fed_and_cut_changes_no_bit():
    layout = {"grad_accum_steps": 2, "steps_per_call": 4}
    whole = _train([ORDER], EVERYTHING, **layout)
    assert int(whole.sums["count"]) == 48 and np.isfinite(whole.sums["loss"])
    streamed = _train([ORDER], EVERYTHING, data_gigabytes=0.0, **layout)
    assert _bytes(whole) == _bytes(streamed)
    assert _bytes(whole) == _bytes(_train([ORDER[:1], ORDER[1:]], EVERYTHING, **layout))


@pytest.mark.slow
@pytest.mark.ci
def test_mixed_micro_batches_give_the_step_of_the_whole_batch():
    """Without norms: pairs are those of the whole batch, whatever it is cut into."""
    mixed = {"mixup": 0.4, "cutmix": 1.0}
    whole, micro = _train([ORDER], mixed), _train([ORDER], mixed, grad_accum_steps=4)
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(micro), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


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
    expected = jax.jit(made.transform)(key, flipped)
    np.testing.assert_array_equal(made.preview(KEY, images, rows), expected)
    mixed = _augmentation(mixup=1.0).preview(KEY, images, rows)
    assert mixed.dtype == np.uint8 and not np.array_equal(mixed, images)


# Everything at once, on a batch that lies on one device and on a batch that is split among four.
ON_DEVICES = """
import jax, numpy as np
from jaxcnn.runtime import sharding
from jaxcnn.data.augmentations import flips, pipeline
made = pipeline.create_augmentation(
    (0.1, 0.5, 0.9), crop_padding=2, flip=True, crop_mode="reflect", flip_mode="alternating",
    cutout=3, random_erasing=0.5, brightness=0.4, contrast=0.4, randaugment=(1, 9), mixup=1.0,
    cutmix=1.0,
)
def batch(key, images, labels, indices):
    images = flips.alternating_flip(key, images, indices, jax.numpy.int32(1))
    return made.mix(key, made.transform(key, images), labels)
rng = np.random.default_rng(0)
rows = (
    rng.integers(0, 256, (16, 8, 8, 3), dtype=np.uint8), np.arange(16, dtype=np.int32),
    rng.permutation(1000)[:16].astype(np.int32),
)
results = []
for count in (1, 4):
    split = sharding.split(sharding.data_mesh(jax.devices()[:count]))
    placed = [jax.device_put(array, split) for array in rows]
    results.append(jax.tree.leaves(jax.jit(batch)(jax.random.key(3), *placed)))
for one, four in zip(*results, strict=True):
    assert len(four.sharding.device_set) == 4 and one.shape == four.shape
    print(int((np.asarray(one) != np.asarray(four)).sum()), end=" ")
"""


@pytest.mark.slow
def test_a_batch_is_augmented_alike_on_any_number_of_devices():
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", ON_DEVICES]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **flags})
    assert done.stdout.split() == ["0", "0", "0", "0"], done.stderr
