"""Columns on disk: Parquet files, and folders that the `datasets` package has saved."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from mmrag.errors import InputError, ItemError
from mmrag.sources.file import open_file, read_file
from mmrag.sources.pairs.captions import check_splits
from mmrag.sources.pairs.row import (
    IMAGE_KEYS,
    TEXT_KEYS,
    Row,
    choose_column,
    clean_texts,
    make_row,
    parse_json,
)
from mmrag.sources.pairs.table import named_rows
from mmrag.sources.uri import is_remote

MOST_KEPT_BYTES = 1 << 29
"""Of the row groups of one Parquet file that were read last: a picture costs the reading of its whole group."""


class InColumn(NamedTuple):
    """A picture in a column: bytes, or a struct of bytes and a path as `datasets` writes them."""

    groups: Groups
    group: int
    row: int

    def read(self) -> bytes:
        """Read the row."""
        try:
            found = self.groups.read(self.group)[self.row].as_py()
        except (OSError, ValueError) as error:  # pyarrow's errors descend from these
            raise ItemError(f"cannot be read: {error}") from error
        data, path = (found.get("bytes"), found.get("path")) if isinstance(found, dict) else (found, None)
        if data is None and path and not is_remote(str(path)) and self.groups.folder is not None:
            return read_file(str(self.groups.folder / path)).data
        if not isinstance(data, bytes):
            raise ItemError("no picture")
        return data


class Groups:
    """The pictures of a table, group by group.

    Attributes
    ----------
    folder : path or None
        What paths of pictures in it are relative to; None if it is remote, and must name no file of this machine.
    """

    folder: Path | None

    def read(self, group: int) -> Any:
        """Read a group's column of pictures, a pyarrow array."""
        raise NotImplementedError


class KeptGroups(Groups):
    """Groups that cost something to read; those read last are kept, up to `MOST_KEPT_BYTES`."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self._kept: OrderedDict[int, Any] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, group: int) -> Any:
        """Read a group, or take one that was kept."""
        with self._lock:  # two threads that need the same group read it once
            if group not in self._kept:
                self._kept[group] = self._load(group)
                while len(self._kept) > 1 and sum(one.nbytes for one in self._kept.values()) > MOST_KEPT_BYTES:
                    self._kept.popitem(last=False)
            self._kept.move_to_end(group)
            return self._kept[group]

    def _load(self, group: int) -> Any:
        raise NotImplementedError


class ParquetGroups(KeptGroups):
    """Row groups of a Parquet file."""

    def __init__(self, path: str | Path, column: str) -> None:
        super().__init__(None if is_remote(str(path)) else Path(path).parent)
        self._path, self._column = str(path), column

    def _load(self, group: int) -> Any:
        import pyarrow.parquet

        with open_file(self._path) as data, pyarrow.parquet.ParquetFile(data) as file:
            return file.read_row_group(group, columns=[self._column])[self._column]


class ArrowGroups(Groups):
    """Record batches of a memory-mapped file."""

    def __init__(self, folder: Path, columns: list[Any]) -> None:
        self.folder = folder
        self._columns = columns

    def read(self, group: int) -> Any:
        """Give a batch's column."""
        return self._columns[group]


def parquet_rows(path: Path, text_key: str | None, images: Path | None) -> Iterator[Row]:
    """List the rows of a Parquet file, whose pictures are bytes or paths."""
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            image, text = _columns(file.schema_arrow.names, text_key, path)
            if names_files(file.schema_arrow.field(image)):
                yield from _named_rows(file.iter_batches(columns=[image, text]), image, text, path, text_key, images)
                return
            pictures = ParquetGroups(path, image)
            for group in range(file.num_row_groups):
                words = file.read_row_group(group, columns=[text])[text].to_pylist()
                for row, some in enumerate(words):
                    row_id = f"{path.name}#{group}.{row}"
                    yield make_row(row_id, InColumn(pictures, group, row), clean_texts(some), text_key=text_key)
    except (OSError, pyarrow.ArrowInvalid) as error:
        raise InputError(f"{path} is not a readable Parquet file: {error}") from error


def _named_rows(
    batches: Iterable[Any], image: str, text: str, path: Path, text_key: str | None, images: Path | None
) -> Iterator[Row]:
    texts: dict[str, list[str]] = {}
    for batch in batches:
        for name, some in zip(batch[image].to_pylist(), batch[text].to_pylist(), strict=True):
            texts.setdefault(name or "", []).extend(clean_texts(some))
    yield from named_rows(texts, path, text_key, images)


def names_files(field: Any) -> bool:
    """Tell whether a column holds paths."""
    return str(field.type) in ("string", "large_string")


def is_saved(folder: Path) -> bool:
    """Tell whether a folder was written by `save_to_disk` of the `datasets` package."""
    return any((folder / name).is_file() for name in ("dataset_dict.json", "state.json"))


def saved_rows(folder: Path, split: str, text_key: str | None, images: Path | None) -> Iterator[Row]:
    """List the rows of a folder that `datasets` has saved: one dataset, or one for each split."""
    listing = folder / "dataset_dict.json"
    if not listing.is_file():
        if split:
            raise InputError(f"{folder} has no splits, and {split!r} was asked for; give the folder alone")
        yield from _saved(folder, text_key, images)
        return
    splits = [str(name) for name in parse_json(listing.read_bytes(), str(listing)).get("splits", [])]
    wanted = check_splits(split, splits, folder)
    for name in splits:
        if name in wanted:
            yield from _saved(folder / name, text_key, images)


def _saved(folder: Path, text_key: str | None, images: Path | None) -> Iterator[Row]:
    batches = list(saved_batches(folder))
    if not batches:
        return
    image, text = _columns(batches[0].schema.names, text_key, folder)
    if names_files(batches[0].schema.field(image)):
        yield from _named_rows(batches, image, text, folder / "state.json", text_key, images)
        return
    pictures = ArrowGroups(folder, [batch.column(image) for batch in batches])
    for group, batch in enumerate(batches):
        for row, some in enumerate(batch.column(text).to_pylist()):
            row_id = f"{folder.name}#{group}.{row}"
            yield make_row(row_id, InColumn(pictures, group, row), clean_texts(some), text_key=text_key)


def saved_batches(folder: Path) -> Iterator[Any]:
    """Map the record batches of all files into memory; nothing of them is read yet."""
    import pyarrow

    state = parse_json((folder / "state.json").read_bytes(), str(folder / "state.json"))
    try:
        for file in state["_data_files"]:
            source = pyarrow.memory_map(str(folder / Path(file["filename"]).name))
            yield from pyarrow.ipc.open_stream(source)
    except (KeyError, TypeError, OSError, pyarrow.ArrowInvalid) as error:
        raise InputError(f"{folder} is not a folder that `datasets` has saved whole: {error}") from error


def _columns(names: list[str], text_key: str | None, where: Path) -> tuple[str, str]:
    keys = TEXT_KEYS if text_key is None else (text_key,)
    return (
        choose_column(names, IMAGE_KEYS, "pictures", where=str(where)),
        choose_column(names, keys, "texts", where=str(where)),
    )
