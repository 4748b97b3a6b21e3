"""Image files of all kinds and conditions: what is read, and what is refused in which words."""

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxcnn.data import image_files, image_paths
from jaxcnn.errors import UserError

SHAPE = (32, 32, 3)


def _blocks(height=64, width=64):
    """Returns uint8 [height, width, 3]: left half red, right half blue."""
    image = np.zeros((height, width, 3), np.uint8)
    image[:, : width // 2, 0] = 200
    image[:, width // 2 :, 2] = 100
    return image


def _save(path, image, **options):
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(path, **options)
    return path


def _read(path, shape=SHAPE):
    return image_files.read(path, shape)


def test_pixels_are_kept_where_the_size_fits(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, SHAPE, dtype=np.uint8)
    np.testing.assert_array_equal(_read(_save(tmp_path / "a.png", image)), image)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.gif", "a.bmp", "a.webp", "a.tiff", "a.ppm"])
def test_every_common_format_is_read(name, tmp_path):
    image = _read(_save(tmp_path / name, _blocks()))
    assert image.shape == SHAPE and image.dtype == np.uint8
    np.testing.assert_allclose(image[16, 4], [200, 0, 0], atol=12)
    np.testing.assert_allclose(image[16, 28], [0, 0, 100], atol=12)


def test_the_middle_of_another_shape_is_taken_and_scaled_by_area(tmp_path):
    wide = np.zeros((64, 256, 3), np.uint8)
    wide[:, 96:160] = _blocks()
    np.testing.assert_array_equal(_read(_save(tmp_path / "a.png", wide)), _blocks(32, 32))
    checks = np.zeros((64, 64, 3), np.uint8)
    checks[::2, ::2] = 200
    assert (_read(_save(tmp_path / "b.png", checks)) == 50).all()


def test_a_photograph_is_scaled_alike_from_a_jpeg_that_decodes_to_a_smaller_size(tmp_path):
    image = _read(_save(tmp_path / "a.jpg", _blocks(1024, 1024), quality=95))
    np.testing.assert_allclose(image.astype(int), _blocks(32, 32), atol=6)


def test_one_channel_is_given_where_the_run_has_one(tmp_path):
    path = _save(tmp_path / "a.png", _blocks())
    assert _read(path, (20, 20, 1)).shape == (20, 20, 1)
    with pytest.raises(UserError, match="4 channels"):
        _read(path, (20, 20, 4))


def test_transparency_lies_on_white(tmp_path):
    image = np.zeros((32, 32, 4), np.uint8)
    image[..., :3] = 10
    image[:16, :, 3] = 255
    read = _read(_save(tmp_path / "a.png", image))
    assert (read[:16] == 10).all() and (read[16:] == 255).all()
    palette = Image.fromarray(image[..., :3]).quantize(4)
    read = _read(_save(tmp_path / "b.png", palette, transparency=palette.getpixel((0, 0))))
    assert (read == 255).all()


def test_sixteen_bits_are_scaled_to_eight(tmp_path):
    ramp = np.linspace(0, 65535, 32 * 32).reshape(32, 32).astype(np.uint16)
    read = _read(_save(tmp_path / "a.png", ramp))
    np.testing.assert_array_equal(read[..., 0], np.round(ramp / 257).astype(np.uint8))


def test_cmyk_jpeg(tmp_path):
    path = _save(tmp_path / "a.jpg", Image.fromarray(_blocks()).convert("CMYK"), quality=95)
    np.testing.assert_allclose(_read(path)[16, 4], [200, 0, 0], atol=10)


def test_exif_rotation_is_undone(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    turned = np.rot90(_blocks(32, 32), 1)  # anticlockwise
    path = _save(tmp_path / "a.png", np.ascontiguousarray(turned), exif=exif)
    np.testing.assert_array_equal(_read(path), _blocks(32, 32))


def test_the_first_picture_of_an_animation_is_taken(tmp_path):
    frames = [Image.fromarray(np.full(SHAPE, value, np.uint8)) for value in (40, 200)]
    path = _save(tmp_path / "a.gif", frames[0], save_all=True, append_images=frames[1:])
    assert (_read(path) == 40).all()


def _png_header(width, height):
    """Returns a PNG that claims a size; its pixels would be gigabytes."""

    def chunk(kind, body):
        crc = zlib.crc32(kind + body)
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", crc)

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(3 * width + 1) * 10)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels)


def _noise(kind):
    """Returns the bytes of an image file of noise."""
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "the file is empty"),
        (b"these are words\n" * 50, "not an image in a format that is read here"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image in a format"),
        (_noise("JPEG")[:900], "the image is damaged"),
        (_png_header(20_000, 20_000), "more than 50,000,000 pixels"),
        (_png_header(9_000, 9_000), "9,000 x 9,000 pixels, more than 50,000,000"),
        (_noise("PNG")[:900], "the image is damaged"),
    ],
    ids=["empty", "text", "postscript", "truncated", "bomb", "large", "truncated PNG"],
)
def test_a_bad_file_is_refused_in_one_line_that_names_it(content, expected, tmp_path):
    path = tmp_path / "bad.png"
    path.write_bytes(content)
    with pytest.raises(image_files.Refused) as refused:
        _read(path)
    assert str(refused.value).startswith(f"{path}: ") and expected in str(refused.value)
    assert "\n" not in str(refused.value)


def test_files_that_are_too_large_or_no_files_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(image_files, "MAX_BYTES", 2**20)
    (tmp_path / "big.png").write_bytes(bytes(2**20 + 1))
    with pytest.raises(image_files.Refused, match="larger than 1 MiB"):
        _read(tmp_path / "big.png")
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(image_files.Refused, match="not a plain file"):
        _read(tmp_path / "pipe.png")
    (tmp_path / "link.png").symlink_to("nowhere")
    with pytest.raises(image_files.Refused, match="no such file"):
        _read(tmp_path / "link.png")


def test_names_mean_files_folders_and_patterns(tmp_path):
    for name in ("a.png", "b.JPG", "notes.txt", "deep/c.webp"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
    refused = []

    def names(*given):
        refused.clear()
        return [str(p.relative_to(tmp_path)) for p in image_paths.find(given, refused.append)]

    assert names(f"{tmp_path}") == ["a.png", "b.JPG", "deep/c.webp"]
    assert names(f"{tmp_path}/notes.txt") == ["notes.txt"]
    assert names(f"{tmp_path}/*.png", f"{tmp_path}/a.png") == ["a.png"]
    assert names(f"{tmp_path}/**/*.webp") == ["deep/c.webp"]
    assert not refused
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare2").mkdir()
    bad = [f"{tmp_path}/{name}" for name in ("*.bmp", "bare", "bare*", "x" * 300)]
    assert names(bad[0], f"{tmp_path}/a.png", *bad[1:], f"{tmp_path}/dee[p]", "") == [
        "a.png",
        "deep/c.webp",
    ]
    expected = [
        "no such file",
        "holds no image",
        "matches 2 folders without an image",
        "File name too long",
        "no such file",
    ]
    for name, words, line in zip([*bad, ""], expected, refused, strict=True):
        assert line.startswith(name) and words in line


def test_what_programs_keep_for_themselves_is_not_searched(tmp_path):
    private = (".hidden/a.png", "__MACOSX/b.png", ".ipynb_checkpoints/c.png", "in/._d.png")
    for name in (*private, "in/d.png", "in/@eaDir/e.png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    found = lambda name: image_paths.find([f"{tmp_path}/{name}"], pytest.fail)  # noqa: E731
    for name in ("", "*", "**", "i*", "**/*.png"):
        assert found(name) == [tmp_path / "in/d.png"], name
    for name in private:  # meant where they are named
        assert found(name) == [tmp_path / name]
        if not name.startswith("in"):
            assert found(Path(name).parent) == [tmp_path / name]
    assert found("__MACOSX/*") == [tmp_path / "__MACOSX/b.png"]
