"""Tables that name a picture and a caption a row: CSV and TSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path

from mmrag.errors import InputError
from mmrag.sources.file import open_file
from mmrag.sources.pairs.beside import picture_folder
from mmrag.sources.pairs.row import IMAGE_KEYS, TEXT_KEYS, Row, choose_column, file_row


def table_rows(path: Path, text_key: str | None, images: Path | None) -> Iterator[Row]:
    """List the pictures of a table with a head; rows of the same picture are one."""
    texts: dict[str, list[str]] = {}
    for name, text in _named(path, text_key):
        texts.setdefault(name, []).append(text)
    yield from named_rows(texts, path, text_key, images)


def named_rows(texts: dict[str, list[str]], path: Path, text_key: str | None, images: Path | None) -> Iterator[Row]:
    """Make rows of pictures that are named by paths, with all texts of each."""
    folder = picture_folder(path, texts, images)
    for name, some in texts.items():
        found = tuple(text.strip() for text in some if text.strip())
        yield file_row(name, found, folder, text_key=text_key)


def _named(path: Path, text_key: str | None) -> Iterator[tuple[str, str]]:
    rows = table_records(str(path))
    head = list(next(rows, {}))
    keys = TEXT_KEYS if text_key is None else (text_key,)
    image = choose_column(head, IMAGE_KEYS, "pictures", where=f"the first line of {path}")
    text = choose_column(head, keys, "texts", where=f"the first line of {path}")
    yield from ((row[image].strip(), row[text]) for row in rows)


def table_records(path: str) -> Iterator[dict[str, str]]:
    """List the rows of a table by the names of its columns, its head first; what is missing in a row is empty.

    Raises
    ------
    InputError
        If it cannot be read on.
    """
    with open_file(path) as data, io.TextIOWrapper(data, encoding="utf-8-sig", errors="replace", newline="") as file:
        rows = csv.reader(file, delimiter="\t" if path.lower().endswith(".tsv") else ",")
        try:
            head = [name.strip() for name in next(rows, [])]
            yield dict(zip(head, head, strict=True))
            yield from (dict(zip(head, row + [""] * (len(head) - len(row)), strict=False)) for row in rows if row)
        except csv.Error as error:
            raise InputError(f"{path}, line {rows.line_num}: is not a readable table: {error}") from error
