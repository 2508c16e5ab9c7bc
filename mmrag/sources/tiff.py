"""What a TIFF's first directory asks for, looked at before a decoder believes it."""

from __future__ import annotations

import struct

from mmrag.errors import ItemError

_MOST_TAGS = 65_535
_MOST_VALUES = 1 << 20
"""A tag's numbers take up to 100 bytes each as Python objects; tiles of 16 × 16 of the largest picture are fewer."""
_BYTE_TYPES = (1, 2, 6, 7)  # BYTE, ASCII, SBYTE, UNDEFINED: kept as they are


def check_tags(data: bytes) -> None:
    """Refuse a TIFF whose tags would take far more memory than they have bytes.

    Raises
    ------
    ItemError
        If a tag holds too many numbers. What is damaged otherwise is left to the decoder to name.
    """
    order = "<" if data.startswith(b"II") else ">"
    try:
        (version,) = struct.unpack_from(f"{order}H", data, 2)
        start, length, entry = ("8xQ", "Q", "HHQ8x") if version == 43 else ("4xI", "H", "HHI4x")
        (at,) = struct.unpack_from(order + start, data)
        (tags,) = struct.unpack_from(order + length, data, at)
        if tags > _MOST_TAGS:
            raise ItemError(f"damaged: {tags:,} tags")
        at += struct.calcsize(order + length)
        for number in range(tags):
            tag, kind, values = struct.unpack_from(order + entry, data, at + number * struct.calcsize(order + entry))
            if kind not in _BYTE_TYPES and values > _MOST_VALUES:
                raise ItemError(f"damaged: {values:,} values in its tag {tag}")
    except (struct.error, OverflowError):
        return
