"""Views: derived, rebuildable copies of the table that make search fast.

A view is a list of immutable segments plus deletions, named by one small file, ``view.json``, that
is replaced in one step. A segment holds unit vectors (``.npy``) and the columns that hits and checks
of files need (``.arrow``), both memory-mapped. Rows that have a vector come first in a segment.
"""

from __future__ import annotations

import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mmrag.errors import IndexFormatError
from mmrag.roles import Vectors
from mmrag.stores.files import disk_errors, read_json, sync_to_disk, write_json
from mmrag.stores.rows import COLUMNS
from mmrag.stores.table import Table

FORMAT = 1

Refs = npt.NDArray[np.int64]

SEGMENT_SHIFT = 40  # a ref is (segment << 40) | row


@dataclass(frozen=True)
class Segment:
    """An immutable run of rows.

    Attributes
    ----------
    name : str
        Stem of its files.
    vectors : float32 ``(searchable, dimension)``
        Of the first rows; the rows behind them failed and have none.
    columns : pyarrow table
        All rows.
    deleted : int64 ``(m,)``
        Positions of rows that are no longer in the table, ascending.
    deletions : str
        Name of the file that lists them, or empty.
    """

    name: str
    vectors: Vectors
    columns: pa.Table
    deleted: Refs
    deletions: str = ""

    @classmethod
    def open(cls, folder: Path, *, name: str, deletions: str, dimension: int) -> Segment:
        """Map a segment's files into memory."""
        with pa.memory_map(str(folder / f"{name}.arrow")) as source:
            columns = pa.ipc.open_file(source).read_all()
        path = folder / f"{name}.npy"
        vectors = np.load(path, mmap_mode="r") if path.exists() else np.empty((0, dimension), dtype=np.float32)
        deleted = np.load(folder / deletions) if deletions else np.empty(0, dtype=np.int64)
        return cls(name, vectors, columns, deleted, deletions)

    @cached_property
    def stamps(self) -> npt.NDArray[np.int64]:
        """Of all rows, deleted ones too."""
        return np.asarray(self.columns["stamp"].to_numpy(), dtype=np.int64)

    @cached_property
    def alive(self) -> npt.NDArray[np.bool_]:
        """Which rows are still in the table."""
        mask = np.ones(self.columns.num_rows, dtype=bool)
        mask[self.deleted] = False
        return mask


@dataclass(frozen=True)
class Candidates:
    """What a view found for several queries.

    Attributes
    ----------
    scores : float32 ``(queries, m)``
        Cosines, descending.
    refs : int64 ``(queries, m)``
        Which rows, for `View.records`.
    """

    scores: Vectors
    refs: Refs


class View(ABC):
    """A snapshot of the table, ready to be searched. Immutable: `sync` returns a new one.

    Parameters
    ----------
    folder : path
        Where its files are.
    dimension : int
        Length of the vectors.
    """

    kind: ClassVar[str]

    def __init__(self, folder: Path, dimension: int, *, table_version: int, segments: Sequence[Segment]) -> None:
        self.folder = folder
        self.dimension = dimension
        self.table_version = table_version
        self.segments = tuple(segments)

    @abstractmethod
    def search(self, query_vectors: Vectors, k: int) -> Candidates:
        """Find the rows most similar to each query.

        Parameters
        ----------
        query_vectors : float32 ``(queries, dimension)``
            Of unit length.
        k : int
            How many for each; fewer come back if the view holds fewer.
        """

    @classmethod
    def open(cls, folder: Path, dimension: int) -> Self:
        """Open the published view in `folder`; one that was never published is empty.

        Raises
        ------
        IndexFormatError
            If it is damaged or of another format.
        """
        for attempt in range(3):
            try:
                state = read_json(folder / "view.json")
            except FileNotFoundError:
                return cls(folder, dimension, table_version=0, segments=[])
            if state.get("format") != FORMAT or state.get("dimension") != dimension:
                raise IndexFormatError(f"the view in {folder} has another format; delete the folder and index again")
            try:
                segments = [Segment.open(folder, **s, dimension=dimension) for s in state["segments"]]
            except FileNotFoundError as error:  # a writer published a newer view meanwhile
                if attempt == 2:
                    raise IndexFormatError(f"{error.filename} is missing; delete {folder} and index again") from error
                continue
            except (OSError, ValueError, pa.ArrowInvalid) as error:
                raise IndexFormatError(
                    f"the view in {folder} is damaged ({error}); delete it and index again"
                ) from error
            return cls(folder, dimension, table_version=state["table_version"], segments=segments)
        raise AssertionError("unreachable")

    @property
    def published(self) -> bool:
        """Whether there was ever a view to open."""
        return self.table_version > 0

    def __len__(self) -> int:
        """How many rows can be found."""
        return sum(int(s.alive[: len(s.vectors)].sum()) for s in self.segments)

    def records(self, refs: Sequence[int]) -> list[dict[str, Any]]:
        """Read the columns of some rows, as dictionaries."""
        found = []
        for ref in refs:
            segment, row = self._locate(ref)
            found.append(segment.columns.slice(row, 1).to_pylist()[0])
        return found

    def vector(self, ref: int) -> Vectors:
        """Read one row's vector, ``(dimension,)``."""
        segment, row = self._locate(ref)
        return np.array(segment.vectors[row])

    def scan(self, names: Sequence[str]) -> Iterator[tuple[Any, ...]]:
        """Go through all rows: for each, its ref and then the values of the columns `names`."""
        for number, segment in enumerate(self.segments):
            columns = [segment.columns[name].to_pylist() for name in names]
            first = number << SEGMENT_SHIFT
            for row in np.flatnonzero(segment.alive).tolist():
                yield (first | row, *(column[row] for column in columns))

    def last_stamp(self) -> int:
        """Find the highest stamp in this view, 0 if there is none."""
        return max((int(s.stamps.max()) for s in self.segments if len(s.stamps)), default=0)

    def sync(self, table: Table) -> Self:
        """Bring the view to the table's current version and publish it.

        New rows become a segment, which takes in its smaller neighbours: there are O(log n)
        segments, and a row is rewritten O(log n) times.
        """
        if self.table_version == table.version:
            return self
        live = table.stamps()
        with disk_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            segments = [self._without_dead(segment, live) for segment in self.segments]
            seen = np.concatenate([np.empty(0, np.int64), *(s.stamps for s in self.segments)])
            fresh = live[~np.isin(live, seen)]
            if len(fresh):
                rows = table.rows_from(int(fresh[0]))
                segments = self._with_fresh(segments, _Part.of_table(rows, fresh, self.dimension))
            return self._publish(segments, table.version)

    def _locate(self, ref: int) -> tuple[Segment, int]:
        return self.segments[int(ref) >> SEGMENT_SHIFT], int(ref) & ((1 << SEGMENT_SHIFT) - 1)

    def _without_dead(self, segment: Segment, live: npt.NDArray[np.int64]) -> Segment:
        deleted = np.flatnonzero(~np.isin(segment.stamps, live))
        if len(deleted) == len(segment.deleted):
            return segment
        deletions = f"{segment.name}-{uuid.uuid4().hex[:8]}.deleted.npy"
        np.save(self.folder / deletions, deleted)
        sync_to_disk(self.folder / deletions)
        return replace(segment, deleted=deleted, deletions=deletions)

    def _with_fresh(self, segments: list[Segment], fresh: _Part) -> list[Segment]:
        kept = [s for s in segments if s.alive.sum() * 2 > len(s.alive)]
        parts = [_Part.of_segment(s) for s in segments if s.alive.sum() * 2 <= len(s.alive)]
        size = len(fresh) + sum(map(len, parts))
        while kept and len(kept[-1].alive) <= 2 * size:
            parts.insert(0, _Part.of_segment(kept.pop()))
            size += len(parts[0])
        return [*kept, self._write_segment([*parts, fresh])]

    def _write_segment(self, parts: Sequence[_Part]) -> Segment:
        name = uuid.uuid4().hex[:12]
        columns = pa.concat_tables(
            [part.columns.filter(part.searchable) for part in parts]
            + [part.columns.filter(~part.searchable) for part in parts]
        ).combine_chunks()
        with (
            pa.OSFile(str(self.folder / f"{name}.arrow"), "wb") as sink,
            pa.ipc.new_file(sink, COLUMNS) as writer,
        ):
            writer.write_table(columns)
        sync_to_disk(self.folder / f"{name}.arrow")
        searchable = sum(int(part.searchable.sum()) for part in parts)
        if searchable:
            path = self.folder / f"{name}.npy"
            shape = (searchable, self.dimension)
            file = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
            start = 0
            for part in parts:
                stop = start + int(part.searchable.sum())
                file[start:stop] = part.vectors
                start = stop
            file.flush()
            del file
            sync_to_disk(path)
        return Segment.open(self.folder, name=name, deletions="", dimension=self.dimension)

    def _publish(self, segments: Sequence[Segment], table_version: int) -> Self:
        segments = [segment for segment in segments if segment.alive.any()]
        listed = [{"name": s.name, "deletions": s.deletions} for s in segments]
        write_json(
            self.folder / "view.json",
            {
                "format": FORMAT,
                "table_version": table_version,
                "dimension": self.dimension,
                "segments": listed,
            },
        )
        wanted = {"view.json", *(s.deletions for s in segments)}
        wanted |= {f"{s.name}{suffix}" for s in segments for suffix in (".npy", ".arrow")}
        for path in self.folder.iterdir():
            if path.name not in wanted:
                path.unlink()
        return type(self)(self.folder, self.dimension, table_version=table_version, segments=segments)


@dataclass(frozen=True)
class _Part:
    """Rows on their way into a segment; `vectors` holds those of the searchable rows, in order."""

    columns: pa.Table
    searchable: npt.NDArray[np.bool_]
    vectors: Vectors

    def __len__(self) -> int:
        return int(self.columns.num_rows)

    @classmethod
    def of_segment(cls, segment: Segment) -> _Part:
        rows = np.flatnonzero(segment.alive)
        searchable = rows < len(segment.vectors)
        return cls(segment.columns.take(rows), searchable, segment.vectors[rows[searchable]])

    @classmethod
    def of_table(cls, rows: pa.Table, stamps: npt.NDArray[np.int64], dimension: int) -> _Part:
        rows = rows.filter(np.isin(rows["stamp"].to_numpy(), stamps))
        searchable = rows["vector"].is_valid().to_numpy()
        vectors = rows.filter(searchable)["vector"].combine_chunks().flatten().to_numpy()
        columns = rows.select(COLUMNS.names).cast(COLUMNS)
        return cls(columns, searchable, vectors.reshape(-1, dimension))
