"""What an index holds, in numbers and names."""

from __future__ import annotations

import dataclasses
from typing import Any

from mmrag.stores.files import size_on_disk
from mmrag.stores.registry import WORDS_FOLDER
from mmrag.stores.serving import Serving
from mmrag.types import WORDS


def describe(serving: Serving) -> dict[str, Any]:
    """Describe an index: counts, model, folders, size on disk."""
    manifest, view = serving.manifest, serving.view
    return {
        "home": str(serving.home),
        **_counts(serving),
        "model": manifest.model,
        "identity": dataclasses.asdict(manifest.identity),
        "view": dataclasses.asdict(manifest.view),
        "choice": dataclasses.asdict(manifest.choice),
        "tuning": dataclasses.asdict(manifest.tuning) if manifest.tuning else None,
        "table_version": view.table_version,
        "folders": [dataclasses.asdict(one) for one in manifest.folders],
        "captions": list(manifest.captions),
        "created": manifest.created,
        "format": manifest.format,
        "writer": dataclasses.asdict(manifest.writer),
        "keep_versions": manifest.keep_versions,
        "bytes": size_on_disk(serving.folder),
        "full_text_bytes": size_on_disk(view.folder.parent / WORDS_FOLDER),
    }


def _counts(serving: Serving) -> dict[str, Any]:
    kinds = ("text", *WORDS)
    rows = list(serving.view.scan(("modality", "failure", *kinds)))
    sound = [row for row in rows if row[2] is None]
    found = [modality for _, modality, *_ in sound]
    pictures = [row[3:] for row in sound if row[1] == "image"]
    return {
        "items": len(found),
        "images": found.count("image"),
        "texts": found.count("text"),
        "failed": len(rows) - len(found),
        "words": {kind: sum(bool(row[n]) for row in pictures) for n, kind in enumerate(kinds)},
    }
