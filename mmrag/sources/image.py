"""Bytes of any picture format → an upright RGB picture, with bounded work."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError, _imaging

from mmrag.errors import ItemError, TooLargeError
from mmrag.sources.exif import MOST_BYTES
from mmrag.sources.limits import MAX_PIXELS
from mmrag.sources.tiff import check_tags

if TYPE_CHECKING:
    import numpy.typing as npt

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")

_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")

# Converted at once; larger pictures go band by band, so that only one other whole copy is ever there.
_BAND_PIXELS = 1 << 22

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation → what undoes it."""

# glibc gives memory back at once where a block is larger than 32 MB; Pillow's own 16 MB stay with the thread.
_imaging.set_block_size(1 << 26)

# What is wrong with a picture is said in the list of failures, not on stderr.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.|pillow_heif")
logging.getLogger("PIL").setLevel(logging.CRITICAL)


def read_image(
    data: bytes,
    *,
    at_least: int | None = None,
    max_pixels: int = MAX_PIXELS,
    admit: Callable[[int], None] | None = None,
) -> Image.Image:
    """Decode a picture into upright 8-bit RGB.

    EXIF orientation is applied, transparency is laid on white, CMYK is converted through its own
    colour profile, 16-bit and floating-point greys are scaled to 8 bits, and of an animation or a
    document of several pages the first is taken.

    While it works it holds, besides `data`, at most `WORKING_BYTES` for each pixel, and half of that
    in most formats.

    Parameters
    ----------
    data : bytes
        The file's content. Its format is found from the content, never from a name.
    at_least : int or None
        If the picture will be shrunk: the shortest side that is needed, in pixels. JPEGs are then
        decoded at ½, ¼ or ⅛ of their size, which is several times faster.
    max_pixels : int
        Larger pictures are refused before any pixel is decoded.
    admit : callable or None
        Called with the number of pixels before they are decoded; may wait until there is room for them.

    Raises
    ------
    ItemError
        With the reason, if this is no picture, is damaged or is too large.
    """
    if not data:
        raise ItemError("the file is empty")
    try:
        rgb, orientation = _decode(data, at_least, max_pixels, admit)
        return _upright(rgb, orientation)
    except ItemError:
        raise
    except UnidentifiedImageError as error:
        raise ItemError("not a picture in a format that can be read") from error
    except Image.DecompressionBombError as error:
        raise TooLargeError(f"more pixels than the limit of {max_pixels:,}") from error
    except MemoryError as error:
        raise TooLargeError("too large to decode in memory") from error
    except Exception as error:  # decoders raise almost anything on damaged input
        raise _damaged(error) from error


def as_rgb(image: Image.Image) -> Image.Image:
    """Bring a picture that is already decoded to upright 8-bit RGB, without changing the original."""
    try:
        image.load()
        return _upright(_to_rgb(image), _orientation(image))
    except Exception as error:  # a lazily loaded PIL image may be damaged
        raise _damaged(error) from error


@contextlib.contextmanager
def open_image(data: bytes) -> Iterator[Image.Image]:
    """Open a picture of any format that is read here, without decoding a pixel; it may raise anything."""
    formats: tuple[str, ...] = FORMATS
    if data[4:8] == b"ftyp" and data[8:12] in _HEIF_BRANDS:
        _register_heif()
        formats = ("AVIF", "HEIF")  # some AVIF files bear a brand of HEIF
    if data.startswith((b"II", b"MM")):
        check_tags(data)
        _silence_libtiff()
    with Image.open(io.BytesIO(data), formats=formats) as image:
        yield image


def reduced(image: Image.Image, at_least: int | None) -> Image.Image:
    """Shrink a picture by a whole number, if it may be, to no less than three times what is needed.

    It waits in memory until the network is free. What shrinks it further then finds as much detail in it as before.
    """
    factor = min(image.size) // (3 * at_least) if at_least else 1
    return image.reduce(factor) if factor > 1 else image


def _decode(
    data: bytes, at_least: int | None, max_pixels: int, admit: Callable[[int], None] | None
) -> tuple[Image.Image, int]:
    with open_image(data) as image:
        pixels = 0
        for width, height in (image.size, _tile_size(image)):
            pixels = max(pixels, width * height)
            if pixels > max_pixels:
                raise TooLargeError(f"{width} × {height} pixels are more than the limit of {max_pixels:,}")
        if at_least and image.draft(None, (at_least, at_least)):
            # If it is progressive, all of it is held at a few bytes for each pixel.
            pixels = max(image.width * image.height, pixels // 4)
        if admit:
            admit(pixels)
        image.load()
        return _to_rgb(image), _orientation(image)


def _damaged(error: Exception) -> ItemError:
    words = " ".join(str(error).split())  # one line, whatever the decoder says
    return ItemError(f"damaged: {words or type(error).__name__}")


@functools.cache
def _register_heif() -> None:
    import pillow_heif

    pillow_heif.register_heif_opener()


@functools.cache
def _silence_libtiff() -> None:
    """Keep what is wrong with a TIFF off stderr, where the library says it beside what it returns."""
    with contextlib.suppress(OSError, AttributeError):  # a Pillow with libtiff built into it stays as it is
        ctypes.CDLL(_imaging.__file__).TIFFSetErrorHandler(None)


def _tile_size(image: Image.Image) -> tuple[int, int]:
    """Tiles of a TIFF are decoded whole, however small the picture."""
    tags = getattr(image, "tag_v2", {})
    return int(tags.get(ExifTags.Base.TileWidth, 0)), int(tags.get(ExifTags.Base.TileLength, 0))


def _orientation(image: Image.Image) -> int:
    if len(image.info.get("exif") or b"") > MOST_BYTES:
        return 1
    with contextlib.suppress(Exception):  # corrupt EXIF costs the orientation, not the picture
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    return 1


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    method = _UPRIGHT.get(orientation)
    return image if method is None else image.transpose(method)


def _to_rgb(image: Image.Image) -> Image.Image:
    """Make a new picture, which holds on to nothing of the decoder's."""
    if image.mode == "RGB" and not image.has_transparency_data:
        return image.copy()
    convert = _conversion(image)
    if image.width * image.height <= _BAND_PIXELS:
        return convert(image)
    rgb = Image.new("RGB", image.size)
    for box in _bands(image):
        rgb.paste(convert(image.crop(box)), box)
    return rgb


def _bands(image: Image.Image) -> Iterator[tuple[int, int, int, int]]:
    rows = max(1, _BAND_PIXELS // image.width)
    for top in range(0, image.height, rows):
        yield 0, top, image.width, min(top + rows, image.height)


def _conversion(image: Image.Image) -> Callable[[Image.Image], Image.Image]:
    """Choose what turns the picture, or any part of it, into RGB."""
    if image.mode == "CMYK":
        return _from_cmyk(image.info.get("icc_profile"))
    if image.mode.startswith(("I", "F")):
        low, high = _grey_range(image)
        return functools.partial(_from_deep_grey, low=low, high=high)
    if image.has_transparency_data:
        return _on_white
    return lambda part: part.convert("RGB")


def _on_white(image: Image.Image) -> Image.Image:
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def _from_cmyk(profile: bytes | None) -> Callable[[Image.Image], Image.Image]:
    if profile:
        from PIL import ImageCms

        with contextlib.suppress(ImageCms.PyCMSError, OSError):
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), "CMYK", "RGB")
            return lambda part: ImageCms.applyTransform(part, transform) or part.convert("RGB")
    return lambda part: part.convert("RGB")


def _grey_range(image: Image.Image) -> tuple[float, float]:
    if image.mode.startswith("I;16"):
        return 0.0, 65535.0
    extremes = [(float(grey.min()), float(grey.max())) for grey in map(_grey, map(image.crop, _bands(image)))]
    low, high = min(low for low, _ in extremes), max(high for _, high in extremes)
    if image.mode == "I" and low >= 0 and high <= 65535:
        return 0.0, 65535.0 if high > 255 else 255.0
    return low, high


def _from_deep_grey(image: Image.Image, *, low: float, high: float) -> Image.Image:
    scaled = (_grey(image).astype(np.float64) - low) * (255 / max(high - low, 1e-12))
    return Image.fromarray(scaled.round().astype(np.uint8)).convert("RGB")


def _grey(image: Image.Image) -> npt.NDArray[np.float32]:
    return np.nan_to_num(np.asarray(image, dtype=np.float32), posinf=0.0, neginf=0.0)
