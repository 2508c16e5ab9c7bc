"""Files of many items → rows with all that they say, in order; and the picture of any one row again."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache, partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

from mmrag.errors import InputError, ItemError
from mmrag.sources.kinds import LANCE, TARS
from mmrag.sources.pairs.beside import picture_folder
from mmrag.sources.pairs.columns import (
    ArrowGroups,
    Groups,
    InColumn,
    KeptGroups,
    ParquetGroups,
    names_files,
    saved_batches,
)
from mmrag.sources.pairs.facts import as_number, facts_of
from mmrag.sources.pairs.jsonl import jsonl_objects
from mmrag.sources.pairs.row import (
    IMAGE_KEYS,
    NO_JSON,
    NO_PICTURE,
    TEXT_KEYS,
    InFile,
    InMemory,
    Picture,
    Row,
    is_address,
    parse_json,
    texts_of,
)
from mmrag.sources.pairs.table import table_records
from mmrag.sources.pairs.tar import tar_rows
from mmrag.sources.uri import is_remote
from mmrag.sources.walk import has_suffix

_LOOKED_AT = 8
_ARCHIVES_KEPT = 4
_LANCE_ROWS = 64

Record = tuple[str, Mapping[str, Any], Picture | None]
"""The part that a row is, its columns, and its picture, if that stands in a column."""


def list_rows(path: str) -> Iterator[Row]:
    """List the rows of a table, an archive or a dataset, of which each is a picture, a text or both.

    A row's id is its part: the name of a sample in a tar, or the number of a row, from 0. Its problem is `NO_PICTURE`
    where it has none; one without a text has no problem. Rows of the same picture, one after the other, are one.

    Parameters
    ----------
    path : str
        A tar in webdataset layout, maybe compressed, JSONL, CSV, TSV, Parquet, a Lance dataset, or a folder that
        ``save_to_disk`` of ``datasets`` has written.

    Raises
    ------
    InputError
        If it cannot be read, or on; or if its first rows have neither a picture nor a text.
    """
    if path.lower().endswith(TARS):
        return _tar(path)
    if os.path.isdir(path):
        return _rows_of(path, _lance(path) if path.lower().endswith(LANCE) else _saved(path))
    name = path.lower()
    records = _parquet if name.endswith(".parquet") else _table if name.endswith((".csv", ".tsv")) else _jsonl
    return _rows_of(path, records(path))


def picture_of(path: str, part: str) -> Picture:
    """Find the picture of one row, by its part. Nothing can be looked up in a compressed tar: it is read up to there.

    Raises
    ------
    ItemError
        If there is none.
    """
    try:
        picture = _finder(path, _state(path))(part)
    except (OSError, InputError) as error:
        raise ItemError(f"cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if picture is None:
        raise ItemError(f"there is no part {part!r} in it any more")
    return picture


def _state(path: str) -> tuple[int, int]:
    if is_remote(path):
        from mmrag.sources.remote import describe_remote  # most runs do without

        about = describe_remote(path)
        return about.size, about.mtime_ns
    found = os.stat(path)
    return found.st_size, found.st_mtime_ns


@lru_cache(maxsize=_ARCHIVES_KEPT)
def _finder(path: str, state: tuple[int, int]) -> Callable[[str], Picture | None]:  # noqa: ARG001
    """Prepare for finding pictures in a file, as long as it stays as it is."""
    name = path.lower()
    if name.endswith(TARS) and not name.endswith(".tar"):
        return lambda part: next((row.picture for row in _tar(path) if row.id == part), None)
    if name.endswith(".parquet"):
        return _in_parquet(path)
    if name.endswith(LANCE):
        return partial(_at, _LanceGroups(path))
    pictures = {row.id: row.picture for row in list_rows(path) if row.problem != NO_PICTURE}
    return pictures.get


def _tar(path: str) -> Iterator[Row]:
    """List samples; one whose name has been before, as where all words stand behind all pictures, is ``NAME (2)``."""
    seen: set[int] = set()  # hashes take less memory than names
    times: dict[str, int] = {}
    for row in tar_rows(path, None):
        name = row.id
        while hash(name) in seen:
            times[row.id] = times.get(row.id, 1) + 1
            name = f"{row.id} ({times[row.id]})"
        seen.add(hash(name))
        yield row._replace(id=name, problem=row.problem if row.problem in (NO_PICTURE, NO_JSON) else "")


def _rows_of(path: str, records: Iterator[Record]) -> Iterator[Row]:
    """Make rows of records; pictures that are named by paths are looked for beside the file."""
    first = list(islice(records, _LOOKED_AT))
    if first and not any(_says_something(record, picture) for _, record, picture in first):
        keys = ", ".join(dict.fromkeys((*TEXT_KEYS, *IMAGE_KEYS)))
        raise InputError(
            f"{path} has no column of texts or pictures ({keys}); it has: {', '.join(map(str, first[0][1])) or 'none'}"
        )
    names = [name for _, record, _ in first if (name := _named_picture(record))]
    folder = None if is_remote(path) else _folder_of(path, names)  # a url must name no file of this machine
    return _joined(_row(record, folder) for record in chain(first, records))


def _says_something(record: Mapping[str, Any], picture: Picture | None) -> bool:
    return (
        picture is not None or "" in record or any(key in record for key in TEXT_KEYS) or bool(_named_picture(record))
    )


def _folder_of(path: str, names: list[str]) -> Path:
    try:
        return picture_folder(Path(path), names, None)
    except InputError:  # each row says that its picture is not there
        return Path(path).parent


def _named_picture(record: Mapping[str, Any]) -> str | None:
    """Give the path of a picture that a row names; what is named otherwise is a fact."""
    names = (record.get(key) for key in IMAGE_KEYS)
    return next((n for n in names if isinstance(n, str) and has_suffix(n) and not is_address(n)), None)


def _row(record: Record, folder: Path | None) -> Row:
    part, columns, picture = record
    if "" in columns:
        return Row(part, InMemory(b""), (), NO_JSON)
    name = _named_picture(columns) if picture is None else None
    if name is not None and folder is not None:
        picture = InFile(str(folder / name.strip()))
    text_key = next((key for key in TEXT_KEYS if key in columns), "")
    facts = facts_of(columns, without=(text_key,))
    return Row(
        part, picture or InMemory(b""), texts_of(columns, None), "" if picture is not None else NO_PICTURE, facts
    )


def _joined(rows: Iterable[Row]) -> Iterator[Row]:
    """Make one of rows of the same file that follow each other, with the texts of all."""
    held: Row | None = None
    for row in rows:
        if held is not None and isinstance(row.picture, InFile) and row.picture == held.picture:
            held = held._replace(texts=(*held.texts, *row.texts))
            continue
        if held is not None:
            yield held
        held = row
    if held is not None:
        yield held


def _jsonl(path: str) -> Iterator[Record]:
    for row, (_, found) in enumerate(jsonl_objects(path)):
        if isinstance(found, InputError) and not row:
            raise found
        yield str(row), found if isinstance(found, dict) else {"": None}, None


def _table(path: str) -> Iterator[Record]:
    records = table_records(path)
    next(records, None)
    for row, record in enumerate(records):
        cells = {name: cell if name in TEXT_KEYS else as_number(cell) for name, cell in record.items() if name}
        yield str(row), cells, None


def _parquet(path: str) -> Iterator[Record]:
    import pyarrow
    import pyarrow.parquet

    from mmrag.sources.file import open_file

    try:
        with open_file(path) as data, pyarrow.parquet.ParquetFile(data) as file:
            image = _picture_column(file.schema_arrow)
            groups = ParquetGroups(path, image) if image else None
            others = [name for name in file.schema_arrow.names if name != image]
            start = 0
            for group in range(file.num_row_groups):
                table = file.read_row_group(group, columns=others)
                yield from _records(table.to_batches(1024), groups, group, start)
                start += file.metadata.row_group(group).num_rows
    except (OSError, pyarrow.ArrowException, ItemError) as error:
        raise InputError(f"{path} is not a readable Parquet file: {error}") from error


def _records(
    batches: Iterable[Any], groups: Groups | None, group: int, start: int, prefix: str = ""
) -> Iterator[Record]:
    """List the rows of a group of columns, of which one may hold pictures."""
    valid = None if groups is None else groups.read(group).is_valid().to_pylist()
    row = 0
    for batch in batches:
        for record in batch.to_pylist():
            picture = InColumn(groups, group, row) if groups is not None and valid and valid[row] else None
            yield f"{prefix}{start + row}", record, picture
            row += 1


def _picture_column(schema: Any) -> str | None:
    """Choose the column that holds pictures: bytes, or structs of bytes and a path."""
    named = [name for name in IMAGE_KEYS if name in schema.names]
    return next((name for name in named if not names_files(schema.field(name))), None)


def _in_parquet(path: str) -> Callable[[str], Picture | None]:
    import pyarrow.parquet

    from mmrag.sources.file import open_file

    with open_file(path) as data, pyarrow.parquet.ParquetFile(data) as file:
        image = _picture_column(file.schema_arrow)
        sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
    if image is None:
        return {row.id: row.picture for row in list_rows(path) if row.problem != NO_PICTURE}.get
    groups = ParquetGroups(path, image)

    def find(part: str) -> Picture | None:
        row = int(part) if part.isdecimal() else sum(sizes)
        for group, size in enumerate(sizes):
            if row < size:
                return InColumn(groups, group, row)
            row -= size
        return None

    return find


def _saved(path: str) -> Iterator[Record]:
    """List the rows of what `datasets` has saved; those of several splits are called ``train/17``."""
    folder = Path(path)
    listing = folder / "dataset_dict.json"
    if not listing.is_file():
        yield from _saved_part(folder, "")
        return
    for name in parse_json(listing.read_bytes(), str(listing)).get("splits", []):
        yield from _saved_part(folder / str(name), f"{name}/")


def _saved_part(folder: Path, prefix: str) -> Iterator[Record]:
    batches = list(saved_batches(folder))
    image = _picture_column(batches[0].schema) if batches else None
    groups = ArrowGroups(folder, [batch.column(image) for batch in batches]) if image else None
    start = 0
    for group, batch in enumerate(batches):
        others = batch.drop_columns([image]) if image else batch
        yield from _records([others], groups, group, start, prefix)
        start += batch.num_rows


class _LanceGroups(KeptGroups):
    """Some rows each of the column of pictures of a Lance dataset."""

    def __init__(self, path: str) -> None:
        super().__init__(Path(path).parent)
        self.table = _open_lance(path)
        self.column = _picture_column(self.table.schema)

    def _load(self, group: int) -> Any:
        return self.rows(group, [self.column or ""])[self.column]

    def rows(self, group: int, columns: list[str]) -> Any:
        """Read some columns of a group, a pyarrow table."""
        return self.table.search().select(columns).offset(group * _LANCE_ROWS).limit(_LANCE_ROWS).to_arrow()


def _lance(path: str) -> Iterator[Record]:
    try:
        groups = _LanceGroups(path)
        others = [name for name in groups.table.schema.names if name != groups.column]
        for group in range(-(-groups.table.count_rows() // _LANCE_ROWS)):
            batches = groups.rows(group, others).to_batches()
            yield from _records(batches, groups if groups.column else None, group, group * _LANCE_ROWS)
    except (OSError, RuntimeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} is not a readable Lance dataset: {error}") from error


def _open_lance(path: str) -> Any:
    import lancedb

    return lancedb.connect(os.path.dirname(path)).open_table(os.path.basename(path)[: -len(LANCE)])


def _at(groups: _LanceGroups, part: str) -> Picture | None:
    if not part.isdecimal() or int(part) >= groups.table.count_rows():
        return None
    return InColumn(groups, int(part) // _LANCE_ROWS, int(part) % _LANCE_ROWS)
