"""The Lance table: one row per item, every commit an ACID version. The only truth."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mmrag.errors import IndexFormatError, StoreError
from mmrag.similarity import vector_shape
from mmrag.stores.files import disk_errors
from mmrag.stores.manifest import STAMPS_PER_VERSION
from mmrag.stores.rows import Row, table_schema, to_arrow
from mmrag.types import Version

if TYPE_CHECKING:
    from lancedb.table import Table as LanceTable

P = ParamSpec("P")
R = TypeVar("R")


_NAME = "items"
_TAG = "mmrag-"
_MANY_FRAGMENTS = 32
_TOO_MANY_FRAGMENTS = 256
_MANY_VERSIONS = 32
_RETENTION = timedelta(hours=1)  # for others who are reading an old version
_MARGIN = timedelta(minutes=1)  # Lance counts back from when it prunes, which is a little later
_FOR_EVER = timedelta(days=36500)
_ROWS_AT_ONCE = 4096
_LEAST_INDEXED = 20_000
_MOST_VERSIONS = 2**64 - 1
_BACKWARDS_DIGITS = 20


def _store_errors(method: Callable[Concatenate[Table, P], R]) -> Callable[Concatenate[Table, P], R]:
    @functools.wraps(method)
    def wrapper(self: Table, /, *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return method(self, *args, **kwargs)
        except Exception as error:
            if not is_lancedbs(error):
                raise
            raise StoreError(
                f"the table in {self.folder} failed: {reason_of(error)}. The last committed version is kept"
            ) from error

    return wrapper


def reason_of(error: Exception) -> str:
    """Keep what an error says on one line, without the place in Lance's source."""
    return " ".join(re.sub(r", /\S+\.rs:\d+:\d+", "", str(error)).split())


def is_lancedbs(error: Exception) -> bool:
    """Whether lancedb raises this; the type that damaged files may bring about cannot be imported."""
    return isinstance(error, (OSError, RuntimeError, ValueError)) or type(error).__name__ == "RustPanic"


@dataclass(frozen=True)
class RowChanges:
    """What became of rows that were in the table.

    Attributes
    ----------
    removed : int64 ``(n,)``
        Stamps of rows that were deleted.
    replaced : bool
        Whether new rows have taken the place of others with the same id.
    """

    removed: npt.NDArray[np.int64] = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    replaced: bool = False


class Table:
    """The rows of one index, opened when they are first needed.

    Parameters
    ----------
    folder : path
        Where LanceDB keeps it.
    dimension : int
        Length of the vectors.
    vectors : int
        How many of them a row has.
    create : bool
        Make a new, empty table.

    Raises
    ------
    IndexFormatError
        By whatever needs the rows, if there is no table to open or its columns are not the ones this version writes.
    """

    def __init__(self, folder: Path, dimension: int, *, vectors: int = 1, create: bool = False) -> None:
        self.folder = folder
        self.shape = vector_shape(dimension, vectors)
        self._changes: dict[int, RowChanges] = {}  # by the version that they made
        if create:
            self._create()

    @_store_errors
    def _create(self) -> None:
        import lancedb

        lancedb.connect(self.folder).create_table(_NAME, schema=table_schema(self.shape))

    @functools.cached_property
    def _table(self) -> LanceTable:
        try:
            table = _connect(self.folder)
        except Exception as error:
            if not is_lancedbs(error):
                raise
            raise IndexFormatError(f"there is no readable table in {self.folder}: {error}") from error
        expected = table_schema(self.shape)
        _bring_up_to_date(table, expected)
        same_vector = table.schema.field("vector").type == expected.field("vector").type
        if set(table.schema.names) != set(expected.names) or not same_vector:
            raise IndexFormatError(
                f"the table in {self.folder} has other columns than this version writes, or vectors of another "
                "dimension or number"
            )
        return table

    @property
    @_store_errors
    def version(self) -> int:
        """Number of the current version; it grows with every commit."""
        newest = None
        if "_table" not in vars(self):  # opening it imports lancedb: nothing has changed in most runs
            newest = newest_version(self.folder / f"{_NAME}.lance")
        return int(self._table.version) if newest is None else newest

    @_store_errors
    def count(self) -> int:
        """Count the rows."""
        return int(self._table.count_rows())

    @_store_errors
    def column(self, name: str) -> pa.ChunkedArray:
        """Read one column of all rows."""
        return self._read([name], None)[name]

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Read all columns of all rows, some thousands at once."""
        reader = self._start_reading()
        while (batch := self._next_batch(reader)) is not None:
            yield batch

    @_store_errors
    def _start_reading(self) -> pa.RecordBatchReader:
        return self._table.search().to_batches(_ROWS_AT_ONCE)

    @_store_errors
    def _next_batch(self, reader: pa.RecordBatchReader) -> pa.RecordBatch | None:
        return next(reader, None)

    @_store_errors
    def stamps(self) -> npt.NDArray[np.int64]:
        """Read the stamps of all rows, ascending."""
        return np.sort(self._read(["stamp"], None)["stamp"].to_numpy())

    @_store_errors
    def rows_from(self, stamp: int) -> pa.Table:
        """Read all columns of the rows stamped `stamp` or later, by ascending stamp."""
        return self._rows(f"stamp >= {stamp}")

    @_store_errors
    def rows_between(self, first: int, last: int) -> pa.Table:
        """Read all columns of the rows stamped from `first` to `last`, by ascending stamp."""
        return self._rows(f"stamp >= {first} AND stamp <= {last}")

    def _rows(self, where: str) -> pa.Table:
        return self._read(list(table_schema(self.shape).names), where).sort_by("stamp")

    def changes_since(self, version: int) -> RowChanges | None:
        """Tell what became of the rows of an earlier version; None if others than this object have changed them."""
        changes = [self._changes.get(number) for number in range(version + 1, self.version + 1)]
        if None in changes:
            return None
        known = [one for one in changes if one is not None]
        empty = np.empty(0, dtype=np.int64)
        return RowChanges(np.concatenate([empty, *(one.removed for one in known)]), any(one.replaced for one in known))

    def _note(self, before: int, changes: RowChanges) -> None:
        """Note what the versions after `before` did to rows."""
        self._changes |= dict.fromkeys(range(before + 1, self.version + 1), changes)

    @_store_errors
    def upsert(self, rows: Sequence[Row]) -> None:
        """Commit rows in one version; a row whose id is in the table replaces the old one.

        Their stamps come from the number of that version, and versions only ever grow: no two rows that
        were ever in the table have the same stamp, whatever was restored meanwhile.
        """
        data = to_arrow(rows, (self.version + 1) * STAMPS_PER_VERSION, self.shape)
        merge: Any = self._table.merge_insert("id")
        merge.when_matched_update_all().when_not_matched_insert_all()
        before = self.version
        result = merge.execute(data, on_bad_vectors="null")
        self._note(before, RowChanges(replaced=result.num_updated_rows > 0))

    @_store_errors
    def delete(self, stamps: Sequence[int]) -> None:
        """Delete rows by their stamps, in one version."""
        before = self.version
        self._table.delete(f"stamp IN ({', '.join(str(int(stamp)) for stamp in stamps)})")
        self._note(before, RowChanges(np.asarray(stamps, dtype=np.int64)))

    @_store_errors
    def scattered(self) -> bool:
        """Tell whether it is time to `compact`: each commit adds a fragment, and reading slows down.

        It rewrites all rows, so that it waits until as many are new as the largest fragment holds.
        """
        stats = self._table.stats()
        fragments = stats["fragment_stats"]
        count, largest = fragments["num_fragments"], fragments["lengths"]["max"]
        return bool(count > _MANY_FRAGMENTS and (2 * largest <= stats["num_rows"] or count > _TOO_MANY_FRAGMENTS))

    @_store_errors
    def compact(self) -> None:
        """Join small fragments, and prune the versions that nobody can restore or is likely to be reading.

        A large table gets indexes that find rows by id and by stamp: without them a commit looks at every row.
        """
        before = self.version
        self._index()
        self._table.optimize(cleanup_older_than=_FOR_EVER)
        limit, prunable = self._prunable()
        if prunable:  # not in one go with joining: the limit would have moved when that is done
            self._table.optimize(cleanup_older_than=datetime.now(UTC) - limit + _MARGIN)
        self._note(before, RowChanges())

    def _index(self) -> None:
        if self._table.count_rows() < _LEAST_INDEXED:
            return
        from lancedb.index import BTree

        indexed = {tuple(one.columns) for one in self._table.list_indices()}
        for name in ("id", "stamp"):
            if (name,) not in indexed:
                self._table.create_index(name, config=BTree())

    @_store_errors
    def keep(self, most: int) -> None:
        """Let the current version be restored some day, and the newest others, `most` in all."""
        if self.version not in self.kept():
            self._table.tags.create(f"{_TAG}{self.version}", self.version)
        for number in self.kept()[:-most]:
            self._table.tags.delete(f"{_TAG}{number}")

    @_store_errors
    def kept(self) -> list[int]:
        """List the numbers of the versions that can be restored, ascending."""
        numbers = (tag.removeprefix(_TAG) for tag in self._table.tags.list() if tag.startswith(_TAG))
        return sorted(int(number) for number in numbers if number.isdecimal())

    @_store_errors
    def versions(self) -> list[Version]:
        """Describe the versions that can be restored, ascending."""
        created = self._created()
        past = _connect(self.folder)
        found = []
        for number in filter(created.__contains__, self.kept()):
            past.checkout(number)
            items = past.count_rows("failure IS NULL")
            found.append(Version(number, created[number].astimezone(), items, past.count_rows() - items))
        return found

    @_store_errors
    def restore(self, version: int) -> None:
        """Commit the rows of an earlier version as a new one."""
        self._table.restore(version)
        self._changes.clear()
        vars(self).pop("_table")  # it may have fewer columns, and opening adds them

    def withdraw_unreadable(self, *, since: int) -> bool:
        """Take back the newest versions, those after `since`, as far as they cannot be read. Hold the write lock.

        On a full disk Lance may commit a version with a file that was cut short. Nobody relies on a version
        before the view is published with it.

        Returns
        -------
        bool
            Whether there was one.
        """
        withdrawn = False
        vars(self).pop("_table", None)
        self._changes.clear()  # the numbers of what is taken back will be used again
        while self.version > since and not self._is_readable():
            (newest,) = (p for p in _manifests(self.folder / f"{_NAME}.lance") if _number(p) == self.version)
            with disk_errors(self.folder):
                newest.unlink()
            vars(self).pop("_table")
            withdrawn = True
        return withdrawn

    def _is_readable(self) -> bool:
        try:
            self.stamps()  # the foot of a file, which names its columns, is what is written last
        except IndexFormatError:
            raise
        except StoreError:
            return False
        return True

    @_store_errors
    def overgrown(self) -> bool:
        """Tell whether so many versions can be pruned that it is time to `compact`."""
        return len(self._prunable()[1]) > _MANY_VERSIONS

    def _prunable(self) -> tuple[datetime, list[int]]:
        """Find what may be pruned: the moment before which every version may go, and their numbers.

        Versions behind the oldest that is tagged stay, although most of them are not: Lance refuses to prune
        around a tag, and where it does not, it loses track of the files (lance-format/lance#8705).
        """
        created = self._created()
        tagged = [created[tag["version"]] for tag in self._table.tags.list().values() if tag["version"] in created]
        limit = min([datetime.now(UTC) - _RETENTION, *tagged])
        return limit, [
            number for number, moment in created.items() if moment < limit - _MARGIN and number < self.version
        ]

    def _created(self) -> dict[int, datetime]:
        return {one["version"]: one["timestamp"].astimezone(UTC) for one in self._table.list_versions()}

    def _read(self, columns: list[str] | None, where: str | None) -> pa.Table:
        query = self._table.search()
        if columns is not None:
            query = query.select(columns)
        if where is not None:
            query = query.where(where)
        return query.to_arrow()


def _connect(folder: Path) -> LanceTable:
    import lancedb

    return lancedb.connect(folder).open_table(_NAME)


def _bring_up_to_date(table: LanceTable, expected: pa.Schema) -> None:
    """Add, in a new version, the columns that tables of an older mmrag lack: what they have is not known."""
    known = set(table.schema.names)
    missing = [field for field in expected if field.name not in known and field.nullable]
    if missing and "stamp" in known:
        table.add_columns(pa.schema(missing))


def _manifests(dataset: Path) -> list[Path]:
    return list((dataset / "_versions").glob("*.manifest"))


def _number(manifest: Path) -> int:
    number = int(manifest.stem)
    return _MOST_VERSIONS - number if len(manifest.stem) == _BACKWARDS_DIGITS else number


def newest_version(dataset: Path) -> int | None:
    """Read the newest version of a Lance dataset from the names of its manifests.

    Lance names them so that the newest comes first in a listing, ``{2**64 - 1 - version:020}.manifest``, or
    plainly ``{version}.manifest`` in datasets that an older one made.

    Returns
    -------
    int or None
        None if there is no manifest, or a name that says something else.
    """
    try:
        names = [name for name in os.listdir(dataset / "_versions") if name.endswith(".manifest")]
    except OSError:
        return None
    numbers = [name.removesuffix(".manifest") for name in names]
    if not numbers or not all(number.isdecimal() and number.isascii() for number in numbers):
        return None
    backwards = {len(number) == _BACKWARDS_DIGITS for number in numbers}
    if len(backwards) > 1:  # half of them renamed
        return None
    versions = map(int, numbers)
    return _MOST_VERSIONS - min(versions) if backwards.pop() else max(versions)
