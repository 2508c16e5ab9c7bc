"""Files of pairs → pairs, one after the other or in any order."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import overload

from mmrag.errors import InputError, ItemError
from mmrag.sources.pairs.captions import caption_rows
from mmrag.sources.pairs.columns import is_saved, parquet_rows, saved_rows
from mmrag.sources.pairs.folder import folder_rows, table_in
from mmrag.sources.pairs.jsonl import jsonl_rows
from mmrag.sources.pairs.row import TEXT_KEYS, InMemory, Pair, Row
from mmrag.sources.pairs.table import table_rows
from mmrag.sources.pairs.tar import tar_rows

MOST_IN_MEMORY = 1 << 30
"""Bytes of pictures out of compressed tars, in which nothing can be looked up."""

_TARS = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".tar.bz2")
_KINDS = (
    "a .tar in webdataset layout, .jsonl, .csv or .tsv, .parquet, COCO's or Karpathy's .json, a folder of pictures "
    "with captions beside them, a folder that `datasets` has saved"
)

logger = logging.getLogger("mmrag")


class Pairs(Sequence[Pair]):
    """Pairs on disk; a picture is read when its pair is asked for, which raises ItemError if it cannot be.

    Attributes
    ----------
    rows : sequence of Row
        What is known of each without reading its picture: its id, its texts and where the picture is.
    skipped : Counter of str
        How many samples were left out, by reason.
    """

    def __init__(self, rows: Sequence[Row], skipped: Counter[str]) -> None:
        self.rows = rows
        self.skipped = skipped

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, place: int) -> Pair: ...
    @overload
    def __getitem__(self, place: slice) -> Pairs: ...
    def __getitem__(self, place: int | slice) -> Pair | Pairs:
        if isinstance(place, slice):
            return Pairs(self.rows[place], self.skipped)
        row = self.rows[place]
        return Pair(row.id, row.picture.read(), row.texts)


def open_pairs(paths: Iterable[str | Path], *, text_key: str | None = None, images: Path | None = None) -> Pairs:
    """Open files of pairs for random access; several are one after the other.

    Only texts, and where pictures are, are held in memory. The pictures of compressed tars are held too, and a row of
    Parquet costs the reading of its row group, the last of which are kept.

    Parameters
    ----------
    paths : iterable of path
        - ``.tar`` in webdataset layout: ``NAME.jpg`` beside ``NAME.json`` or ``NAME.txt`` (a text a line);
        - ``.jsonl``: an object a line with ``image``, a path relative to the file, and texts;
        - ``.csv``, ``.tsv``: a table with a head, and a picture's path and a text a row;
        - ``.parquet``: the same, or with the pictures themselves, as ``datasets`` writes them;
        - ``.json``: captions as COCO or Karpathy lay them out, the latter with a split (``dataset.json#train``);
        - a folder of pictures with ``NAME.txt`` or ``NAME.json`` beside them, or with a table that is called
          ``captions.txt``, ``captions.csv``, ``captions.tsv``, ``metadata.csv``, ``metadata.jsonl`` or ``pairs.jsonl``;
        - a folder that ``save_to_disk`` of ``datasets`` has written, maybe with a split (``folder#train``).
    text_key : str or None
        The key, or column, whose string or list of strings holds the texts; by default the first present of
        ``texts``, ``text``, ``captions``, ``caption``, ``en``. In JSON, ``"en,zh"`` takes the texts of both keys.
    images : path or None
        The folder that the pictures' paths are relative to; by default it is looked for beside the file.

    Raises
    ------
    InputError
        If a file is missing, is of another kind, or holds no pair at all. What has no picture or no text is skipped
        and counted.
    """
    rows: list[Row] = []
    skipped: Counter[str] = Counter()
    held = 0
    for path in paths:
        mine: Counter[str] = Counter()
        before = len(rows)
        for row in _rows(path, text_key, images):
            if row.problem:
                mine[row.problem] += 1
                continue
            held += len(row.picture.data) if isinstance(row.picture, InMemory) else 0
            if held > MOST_IN_MEMORY:
                raise InputError(f"{path} is compressed and larger than {MOST_IN_MEMORY:,} bytes; unpack it to a .tar")
            rows.append(row)
        for reason, count in mine.items():
            logger.warning("%s: %d skipped: %s", path, count, reason)
        _check_some(path, len(rows) - before, text_key)
        skipped += mine
    return Pairs(rows, skipped)


def read_pairs(
    paths: Iterable[str | Path], *, text_key: str | None = None, images: Path | None = None
) -> Iterator[Pair]:
    """Read pairs in order, each file once; what cannot be read is skipped with a warning.

    Parameters and errors as those of `open_pairs`.
    """
    for path in paths:
        count = 0
        for row in _rows(path, text_key, images):
            try:
                if row.problem:
                    raise ItemError(f"has {row.problem}" if row.problem.startswith("no ") else row.problem)
                pair = Pair(row.id, row.picture.read(), row.texts)
            except ItemError as error:
                logger.warning("%s: %s %s; skipped", path, row.id, error)
                continue
            count += 1
            yield pair
        _check_some(path, count, text_key)


def _check_some(path: str | Path, count: int, text_key: str | None) -> None:
    if not count:
        keys = text_key or ", ".join(TEXT_KEYS)
        raise InputError(f"{path} holds no pair of a picture and a text (looked for the keys {keys})")


def _rows(given: str | Path, text_key: str | None, images: Path | None) -> Iterator[Row]:
    path, split = _split(given)
    if path.is_dir() and is_saved(path):
        return saved_rows(path, split, text_key, images)
    kind = path.name.lower()
    if path.is_file() and kind.endswith(".json"):
        return caption_rows(path, split, text_key, images)
    if split:
        raise InputError(f"{path} has no splits, and {split!r} was asked for; give it without #{split}")
    if path.is_dir():
        table = table_in(path)
        return folder_rows(path, text_key) if table is None else _file_rows(table, text_key, images)
    if not path.is_file():
        raise InputError(f"there is no file {str(path)!r} to read pairs from")
    return _file_rows(path, text_key, images)


def _file_rows(path: Path, text_key: str | None, images: Path | None) -> Iterator[Row]:
    name = path.name.lower()
    if name.endswith(_TARS):
        return tar_rows(path, text_key)
    if name.endswith((".jsonl", ".ndjson")):
        return jsonl_rows(path, text_key, images)
    if name.endswith((".csv", ".tsv")) or name == "captions.txt":
        return table_rows(path, text_key, images)
    if name.endswith(".parquet"):
        return parquet_rows(path, text_key, images)
    raise InputError(f"{path} is of no kind that holds pairs; these do: {_KINDS}")


def _split(given: str | Path) -> tuple[Path, str]:
    """Part a split from a path; a path that is there is taken as it is."""
    path, _, split = str(given).rpartition("#")
    return (Path(path), split) if path and not Path(given).exists() else (Path(given), "")
