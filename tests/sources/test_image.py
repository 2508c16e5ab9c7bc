from __future__ import annotations

import io
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from mmrag.errors import ItemError, TooLargeError
from mmrag.sources.image import as_rgb, read_image

RED = (220, 30, 40)


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def half_red(size=(64, 48)) -> Image.Image:
    """Red on the left, white on the right."""
    image = Image.new("RGB", size, "white")
    image.paste(RED, (0, 0, size[0] // 2, size[1]))
    return image


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
def test_every_format_of_pillow(kind):
    image = read_image(encoded(half_red(), kind))
    assert (image.mode, image.size) == ("RGB", (64, 48))
    assert np.allclose(image.getpixel((10, 20)), RED, atol=12)
    assert np.allclose(image.getpixel((54, 20)), 255, atol=12)


def test_heic():
    import pillow_heif

    pillow_heif.register_heif_opener()
    image = read_image(encoded(half_red(), "HEIF", quality=95))
    assert image.size == (64, 48)
    assert np.allclose(image.getpixel((10, 20)), RED, atol=12)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation):
    upright = half_red()
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # the PIL transposition that the camera's data undoes
    stored = upright.transpose(Image.Transpose(undo[orientation])) if orientation in undo else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = read_image(encoded(stored, "JPEG", exif=exif, quality=95))
    assert image.size == upright.size
    assert np.abs(np.asarray(image, float) - np.asarray(upright, float)).mean() < 4


def test_transparency_is_laid_on_white():
    clear = Image.new("RGBA", (8, 8), (*RED, 0))
    assert read_image(encoded(clear, "PNG")).getpixel((0, 0)) == (255, 255, 255)
    half = Image.new("RGBA", (8, 8), (0, 0, 0, 128))
    assert np.allclose(read_image(encoded(half, "PNG")).getpixel((0, 0)), 127, atol=1)
    grey = Image.new("LA", (8, 8), (0, 0))
    assert read_image(encoded(grey, "PNG")).getpixel((0, 0)) == (255, 255, 255)


def test_palettes_with_a_transparent_colour():
    palette = Image.new("P", (8, 8), 1)
    palette.putpalette([0, 0, 0, *RED])
    assert read_image(encoded(palette, "PNG")).getpixel((0, 0)) == RED
    assert read_image(encoded(palette, "PNG", transparency=1)).getpixel((0, 0)) == (255, 255, 255)


def test_a_transparent_colour_without_a_palette():
    assert read_image(encoded(Image.new("RGB", (8, 8), RED), "PNG", transparency=RED)).getpixel((0, 0)) == (255,) * 3


def test_avif_with_a_brand_of_heif():
    data = encoded(half_red(), "AVIF")
    assert data[8:12] == b"avif"
    assert read_image(data[:8] + b"mif1" + data[12:]).size == (64, 48)


def test_dark_sixteen_bit_grey_stays_dark():
    dark = np.full((8, 8), 200, dtype=np.uint16)
    assert read_image(encoded(Image.fromarray(dark), "PNG")).getpixel((0, 0)) == (1, 1, 1)


def test_sixteen_bit_grey_keeps_its_range():
    ramp = np.linspace(0, 65535, 64, dtype=np.uint16).reshape(8, 8)
    image = read_image(encoded(Image.fromarray(ramp), "PNG"))
    found = np.asarray(image)[:, :, 0].astype(float)
    assert np.abs(found - ramp / 257).max() <= 1


def test_floating_point_grey_is_stretched():
    ramp = np.linspace(-3, 5, 64, dtype=np.float32).reshape(8, 8)
    found = np.asarray(read_image(encoded(Image.fromarray(ramp), "TIFF")))
    assert found.min() == 0
    assert found.max() == 255


def test_cmyk_with_and_without_a_profile():
    cyan = Image.new("CMYK", (16, 16), (255, 0, 0, 0))
    assert np.allclose(read_image(encoded(cyan, "JPEG", quality=100)).getpixel((8, 8)), (0, 255, 255), atol=8)
    wrong_profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    image = read_image(encoded(cyan, "JPEG", quality=100, icc_profile=wrong_profile))
    assert np.allclose(image.getpixel((8, 8)), (0, 255, 255), atol=8)


def test_the_first_frame_of_an_animation():
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    for kind in ("GIF", "WEBP", "TIFF"):
        data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
        assert np.allclose(read_image(data).getpixel((0, 0)), (255, 0, 0), atol=4)


def test_jpegs_are_decoded_small_but_not_too_small():
    image = read_image(encoded(half_red((1600, 1200)), "JPEG"), at_least=260)
    assert image.size == (400, 300)


def test_corrupt_exif_costs_the_orientation_only():
    data = encoded(half_red(), "JPEG", exif=b"Exif\0\0" + bytes(range(64)))
    assert read_image(data).size == (64, 48)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"hello", "not a picture"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a picture"),
        (encoded(half_red(), "JPEG")[:300], "damaged|not a picture"),
        (encoded(half_red((640, 480)), "PNG")[:200], "damaged"),
    ],
)
def test_what_cannot_be_read_says_why(data, reason):
    with pytest.raises(ItemError, match=reason):
        read_image(data)


def png_bomb(width: int, height: int) -> bytes:
    """A valid header for a huge picture, with a few bytes of content."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big")

    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x08\x02\0\0\0"
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 999)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("size", [(50_000, 50_000), (20_000, 9_000)])
def test_bombs_are_refused_before_decoding(size):
    with pytest.raises(TooLargeError, match="than the limit of"):
        read_image(png_bomb(*size))


def test_as_rgb_leaves_the_original_alone():
    original = Image.new("LA", (4, 4), (0, 0))
    assert as_rgb(original).mode == "RGB"
    assert original.mode == "LA"
