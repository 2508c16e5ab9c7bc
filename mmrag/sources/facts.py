"""What a picture's own file says of it: words that people have put into it, and facts.

None of this decodes a pixel. Corrupt metadata costs the metadata, never the picture.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from PIL import ExifTags, Image

from mmrag.sources.exif import exif_of, read_exif
from mmrag.sources.found import Found, clean
from mmrag.sources.image import open_image
from mmrag.sources.iptc import read_iptc
from mmrag.sources.xmp import read_xmp

_READERS: Sequence[Callable[[Image.Image], Found]] = (read_exif, read_iptc, read_xmp)
_MOST_KEYWORDS = 1000
_ON_ITS_SIDE = (5, 6, 7, 8)
_SAME_FORMAT = {"MPO": "JPEG"}  # with more pictures behind the first


@dataclass(frozen=True)
class Embedded:
    """What a picture's file says of it.

    Attributes
    ----------
    tags : str or None
        Titles and descriptions, a line each, and a line of keywords.
    origin : str
        Where the tags are from, such as "EXIF, XMP".
    facts : dict
        Names and values as JSON holds them: `taken_at` (ISO 8601), `camera`, `lens`, `latitude` and `longitude` in
        degrees, `altitude` in metres, `width` and `height` of the upright picture in pixels, `format`.
    """

    tags: str | None = None
    origin: str = ""
    facts: dict[str, Any] = field(default_factory=dict)


def read_embedded(data: bytes) -> Embedded:
    """Read what the bytes of a picture say of it; nothing, if they cannot be read."""
    with suppress(Exception), open_image(data) as image:
        return embedded_in(image)
    return Embedded()


def embedded_in(image: Image.Image) -> Embedded:
    """Read what an opened picture, whose pixels need not be decoded yet, says of itself."""
    every = [_read(reader, image) for reader in (*_READERS, _own_texts)]
    facts: dict[str, Any] = {}
    for found in reversed(every):  # the first that tells a fact is believed
        facts |= found.facts
    kinds = dict.fromkeys(found.kind for found in every if found.has_words)
    return Embedded(_lines(every) or None, ", ".join(kinds), facts | _about(image))


def _read(reader: Callable[[Image.Image], Found], image: Image.Image) -> Found:
    with suppress(Exception):  # as Pillow does on damaged files, they may raise anything
        return reader(image)
    return Found("")


def _about(image: Image.Image) -> dict[str, Any]:
    width, height = image.size[::-1] if _is_turned(image) else image.size
    told = {"width": width, "height": height, "format": _SAME_FORMAT.get(image.format or "", image.format)}
    return {name: value for name, value in told.items() if value is not None}


def _is_turned(image: Image.Image) -> bool:
    if image.format == "TIFF":  # Pillow has turned its size already
        return False
    with suppress(Exception):
        return exif_of(image).get(ExifTags.Base.Orientation) in _ON_ITS_SIDE
    return False


def _own_texts(image: Image.Image) -> Found:
    """PNG's text chunks."""
    told = [image.info.get(name) for name in ("Title", "Description")]
    title, description = ([clean(text)] if isinstance(text, str) and clean(text) else [] for text in told)
    return Found(image.format or "", title, description)


def _lines(every: Iterable[Found]) -> str:
    every = list(every)
    heads = _distinct(text for found in every for text in (*found.titles, *found.descriptions))
    known = {text.casefold() for text in heads}
    keywords = [
        word for word in _distinct(word for found in every for word in found.keywords) if word.casefold() not in known
    ]
    return "\n".join([*heads, *filter(None, [", ".join(keywords[:_MOST_KEYWORDS])])])


def _distinct(texts: Iterable[str]) -> list[str]:
    return list({text.casefold(): text for text in reversed(list(texts))}.values())[::-1]
