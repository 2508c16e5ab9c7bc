"""Tables that name a picture and a caption a row: CSV and TSV."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from pathlib import Path

from mmrag.errors import InputError
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
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        rows = csv.reader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
        try:
            head = [name.strip() for name in next(rows, [])]
            keys = TEXT_KEYS if text_key is None else (text_key,)
            image = head.index(choose_column(head, IMAGE_KEYS, "pictures", where=f"the first line of {path}"))
            text = head.index(choose_column(head, keys, "texts", where=f"the first line of {path}"))
            yield from ((row[image].strip(), row[text]) for row in _whole(rows, max(image, text)))
        except csv.Error as error:
            raise InputError(f"{path}, line {rows.line_num}: is not a readable table: {error}") from error


def _whole(rows: Iterable[list[str]], last: int) -> Iterator[list[str]]:
    """Leave out empty lines; what is missing at the end of a row is empty."""
    return (row + [""] * (last + 1 - len(row)) for row in rows if row)
