"""Bytes of any picture format → an upright RGB picture, with bounded work."""

from __future__ import annotations

import contextlib
import functools
import io
import os
import stat
import warnings

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from mmrag.errors import ItemError, TooLargeError
from mmrag.sources.limits import MAX_BYTES, MAX_PIXELS

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")

_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")

# Size is checked here, with a reason in the list of failures, instead of on stderr.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


def read_image(data: bytes, *, at_least: int | None = None, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode a picture into upright 8-bit RGB.

    EXIF orientation is applied, transparency is laid on white, CMYK is converted through its own
    colour profile, 16-bit and floating-point greys are scaled to 8 bits, and of an animation or a
    document of several pages the first is taken.

    Parameters
    ----------
    data : bytes
        The file's content. Its format is found from the content, never from a name.
    at_least : int or None
        If the picture will be shrunk: the shortest side that is needed, in pixels. JPEGs are then
        decoded at ½, ¼ or ⅛ of their size, which is several times faster.
    max_pixels : int
        Larger pictures are refused before any pixel is decoded.

    Raises
    ------
    ItemError
        With the reason, if this is no picture, is damaged or is too large.
    """
    if not data:
        raise ItemError("the file is empty")
    formats: tuple[str, ...] = FORMATS
    if data[4:8] == b"ftyp" and data[8:12] in _HEIF_BRANDS:
        _register_heif()
        formats = ("AVIF", "HEIF")  # some AVIF files bear a brand of HEIF
    try:
        with Image.open(io.BytesIO(data), formats=formats) as image:
            if image.width * image.height > max_pixels:
                raise TooLargeError(f"{image.width} × {image.height} pixels are more than the limit of {max_pixels:,}")
            if at_least:
                image.draft(None, (at_least, at_least))
            image.load()
            return _to_rgb(_upright(image))
    except ItemError:
        raise
    except UnidentifiedImageError as error:
        raise ItemError("not a picture in a format that can be read") from error
    except Image.DecompressionBombError as error:
        raise TooLargeError(f"more pixels than the limit of {max_pixels:,}") from error
    except MemoryError as error:
        raise ItemError("too large to decode in memory") from error
    except Exception as error:  # decoders raise almost anything on damaged input
        raise ItemError(f"damaged: {error or type(error).__name__}") from error


def read_file(path: str) -> bytes:
    """Read a regular file whole, unless it is beyond `MAX_BYTES`.

    Raises
    ------
    ItemError
        With the reason.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise ItemError("not a regular file")
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        raise ItemError(f"cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if len(data) > MAX_BYTES:
        raise TooLargeError(f"larger than the limit of {MAX_BYTES:,} bytes")
    return data


def as_rgb(image: Image.Image) -> Image.Image:
    """Bring a picture that is already decoded to upright 8-bit RGB, without changing the original."""
    try:
        return _to_rgb(_upright(image))
    except Exception as error:  # a lazily loaded PIL image may be damaged
        raise ItemError(f"damaged: {error or type(error).__name__}") from error


@functools.cache
def _register_heif() -> None:
    import pillow_heif

    pillow_heif.register_heif_opener()


def _upright(image: Image.Image) -> Image.Image:
    with contextlib.suppress(Exception):  # corrupt EXIF costs the orientation, not the picture
        return ImageOps.exif_transpose(image)
    return image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "CMYK":
        return _from_cmyk(image)
    if image.mode.startswith(("I", "F")):
        return _from_deep_grey(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    if image.mode == "RGB":
        return image.copy() if image.readonly else image
    return image.convert("RGB")


def _from_cmyk(image: Image.Image) -> Image.Image:
    profile = image.info.get("icc_profile")
    if profile:
        from PIL import ImageCms

        with contextlib.suppress(ImageCms.PyCMSError, OSError):
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            target = ImageCms.createProfile("sRGB")
            converted = ImageCms.profileToProfile(image, source, target, outputMode="RGB")
            if converted is not None:
                return converted
    return image.convert("RGB")


def _from_deep_grey(image: Image.Image) -> Image.Image:
    grey = np.nan_to_num(np.asarray(image, dtype=np.float32), posinf=0.0, neginf=0.0)
    low, high = float(grey.min()), float(grey.max())
    if image.mode.startswith("I;16"):
        low, high = 0.0, 65535.0
    elif image.mode == "I" and low >= 0 and high <= 65535:
        low, high = 0.0, 65535.0 if high > 255 else 255.0
    scaled = (grey - low) * (255 / max(high - low, 1e-12))
    return Image.fromarray(scaled.round().astype(np.uint8)).convert("RGB")
