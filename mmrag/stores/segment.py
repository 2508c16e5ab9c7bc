"""Segments: immutable runs of rows, as files that are mapped into memory.

A segment holds unit vectors (``.npy``), the columns that hits and checks of files need (``.arrow``) and the facts
that filters ask for (``.facts``); a large one also a copy of the vectors in bytes (``.i8``). Rows that have a vector
come first.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from tokenize import TokenError  # numpy parses the head of a file as Python
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mmrag.errors import IndexFormatError, StoreError
from mmrag.roles import Vectors
from mmrag.stores.codes import Codes, write_codes
from mmrag.stores.facts import as_said, facts_of, joint_schema
from mmrag.stores.files import sync_to_disk
from mmrag.stores.rows import COLUMNS, from_lists

Refs = npt.NDArray[np.int64]

SUFFIXES = (".npy", ".arrow", ".facts", ".i8")
"""Of the files of a segment."""

LEAST_CODED = 100_000
"""Segments of as many rows that have one vector keep a copy of them in bytes; small ones are searched at once."""

_ROWS_AT_ONCE = 1 << 14


@dataclass(frozen=True)
class SegmentState:
    """What ``view.json`` says of a segment.

    Attributes
    ----------
    name : str
        Stem of its files.
    searchable : int
        How many of its rows have a vector.
    deletions : str
        Name of the file that lists deleted rows, or empty.
    built : dict of str to int
        Suffixes of the files that a view has built beside them, each with the CRC-32 of what must not be read if it is
        damaged, or 0.
    """

    name: str
    searchable: int
    deletions: str = ""
    built: dict[str, int] = field(default_factory=dict)


class SoundTable:
    """The columns of a table, each after a look at all its values: text that is none can end the process.

    Of a million rows, a search needs a column or two, and the look at all of them takes longer than the search.

    Parameters
    ----------
    table : pyarrow table
        As it was mapped into memory.
    """

    def __init__(self, table: pa.Table) -> None:
        self._table = table
        self._seen: dict[str, pa.ChunkedArray] = {}

    def __getitem__(self, name: str) -> pa.ChunkedArray:
        """Look at one column."""
        if name not in self._seen:
            column = self._table[name]
            column.validate(full=True)
            self._seen[name] = column
        return self._seen[name]

    def select(self, names: Sequence[str]) -> pa.Table:
        """Look at some columns."""
        return pa.table({name: self[name] for name in names})

    @cached_property
    def whole(self) -> pa.Table:
        """Look at all columns."""
        self._table.validate(full=True)
        return self._table


@dataclass(frozen=True)
class Segment:
    """An immutable run of rows.

    Attributes
    ----------
    state : SegmentState
        Its files.
    vectors : float32 ``(searchable, dimension)`` or ``(searchable, vectors, dimension)``
        Of the first rows; the rows behind them failed and have none.
    columns : pyarrow table
        All rows.
    facts : pyarrow table
        All rows: what their metadata says, a column for each name, as `mmrag.stores.facts` makes them.
    deleted : int64 ``(m,)``
        Positions of rows that are no longer in the table, ascending.
    codes : Codes or None
        The vectors in bytes, where that is worth it.
    """

    state: SegmentState
    vectors: Vectors
    columns: pa.Table
    facts: pa.Table
    deleted: Refs
    codes: Codes | None = None

    @classmethod
    def open(cls, folder: Path, state: SegmentState, shape: tuple[int, ...]) -> Segment:
        """Map a segment's files into memory."""
        columns = _read_arrow(folder / f"{state.name}.arrow")
        facts = _read_arrow(folder / f"{state.name}.facts")
        vectors = np.empty((0, *shape), dtype=np.float32)
        if state.searchable:
            vectors = np.load(folder / f"{state.name}.npy", mmap_mode="r")
        deleted = np.load(folder / state.deletions) if state.deletions else np.empty(0, dtype=np.int64)
        as_said = vectors.shape == (state.searchable, *shape) and vectors.dtype == "<f4"
        whole = columns.num_rows == facts.num_rows >= state.searchable
        if not as_said or not whole or columns.schema != COLUMNS:
            raise ValueError(f"{state.name} has other vectors or rows than view.json says")
        if deleted.dtype != np.int64 or deleted.min(initial=0) < 0 or deleted.max(initial=-1) >= columns.num_rows:
            raise ValueError(f"{state.deletions} names rows that {state.name} does not have")
        in_bytes = folder / f"{state.name}.i8"
        codes = Codes.open(in_bytes) if in_bytes.exists() else None
        if codes is not None and codes.codes.shape != vectors.shape:
            raise ValueError(f"{in_bytes.name} has other vectors than {state.name}")
        return cls(state, vectors, columns, facts, deleted, codes)

    @property
    def is_compact(self) -> bool:
        """Whether writing it again would change nothing."""
        return not len(self.deleted) and (self.codes is not None) == _is_coded(self.vectors.shape)

    @cached_property
    def sound_columns(self) -> SoundTable:
        """The columns, after a look at every value of those that are read."""
        return SoundTable(self.columns)

    @cached_property
    def sound_facts(self) -> SoundTable:
        """The facts, after the same look."""
        return SoundTable(self.facts)

    @cached_property
    def stamps(self) -> npt.NDArray[np.int64]:
        """Of all rows, deleted ones too."""
        return np.asarray(self.columns["stamp"].to_numpy(), dtype=np.int64)

    @cached_property
    def texts(self) -> npt.NDArray[np.bool_]:
        """Which of the rows that have a vector are texts."""
        import pyarrow.compute as pc

        from mmrag.stores.arrow import array_of, to_numpy

        modalities = self.sound_columns["modality"].slice(0, len(self.vectors))
        return to_numpy(pc.equal(modalities, array_of(["text"], pa.string())[0]).combine_chunks())

    @cached_property
    def alive(self) -> npt.NDArray[np.bool_]:
        """Which rows are still in the table."""
        mask = np.ones(self.columns.num_rows, dtype=bool)
        mask[self.deleted] = False
        return mask


@contextmanager
def damage_told(folder: Path) -> Iterator[None]:
    """Turn what reading the damaged files of a view raises into one clear line."""
    try:
        yield
    except StoreError:
        raise
    except (OSError, ValueError, EOFError, MemoryError, SyntaxError, TokenError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())
        raise IndexFormatError(f"the view in {folder} is damaged ({reason}); mmrag check mends it") from error


def read_record(segment: Segment, row: int) -> dict[str, Any]:
    """Read the columns of one row, without a look at any other."""
    columns = segment.columns.slice(row, 1)
    columns.validate(full=True)
    found: dict[str, Any] = columns.to_pylist()[0]
    return found


@dataclass(frozen=True)
class Part:
    """Rows on their way into a segment, read from where they are as they are written.

    Attributes
    ----------
    columns, facts : pyarrow table
        Of these rows and maybe of others.
    vectors : float32 ``(m, *shape)``
        Of the first rows.
    rows : int64 ``(n,)``
        Which rows are meant, ascending.
    """

    columns: pa.Table
    facts: pa.Table
    vectors: Vectors
    rows: Refs

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def searchable(self) -> Refs:
        """Which of the rows have a vector."""
        return self.rows[self.rows < len(self.vectors)]

    @property
    def failed(self) -> Refs:
        """Which of the rows have none."""
        return self.rows[self.rows >= len(self.vectors)]

    @classmethod
    def of_segment(cls, segment: Segment) -> Part:
        """Take the rows of a segment that are still in the table."""
        return cls(
            segment.sound_columns.whole, segment.sound_facts.whole, segment.vectors, np.flatnonzero(segment.alive)
        )

    @classmethod
    def of_table(cls, rows: pa.Table, shape: tuple[int, ...]) -> Part:
        """Take rows as they were read from the table."""
        has_vector = rows["vector"].is_valid()
        rows = pa.concat_tables([rows.filter(has_vector), rows.filter(rows["vector"].is_null())])
        vectors = from_lists(rows["vector"].combine_chunks(), shape)
        columns = rows.select(COLUMNS.names).cast(COLUMNS)
        return cls(columns, facts_of(columns["metadata"]), vectors, np.arange(len(columns)))


def write_segment(folder: Path, parts: Sequence[Part], shape: tuple[int, ...]) -> Segment:
    """Write rows into a new segment, block by block: those that have a vector first."""
    name = uuid.uuid4().hex[:12]
    runs = [(part, part.searchable) for part in parts] + [(part, part.failed) for part in parts]
    _write_arrow(
        folder / f"{name}.arrow", COLUMNS, (block for part, rows in runs for block in _taken(part.columns, rows))
    )
    facts = joint_schema([part.facts for part in parts])
    blocks = (
        as_said(block, about["metadata"], facts)
        for part, rows in runs
        for block, about in zip(_taken(part.facts, rows), _taken(part.columns, rows), strict=True)
    )
    _write_arrow(folder / f"{name}.facts", facts, blocks)
    searchable = sum(len(part.searchable) for part in parts)
    if searchable:
        _write_vectors(folder / f"{name}.npy", parts, (searchable, *shape))
    if _is_coded((searchable, *shape)):
        write_codes(folder / f"{name}.i8", np.load(folder / f"{name}.npy", mmap_mode="r"))
    return Segment.open(folder, SegmentState(name, searchable), shape)


def _is_coded(shape: tuple[int, ...]) -> bool:
    return len(shape) == 2 and shape[0] >= LEAST_CODED


def _taken(table: pa.Table, rows: Refs) -> Iterator[pa.Table]:
    """Take rows out of a table that may be larger than the memory."""
    for chosen in _blocks(rows):
        first, last = int(chosen[0]), int(chosen[-1])
        near = table.slice(first, last + 1 - first)
        yield near if len(near) == len(chosen) else near.take(chosen - first)


def _blocks(rows: Refs) -> Iterator[Refs]:
    return (rows[start : start + _ROWS_AT_ONCE] for start in range(0, len(rows), _ROWS_AT_ONCE))


def _write_vectors(path: Path, parts: Sequence[Part], shape: tuple[int, ...]) -> None:
    """Write an ``.npy`` file piece by piece; through a memory map, a full disk would end the process."""
    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for part in parts:
            for chosen in _blocks(part.searchable):
                file.write(np.ascontiguousarray(part.vectors[chosen], dtype="<f4").data)
    sync_to_disk(path)


def _write_arrow(path: Path, schema: pa.Schema, blocks: Iterator[pa.Table]) -> None:
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        for block in blocks:
            writer.write_table(block.combine_chunks())
    sync_to_disk(path)


def _read_arrow(path: Path) -> pa.Table:
    with pa.memory_map(str(path)) as source:
        table = pa.ipc.open_file(source).read_all()
    table.validate()
    return table
