"""A folder of pictures with their captions beside them: a table, or a file for each picture."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mmrag.errors import InputError
from mmrag.sources.pairs.row import InFile, Row, make_row, parse_json, texts_of
from mmrag.sources.walk import walk

TABLES = ("pairs.jsonl", "metadata.jsonl", "captions.txt", "captions.csv", "captions.tsv", "metadata.csv")


def table_in(folder: Path) -> Path | None:
    """Find the table of a folder, by its usual names."""
    return next((folder / name for name in TABLES if (folder / name).is_file()), None)


def folder_rows(folder: Path, text_key: str | None) -> Iterator[Row]:
    """List the pictures of a folder and of those below it, with ``NAME.json`` or ``NAME.txt`` (a text a line)."""
    home = folder.resolve()
    for file in walk(home, home=home).files:
        texts = _texts_beside(Path(file.path), text_key)
        yield make_row(file.uri, InFile(file.path), texts, text_key=text_key)


def _texts_beside(picture: Path, text_key: str | None) -> tuple[str, ...]:
    try:
        words = picture.with_suffix(".json")
        if words.is_file():
            return texts_of(parse_json(words.read_bytes(), str(words)), text_key)
        lines = picture.with_suffix(".txt")
        if lines.is_file():
            return texts_of({"text": lines.read_text("utf-8", "replace").splitlines()}, text_key)
    except OSError as error:
        raise InputError(f"cannot read the captions of {picture}: {error.strerror}") from error
    return ()
