"""The corruptions: each against a simpler definition, and what all have in common."""

import colorsys
import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage, stats

from jaxcnn import plots
from jaxcnn.data import jpeg, resample
from jaxcnn.errors import UserError
from jaxcnn.evaluate.corruptions import blur, digital, noise, resampled, table, weather
from jaxcnn.runtime.compilation import compiler_options

SHAPE = (32, 32, 3)
KEY = jax.random.key(5)


@pytest.fixture(scope="module")
def images():
    """Twelve images of rectangles on slopes, uint8."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:32, :32] / 31
    found = []
    for _ in range(12):
        slopes = rng.uniform(20, 120, (3, 3))
        image = slopes[0] + y[..., None] * slopes[1] + x[..., None] * slopes[2] * 0.5
        for _ in range(4):
            top, left = rng.integers(0, 24, 2)
            image[top : top + 8, left : left + 8] = rng.uniform(0, 255, 3)
        found.append(image)
    return np.clip(found, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("name", table.NAMES)
def test_what_a_corruption_gives_depends_on_image_number_and_severity_alone(name, images):
    corrupt = table.corruptor(name, SHAPE, len(images))
    found = [corrupt(images, severity, 0) for severity in table.SEVERITIES]
    assert all(batch.shape == images.shape and batch.dtype == np.uint8 for batch in found)
    distances = [np.abs(batch.astype(float) - images).mean() for batch in found]
    # The published strengths of three trade one kind of change for another, so that distances
    # do not rise; those of motion blur differ in taps that weigh nothing once.
    if name not in ("glass_blur", "elastic_transform", "frost"):
        assert (np.diff(distances) >= 0).all() and distances[-1] > 1.3 * distances[0], distances
    assert 0 < distances[0] and distances[-1] > 1.2, distances
    np.testing.assert_array_equal(corrupt(images, 3, 0), found[2])
    # Images 5.. as the first of a batch: the same, as they keep their numbers.
    np.testing.assert_array_equal(corrupt(np.roll(images, -5, 0), 3, 5)[:7], found[2][5:])
    is_random = name not in ("defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate")
    same = np.array_equal(corrupt(images, 3, 100), found[2])
    assert same != (is_random and name != table.JPEG)


@pytest.mark.parametrize("name", ["shot_noise", "snow", "elastic_transform"])
def test_the_size_of_the_batch_changes_nothing(name, images):
    one, many = (table.corruptor(name, SHAPE, size) for size in (1, len(images)))
    alone = [one(images[i : i + 1], 4, i)[0] for i in range(4)]
    np.testing.assert_array_equal(alone, many(images, 4, 0)[:4])


@pytest.mark.parametrize("name", table.COMPUTED)
@pytest.mark.parametrize("shape", [(16, 24, 1), (48, 20, 3)])
def test_images_of_other_shapes_are_taken(name, shape):
    table.check_shape(shape)
    found = table.COMPUTED[name].parameters(shape)
    shapes = [[np.shape(array) for array in parameters] for parameters in found]
    assert len(found) == 5 and all(each == shapes[0] for each in shapes)
    images = jax.ShapeDtypeStruct((2, *shape), jnp.uint8)
    result = jax.eval_shape(lambda x: table.of_batch(name, found[0], KEY, x, 0), images)
    assert (result.shape, result.dtype) == ((2, *shape), jnp.uint8)


@pytest.mark.parametrize("shape", [(15, 32, 3), (32, 8, 1), (32, 32, 4)])
def test_images_that_cannot_be_corrupted_are_refused(shape):
    with pytest.raises(UserError, match="need 16x16 pixels at least, and 1 or 3 channels"):
        table.check_shape(shape)


def test_noise_has_the_moments_of_its_definition():
    image = jnp.full((64, 64, 3), 0.4)
    found = noise.gaussian_noise(KEY, image, 0.08)
    assert found.mean() == pytest.approx(0.4, abs=0.005)
    assert found.std() == pytest.approx(0.08, rel=0.03)
    found = noise.shot_noise(KEY, image, 100.0, noise.photon_counts(100))
    assert found.mean() == pytest.approx(0.4, abs=0.005)
    assert found.var() == pytest.approx(0.4 / 100, rel=0.05)
    found = np.asarray(noise.impulse_noise(KEY, image, 0.1))
    assert (found == 0).mean() == pytest.approx(0.05, abs=0.01)
    assert (found == 1).mean() == pytest.approx(0.05, abs=0.01)
    assert set(np.unique(found)) == {0, np.float32(0.4), 1}


def test_photons_are_distributed_as_poisson_has_it():
    table = noise.photon_counts(50)
    assert table.shape == (256, 1024) and (table[0] == 1).all()
    for value in (1, 100, 255):
        expected = stats.poisson.cdf(np.arange(1024), value / 255 * 50)
        np.testing.assert_allclose(table[value], expected, atol=1e-6)


@pytest.mark.parametrize(("edge", "truncate"), [("nearest", 4), ("reflect", 3)])
def test_smoothing_is_a_weighted_mean_of_the_neighbors(edge, truncate):
    row = np.random.default_rng(0).random(20)
    for sigma in (0.05, 0.4, 3.3):
        radius = int(truncate * sigma + 0.5)
        weights = np.exp(-0.5 * np.square(np.arange(-radius, radius + 1) / sigma))
        padded = np.pad(row, radius, {"nearest": "edge", "reflect": "symmetric"}[edge])
        expected = np.convolve(padded, weights / weights.sum(), "valid")
        matrix = resample.gaussian(20, sigma, truncate, edge)
        assert matrix.dtype == np.float32
        np.testing.assert_allclose(matrix @ row, expected, atol=1e-6)
    np.testing.assert_array_equal(resample.gaussian(20, 0, truncate, edge), np.eye(20))


@pytest.mark.parametrize("size", [16, 32, 33])
def test_zooming_enlarges_the_middle_and_is_cut_to_size(size):
    row = np.random.default_rng(0).random(size)
    for factor in (1, 1.01, 1.13, 1.75, 2.25):
        middle = int(np.ceil(size / factor))
        begin = (size - middle) // 2
        places = np.linspace(0, middle - 1, round(middle * factor))
        enlarged = np.interp(places, np.arange(middle), row[begin : begin + middle])
        cut = (len(enlarged) - size) // 2
        expected = enlarged[cut : cut + size]
        np.testing.assert_allclose(resample.zoom(size, factor) @ row, expected, atol=1e-6)


@pytest.mark.parametrize("edge", ["reflect", "mirror"])
def test_sampling_between_pixels_is_that_of_scipy(edge):
    rng = np.random.default_rng(0)
    image = rng.random((9, 7, 2)).astype(np.float32)
    y, x = rng.uniform(-5, 14, (2, 4, 50)).astype(np.float32)
    expected = [ndimage.map_coordinates(image[..., c], [y, x], order=1, mode=edge) for c in (0, 1)]
    found = resampled.sample(jnp.asarray(image), jnp.asarray(y), jnp.asarray(x), edge)
    np.testing.assert_allclose(np.moveaxis(found, -1, 0), expected, atol=1e-5)


@pytest.mark.parametrize("size", [16, 32])
def test_pixelation_is_that_of_pillow(size):
    image = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
    found = table.COMPUTED["pixelate"].parameters(image.shape)
    for factor, parameters in zip((0.95, 0.9, 0.85, 0.75, 0.65), found, strict=True):
        small = Image.fromarray(image).resize((int(size * factor),) * 2, Image.Resampling.BOX)
        expected = np.asarray(small.resize((size, size), Image.Resampling.BOX))
        pixels = digital.pixelate(KEY, jnp.asarray(image, jnp.float32) / 255, *parameters)
        np.testing.assert_array_equal(np.round(pixels * 255), expected)


def test_glass_moves_pixels_as_the_published_loop_does():
    """Exchanging two rows of an array by assignment copies one over the other: they are views."""
    image = np.random.default_rng(0).random((8, 9, 3)).astype(np.float32)
    moves = np.asarray(jax.random.bernoulli(KEY, shape=(2, 2, 8, 9))).astype(int)
    expected = image.copy()
    for up, left in moves:
        for h in range(7, 1, -1):
            for w in range(8, 1, -1):
                other = h - up[h, w], w - left[h, w]
                expected[h, w], expected[other] = expected[other], expected[h, w]
    found = blur.glass_blur(KEY, jnp.asarray(image), jnp.eye(8), jnp.eye(9), jnp.float32(1))
    np.testing.assert_array_equal(found, expected)


def test_a_disk_is_a_mean_over_its_pixels_when_it_is_not_smoothed():
    kernel = blur.defocus_kernel(1, 1e-3)
    expected = np.zeros((5, 5))
    expected[1:4, 2] = expected[2, 1:4] = 0.2
    np.testing.assert_allclose(kernel, expected, atol=1e-7)
    assert blur.defocus_kernel(1.5, 0.4).sum() == pytest.approx(1, abs=1e-6)
    image = np.random.default_rng(0).random((10, 12, 3)).astype(np.float32)
    kernel = blur.defocus_kernel(1.5, 0.4)
    expected = ndimage.correlate(image, kernel[..., None], mode="mirror")
    found = blur.defocus_blur(KEY, jnp.asarray(image), jnp.asarray(kernel))
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("angle", "down", "right"), [(0, 0, 1), (np.pi / 4, 1, 1), (-np.pi / 2, -1, 0)]
)
def test_motion_adds_the_image_moved_along_its_direction(angle, down, right):
    image = np.random.default_rng(0).random((8, 8, 1)).astype(np.float32)
    found = blur.smear(jnp.asarray(image), jnp.float32(angle), jnp.array([0.75, 0.25]))
    moved = np.pad(image, ((1, 1), (1, 1), (0, 0)), "edge")
    moved = moved[1 + down : 9 + down, 1 + right : 9 + right]
    np.testing.assert_allclose(found, 0.75 * image + 0.25 * moved, atol=1e-6)


def test_a_fractal_is_that_of_the_diamond_square_algorithm():
    size, decay = 8, 1.5
    grid, wide = np.zeros((size, size)), size
    drawn = np.asarray(jax.random.uniform(KEY, (63,), minval=-1, maxval=1))
    for level in range(3):
        draws = drawn[4**level - 1 : 4 ** (level + 1) - 1].reshape(3, 2**level, 2**level)
        draws, half = draws / decay ** (2 * level), wide // 2

        def around(row, column, steps, half=half):
            return np.mean([grid[(row + half * a) % size, (column + half * b) % size]
                            for a, b in steps])  # fmt: skip

        places = [(i, j) for i in range(2**level) for j in range(2**level)]
        diagonal, straight = (
            [(-1, -1), (-1, 1), (1, -1), (1, 1)],
            [(-1, 0), (1, 0), (0, -1), (0, 1)],
        )
        for i, j in places:
            row, column = i * wide + half, j * wide + half
            grid[row, column] = around(row, column, diagonal) + draws[0, i, j]
        for i, j in places:
            row, column = i * wide, j * wide + half
            grid[row, column] = around(row, column, straight) + draws[1, i, j]
            row, column = i * wide + half, j * wide
            grid[row, column] = around(row, column, straight) + draws[2, i, j]
        wide = half
    expected = (grid - grid.min()) / (grid.max() - grid.min())
    np.testing.assert_allclose(weather.fractal(KEY, (8, 6), decay), expected[:, :6], atol=1e-5)


def test_brightness_raises_the_value_of_a_color():
    image = np.random.default_rng(0).random((3, 4, 3)).astype(np.float32)
    image[0, 0] = 0
    found = np.asarray(weather.brightness(KEY, jnp.asarray(image), jnp.float32(0.2)))
    for before, after in zip(image.reshape(-1, 3), found.reshape(-1, 3), strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*before)
        expected = colorsys.hsv_to_rgb(hue, saturation, min(1, value + 0.2))
        np.testing.assert_allclose(after, expected, atol=1e-5)


def test_contrast_keeps_the_mean_and_scales_the_rest():
    image = jnp.asarray(np.random.default_rng(0).random((6, 5, 3)), jnp.float32)
    found = digital.contrast(KEY, image, jnp.float32(0.3))
    np.testing.assert_allclose(found.mean((0, 1)), image.mean((0, 1)), rtol=1e-5)
    np.testing.assert_allclose(found.std((0, 1)), 0.3 * image.std((0, 1)), rtol=1e-5)


def test_an_elastic_transform_without_strength_changes_nothing():
    image = jnp.asarray(np.random.default_rng(0).random((16, 20, 3)), jnp.float32)
    apply = jax.jit(digital.elastic_transform, compiler_options=compiler_options())
    found = apply(KEY, image, jnp.eye(16), jnp.eye(20), jnp.zeros(2))
    np.testing.assert_allclose(found, image, atol=1e-4)


def test_a_jpeg_is_read_back_as_pillow_reads_it(images):
    buffer = io.BytesIO()
    Image.fromarray(images[1]).save(buffer, "JPEG", quality=50)
    np.testing.assert_array_equal(
        jpeg.recompressed(images[:2], 50)[1], np.asarray(Image.open(buffer))
    )
    assert jpeg.recompressed(images[:2, ..., :1], 50).shape == (2, 32, 32, 1)


def test_the_picture_of_corruptions_has_each_error_and_each_image(images):
    shown = np.stack([images[:6], images[6:]])
    drawn = plots.corruptions(np.full((2, 5), 0.25), 0.125, shown, ["a_b", "c"], "a network")
    left, right = drawn.axes
    assert [text.get_text() for text in left.texts] == ["25.0"] * 10
    mosaic = right.images[0].get_array()
    assert mosaic.shape == (2 * 36, 6 * 36, 3)
    np.testing.assert_array_equal(mosaic[38:70, 2:34], images[6])
