"""Corruptions of digital images: contrast, elastic transform, pixelation; JPEG is Pillow's."""

import jax
import jax.numpy as jnp

from jaxcnn.evaluate.corruptions import resampled


def contrast(key: jax.Array, image: jax.Array, factor: jax.Array) -> jax.Array:
    """Brings every value nearer to the mean of its channel."""
    del key
    mean = image.mean((0, 1), keepdims=True)
    return (image - mean) * factor + mean


def elastic_transform(
    key: jax.Array,
    image: jax.Array,
    rows: jax.Array,
    columns: jax.Array,
    numbers: jax.Array,
) -> jax.Array:
    """Moves three points and the plane with them, then each pixel by a smooth random field.

    Args:
        key: A PRNG key.
        image: float32 `[H, W, C]`.
        rows: Matrix that smooths the field, `[H, H]`.
        columns: Likewise, `[W, W]`.
        numbers: Pixels by which the field moves at most, and by which each point moves at most.
    """
    field, reach = numbers
    points_key, field_key = jax.random.split(key)
    height, width, _ = image.shape
    side = min(height, width) // 3
    corners = jnp.array([[side, side], [side, -side], [-side, -side]], jnp.float32)
    corners = corners + jnp.array([[width // 2, height // 2]], jnp.float32)
    moved = corners + reach * jax.random.uniform(points_key, (3, 2), minval=-1.0, maxval=1.0)

    y, x = jnp.mgrid[:height, :width].astype(jnp.float32)
    # Where between the moved points a pixel lies, there between the corners it comes from.
    first, second = moved[1] - moved[0], moved[2] - moved[0]
    area = first[0] * second[1] - first[1] * second[0]
    right, down = x - moved[0, 0], y - moved[0, 1]
    a = (right * second[1] - down * second[0]) / area
    b = (down * first[0] - right * first[1]) / area
    first, second = corners[1] - corners[0], corners[2] - corners[0]
    from_x = corners[0, 0] + a * first[0] + b * second[0]
    from_y = corners[0, 1] + a * first[1] + b * second[1]
    image = resampled.sample(image, from_y, from_x, edge="mirror")

    noise = jax.random.uniform(field_key, (height, width, 2), minval=-1.0, maxval=1.0)
    moves = field * resampled.along_both(rows, columns, noise)
    return resampled.sample(image, y + moves[..., 0], x + moves[..., 1], edge="reflect")


def pixelate(
    key: jax.Array,
    image: jax.Array,
    rows: jax.Array,
    columns: jax.Array,
    rows_back: jax.Array,
    columns_back: jax.Array,
) -> jax.Array:
    """Makes the image smaller and as large as before, rounded each time as Pillow does.

    Args:
        key: Not used.
        image: float32 `[H, W, C]`.
        rows: Matrix that makes it smaller, `[H, H]`, zero beyond the smaller height.
        columns: Likewise, `[W, W]`.
        rows_back: Matrix that enlarges it again, `[H, H]`.
        columns_back: Likewise, `[W, W]`.
    """
    del key
    image = jnp.round(image * 255)
    for by_row, by_column in ((rows, columns), (rows_back, columns_back)):
        for form, matrix in (("bw,hwc->hbc", by_column), ("ah,hwc->awc", by_row)):
            image = jnp.floor(jnp.einsum(form, matrix, image, precision="highest") + 0.5)
    return image / 255
