"""JSONL: an object a line, with the path of a picture and its texts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmrag.errors import InputError
from mmrag.sources.file import open_file
from mmrag.sources.pairs.row import IMAGE_KEYS, InMemory, Row, file_row, parse_json, texts_of


def jsonl_rows(path: Path, text_key: str | None, images: Path | None) -> Iterator[Row]:
    """List the objects of a file; paths are relative to `images`, or to the file.

    Where the first line is none, neither is the file; one among others is a bad sample.
    """
    folder = images or path.parent
    begun = False
    for number, found in jsonl_objects(str(path)):
        try:
            row = _row(found, f"{path}, line {number}", folder, text_key)
        except InputError:
            if not begun:
                raise
            row = Row(f"line {number}", InMemory(b""), (), "no object with a picture's path")
        begun = True
        yield row


def jsonl_objects(path: str) -> Iterator[tuple[int, Any]]:
    """List what stands in the lines of a file that are not empty, with their numbers, from 1.

    A line that is no JSON gives the error that says so.
    """
    with open_file(path) as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                try:
                    yield number, parse_json(line, f"{path}, line {number}")
                except InputError as error:
                    yield number, error


def _row(row: Any, where: str, folder: Path, text_key: str | None) -> Row:
    if isinstance(row, InputError):
        raise row
    names = (row.get(key) for key in IMAGE_KEYS) if isinstance(row, dict) else ()
    name = next((name for name in names if isinstance(name, str) and name), None)
    if name is None:
        raise InputError(f"{where}: needs an object with the key 'image', a path")
    return file_row(name, texts_of(row, text_key), folder, text_key=text_key, row_id=str(row.get("id", name)))
