"""Records of rows → items."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

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
