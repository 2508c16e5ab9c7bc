"""JSONL: an object a line, with the path of a picture and its texts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mmrag.errors import InputError
from mmrag.sources.pairs.row import IMAGE_KEYS, InMemory, Row, file_row, parse_json, texts_of


def jsonl_rows(path: Path, text_key: str | None, images: Path | None) -> Iterator[Row]:
    """List the objects of a file; paths are relative to `images`, or to the file.

    Where the first line is none, neither is the file; one among others is a bad sample.
    """
    folder = images or path.parent
    begun = False
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = _row(line, f"{path}, line {number}", folder, text_key)
            except InputError:
                if not begun:
                    raise
                row = Row(f"line {number}", InMemory(b""), (), "no object with a picture's path")
            begun = True
            yield row


def _row(line: bytes, where: str, folder: Path, text_key: str | None) -> Row:
    row = parse_json(line, where)
    names = (row.get(key) for key in IMAGE_KEYS) if isinstance(row, dict) else ()
    name = next((name for name in names if isinstance(name, str) and name), None)
    if name is None:
        raise InputError(f"{where}: needs an object with the key 'image', a path")
    return file_row(name, texts_of(row, text_key), folder, text_key=text_key, row_id=str(row.get("id", name)))
