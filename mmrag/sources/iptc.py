"""IPTC's records, as photo agencies write them → words of a picture.

"IPTC-NAA Information Interchange Model", version 4: records of a marker, a record and data set number, a size and a
value. JPEGs have them in resource 0x0404 of Photoshop's block, TIFFs in a tag.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from PIL import Image

from mmrag.sources.found import Found, clean, decode

_RESOURCE = 0x0404
_TIFF_TAG = 33723
_MOST_BYTES = 1 << 20
_UTF8 = b"\x1b%G"

_CHARSET, _TITLE, _KEYWORD, _HEADLINE, _CAPTION = (1, 90), (2, 5), (2, 25), (2, 105), (2, 120)


def read_iptc(image: Image.Image) -> Found:
    """Read the IPTC records of an opened picture."""
    found = Found("IPTC")
    utf8 = False
    for kind, value in _records(_block(image)):
        if kind == _CHARSET:
            utf8 = value == _UTF8
            continue
        text = clean(value.decode("utf-8", "replace") if utf8 else decode(value))
        place = {
            _TITLE: found.titles,
            _HEADLINE: found.titles,
            _CAPTION: found.descriptions,
            _KEYWORD: found.keywords,
        }.get(kind)
        if text and place is not None:
            place.append(text)
    return found


def _block(image: Image.Image) -> bytes:
    resources = image.info.get("photoshop")
    block: Any = resources.get(_RESOURCE) if isinstance(resources, dict) else None
    if block is None:
        block = getattr(image, "tag_v2", {}).get(_TIFF_TAG)
        block = block[0] if isinstance(block, tuple) and len(block) == 1 else block
    return block[:_MOST_BYTES] if isinstance(block, bytes) else b""


def _records(block: bytes) -> Iterator[tuple[tuple[int, int], bytes]]:
    """Go through the records; they end where something else begins, and with one that is cut short."""
    at = 0
    while at + 5 <= len(block) and block[at] == 0x1C:
        size = int.from_bytes(block[at + 3 : at + 5])
        if at + 5 + size > len(block):  # also that of an extended record, which no text needs
            return
        yield (block[at + 1], block[at + 2]), block[at + 5 : at + 5 + size]
        at += 5 + size
