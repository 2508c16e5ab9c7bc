"""XMP → words and facts of a picture."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from PIL import Image

from mmrag.sources.found import Found, camera_name, clean, iso_time, position

_MOST_BYTES = 1 << 20
_DC = "{http://purl.org/dc/elements/1.1/}"
_RDF = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"
_EXIF = "{http://ns.adobe.com/exif/1.0/}"
_TIFF = "{http://ns.adobe.com/tiff/1.0/}"
_TIMES = (
    f"{_EXIF}DateTimeOriginal",
    "{http://ns.adobe.com/photoshop/1.0/}DateCreated",
    "{http://ns.adobe.com/xap/1.0/}CreateDate",
)
_DEGREES = re.compile(r"(\d+),(\d+(?:\.\d+)?)(?:,(\d+(?:\.\d+)?))?([NSEW])")


def read_xmp(image: Image.Image) -> Found:
    """Read the XMP of an opened picture; what is no XML, or might be an attack by XML, says nothing."""
    found = Found("XMP")
    root = _parse(image.info.get("xmp"))
    if root is None:
        return found
    values = dict(_values(root))
    found.titles = _texts(root, "title")
    found.descriptions = _texts(root, "description")
    found.keywords = _texts(root, "subject")
    make, model = (clean(values.get(f"{_TIFF}{name}", "")) for name in ("Make", "Model"))
    told = {
        "taken_at": next(filter(None, (iso_time(values.get(name, "")) for name in _TIMES)), None),
        "camera": clean(camera_name(make, model)),
    }
    found.facts = {name: value for name, value in told.items() if value}
    found.facts |= position(*(_degrees(values.get(f"{_EXIF}GPS{name}", "")) for name in ("Latitude", "Longitude")))
    return found


def _parse(block: Any) -> Element | None:
    data = block.encode("utf-8", "ignore") if isinstance(block, str) else block
    if not isinstance(data, bytes) or len(data) > _MOST_BYTES:
        return None
    try:
        text = data.decode("utf-8-sig").strip("\0 \r\n\t")
    except UnicodeDecodeError:
        return None
    if "<!" in text.replace("<!--", ""):  # entities that grow without end, or read files, need a declaration
        return None
    try:
        return ElementTree.fromstring(text)  # noqa: S314
    except (ElementTree.ParseError, ValueError):  # a declaration of another encoding is a ValueError
        return None


def _values(root: Element) -> Iterator[tuple[str, str]]:
    """List simple properties, which may be written as elements or as attributes."""
    for element in root.iter():
        yield from element.attrib.items()
        if element.text and not len(element):
            yield element.tag, element.text


def _texts(root: Element, name: str) -> list[str]:
    """List a property's texts: in all languages, or all of a list."""
    inside = [item.text or "" for one in root.iter(f"{_DC}{name}") for item in one.iterfind(f"*/{_RDF}li")]
    plain = [one.text or "" for one in root.iter(f"{_DC}{name}") if not len(one)]
    return [text for text in map(clean, (*inside, *plain)) if text]


def _degrees(text: str) -> float | None:
    found = _DEGREES.fullmatch(text.strip())
    if found is None:
        return None
    degrees, minutes, seconds, side = found.groups()
    value = int(degrees) + float(minutes) / 60 + float(seconds or 0) / 3600
    return -value if side in "SW" else value
