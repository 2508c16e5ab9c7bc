"""The Lance table: one row per item, every commit an ACID version. The only truth."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mmrag.errors import IndexFormatError, StoreError
from mmrag.stores.files import disk_errors
from mmrag.stores.rows import Row, table_schema, to_arrow

if TYPE_CHECKING:
    from lancedb.table import Table as LanceTable

P = ParamSpec("P")
R = TypeVar("R")

STAMPS_PER_VERSION = 1 << 24

_NAME = "items"
_MOST_VERSIONS = 2**64 - 1
_BACKWARDS_DIGITS = 20


def _store_errors(method: Callable[Concatenate[Table, P], R]) -> Callable[Concatenate[Table, P], R]:
    @functools.wraps(method)
    def wrapper(self: Table, /, *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return method(self, *args, **kwargs)
        except (OSError, RuntimeError, ValueError) as error:  # what lancedb raises
            raise StoreError(
                f"the table in {self.folder} failed: {error}. The last committed version is kept"
            ) from error

    return wrapper


class Table:
    """The rows of one index, opened when they are first needed.

    Parameters
    ----------
    folder : path
        Where LanceDB keeps it.
    dimension : int
        Length of the vectors.
    create : bool
        Make a new, empty table.

    Raises
    ------
    IndexFormatError
        By whatever needs the rows, if there is no table to open or its columns are not the ones this version writes.
    """

    def __init__(self, folder: Path, dimension: int, *, create: bool = False) -> None:
        self.folder = folder
        self.dimension = dimension
        if create:
            import lancedb

            with disk_errors(folder):
                lancedb.connect(folder).create_table(_NAME, schema=table_schema(dimension))

    @functools.cached_property
    def _table(self) -> LanceTable:
        import lancedb

        try:
            table = lancedb.connect(self.folder).open_table(_NAME)
        except (OSError, RuntimeError, ValueError) as error:
            raise IndexFormatError(f"there is no readable table in {self.folder}: {error}") from error
        if table.schema.names != table_schema(self.dimension).names:
            raise IndexFormatError(f"the table in {self.folder} has other columns than this version writes")
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
    def fragments(self) -> int:
        """Count the files that the rows are spread over; each commit adds one."""
        return int(self._table.stats()["fragment_stats"]["num_fragments"])

    @_store_errors
    def stamps(self) -> npt.NDArray[np.int64]:
        """Read the stamps of all rows, ascending."""
        return np.sort(self._read(["stamp"], None)["stamp"].to_numpy())

    @_store_errors
    def rows_from(self, stamp: int) -> pa.Table:
        """Read all columns of the rows stamped `stamp` or later, by ascending stamp."""
        return self._read(None, f"stamp >= {stamp}").sort_by("stamp")

    @_store_errors
    def upsert(self, rows: Sequence[Row]) -> None:
        """Commit rows in one version; a row whose id is in the table replaces the old one.

        Their stamps come from the number of that version, and versions only ever grow: no two rows that
        were ever in the table have the same stamp, whatever was restored meanwhile.
        """
        data = to_arrow(rows, (self.version + 1) * STAMPS_PER_VERSION, self.dimension)
        merge: Any = self._table.merge_insert("id")
        merge.when_matched_update_all().when_not_matched_insert_all()
        merge.execute(data, on_bad_vectors="null")

    @_store_errors
    def delete(self, stamps: Sequence[int]) -> None:
        """Delete rows by their stamps, in one version."""
        self._table.delete(f"stamp IN ({', '.join(str(int(stamp)) for stamp in stamps)})")

    @_store_errors
    def compact(self) -> None:
        """Join small fragments, so that reading does not slow down as commits pile up."""
        self._table.optimize()

    def _read(self, columns: list[str] | None, where: str | None) -> pa.Table:
        query = self._table.search()
        if columns is not None:
            query = query.select(columns)
        if where is not None:
            query = query.where(where)
        return query.to_arrow()


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
