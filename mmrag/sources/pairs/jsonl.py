"""JSONL: an object a line, with the path of a picture and its texts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mmrag.errors import InputError
from mmrag.sources.pairs.row import IMAGE_KEYS, Row, file_row, parse_json, texts_of


def jsonl_rows(path: Path, text_key: str | None, images: Path | None) -> Iterator[Row]:
    """List the objects of a file; paths are relative to `images`, or to the file."""
    folder = images or path.parent
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            row = parse_json(line, f"{path}, line {number}")
            names = (row.get(key) for key in IMAGE_KEYS) if isinstance(row, dict) else ()
            name = next((name for name in names if isinstance(name, str) and name), None)
            if name is None:
                raise InputError(f"{path}, line {number}: needs an object with the key 'image', a path")
            row_id = str(row.get("id", name))
            yield file_row(name, texts_of(row, text_key), folder, text_key=text_key, row_id=row_id)
