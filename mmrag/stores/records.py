"""Records of rows → items."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from mmrag.sources.uri import shown_name
from mmrag.types import WORDS, Item


def to_item(record: Mapping[str, Any]) -> Item:
    """Record of a row → Item."""
    return Item(
        uri=record["uri"],
        id=record["id"],
        modality=record["modality"],
        text=record["text"],
        metadata=json.loads(record["metadata"]) if record["metadata"] else {},
        part=record["part"],
        words={kind: record[kind] for kind in WORDS if record[kind]},
        origins=json.loads(record["origins"]) if record["origins"] else {},
    )


def place_of(item: Item) -> str:
    """Say where an item is, for people: a file, a part of one, or the lines and headings of a chunk.

    Examples
    --------
    >>> place_of(Item("a.tar", part="17")), place_of(Item("a.md", part="0", metadata={"lines": [1, 9]}))
    ('a.tar › 17', 'a.md:1-9')
    """
    lines, headings = item.metadata.get("lines"), item.metadata.get("headings") or []
    if item.modality == "image" or not isinstance(lines, list) or len(lines) != 2:
        return shown_name(item.uri, item.part)
    path = " › ".join(map(str, headings)) if isinstance(headings, list) else str(headings)
    return f"{item.uri}:{lines[0]}-{lines[1]}" + (f"  {path}" if path else "")
