"""EXIF → words and facts of a picture."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from PIL import ExifTags, Image

from mmrag.sources.found import Found, camera_name, clean, decode, iso_time, position

MOST_BYTES = 1 << 22
"""Its numbers take twenty times as much memory when they are looked at."""

_BASE = ExifTags.Base
_CODES = {b"ASCII\0\0\0": "ascii", b"UNICODE\0": "utf-16", b"JIS\0\0\0\0\0": "shift_jis", b"\0" * 8: "utf-8"}


def exif_of(image: Image.Image) -> Image.Exif:
    """Give the EXIF of an opened picture as it is; empty if it is too large. It may raise anything."""
    if len(image.info.get("exif") or b"") > MOST_BYTES:
        return Image.Exif()
    return Image.Image.getexif(image)  # that of PNG would decode the picture, for a chunk that hardly any has


def read_exif(image: Image.Image) -> Found:
    """Read the EXIF of an opened picture; what of it is corrupt is left out."""
    found = Found("EXIF")
    with suppress(Exception):  # Pillow raises almost anything on damaged tags
        tags = exif_of(image)
        found.titles = _some(_utf16(tags.get(_BASE.XPTitle)))
        found.descriptions = _some(_text(tags.get(_BASE.ImageDescription)), *map(_utf16, _comments(tags)))
        found.keywords = _some(*_utf16(tags.get(_BASE.XPKeywords)).split(";"))
        camera = clean(camera_name(clean(_text(tags.get(_BASE.Make))), clean(_text(tags.get(_BASE.Model)))))
        found.facts |= {"camera": camera} if camera else {}
    with suppress(Exception):
        details = exif_of(image).get_ifd(ExifTags.IFD.Exif)
        found.facts |= _shot(details)
        found.descriptions += _some(_comment(details.get(_BASE.UserComment)))
    with suppress(Exception):
        found.facts |= _place(exif_of(image).get_ifd(ExifTags.IFD.GPSInfo))
    return found


def _some(*texts: str) -> list[str]:
    return [text for text in map(clean, texts) if text]


def _comments(tags: Mapping[int, Any]) -> list[Any]:
    return [tags.get(tag) for tag in (_BASE.XPSubject, _BASE.XPComment)]


def _shot(details: Mapping[int, Any]) -> dict[str, Any]:
    taken = _text(details.get(_BASE.DateTimeOriginal)).rstrip("\0 ").replace(":", "-", 2)
    offset = _text(details.get(_BASE.OffsetTimeOriginal)).strip("\0 ")
    told = {"taken_at": iso_time(taken + offset) or iso_time(taken), "lens": clean(_text(details.get(_BASE.LensModel)))}
    return {name: value for name, value in told.items() if value}


def _place(gps: Mapping[int, Any]) -> dict[str, float]:
    latitude = _degrees(gps.get(ExifTags.GPS.GPSLatitude), gps.get(ExifTags.GPS.GPSLatitudeRef), "S")
    longitude = _degrees(gps.get(ExifTags.GPS.GPSLongitude), gps.get(ExifTags.GPS.GPSLongitudeRef), "W")
    altitude = gps.get(ExifTags.GPS.GPSAltitude)
    below = gps.get(ExifTags.GPS.GPSAltitudeRef) in (1, b"\x01")
    return position(latitude, longitude, None if altitude is None else -float(altitude) if below else float(altitude))


def _degrees(parts: Any, reference: Any, negative: str) -> float | None:
    if not parts or not reference:
        return None
    degrees: float = sum(float(part) / 60**n for n, part in enumerate(parts[:3]))
    return -degrees if _text(reference).strip("\0 ").upper() == negative else degrees


def _text(value: Any) -> str:
    """Pillow reads what should be ASCII as Latin-1; programs write UTF-8."""
    if isinstance(value, str):
        with suppress(UnicodeEncodeError):
            return decode(value.encode("latin-1"))
        return value
    return decode(value) if isinstance(value, bytes) else ""


def _utf16(value: Any) -> str:
    """Read what Windows writes, which is bytes or a tuple of them."""
    data = bytes(value) if isinstance(value, (bytes, tuple)) else b""
    return data.decode("utf-16-le", "ignore").rstrip("\0")


def _comment(value: Any) -> str:
    if not isinstance(value, bytes):
        return _text(value)
    code = _CODES.get(value[:8])
    if code == "utf-16":
        order = "utf-16-be" if value[8:9] == b"\0" else "utf-16-le"
        return value[8:].decode("utf-16" if value[8:10] in (b"\xff\xfe", b"\xfe\xff") else order, "ignore")
    return decode(value) if code is None else value[8:].decode(code, "ignore")
