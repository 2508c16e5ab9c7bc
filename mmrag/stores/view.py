"""Views: derived, rebuildable copies of the table that make search fast.

A view is a list of immutable segments plus deletions, named by one small file, ``view.json``, that
is replaced in one step. A segment holds unit vectors (``.npy``) and the columns that hits and checks
of files need (``.arrow``), both memory-mapped. Rows that have a vector come first in a segment.
"""

from __future__ import annotations

import itertools
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from tokenize import TokenError  # numpy parses the head of a file as Python
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mmrag.errors import IndexFormatError, StoreError
from mmrag.recipe import build
from mmrag.roles import Vectors
from mmrag.similarity import vector_shape
from mmrag.stores.files import disk_errors, read_json, sync_to_disk, write_json
from mmrag.stores.rows import COLUMNS, from_lists
from mmrag.stores.table import Table

FORMAT = 1

Refs = npt.NDArray[np.int64]

SEGMENT_SHIFT = 40  # a ref is (segment << 40) | row

_FEW = 64


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
    """

    name: str
    searchable: int
    deletions: str = ""


@dataclass(frozen=True)
class ViewState:
    """What ``view.json`` says."""

    format: int
    table_version: int
    dimension: int
    segments: tuple[SegmentState, ...] = ()


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
    deleted : int64 ``(m,)``
        Positions of rows that are no longer in the table, ascending.
    """

    state: SegmentState
    vectors: Vectors
    columns: pa.Table
    deleted: Refs

    @classmethod
    def open(cls, folder: Path, state: SegmentState, shape: tuple[int, ...]) -> Segment:
        """Map a segment's files into memory."""
        with pa.memory_map(str(folder / f"{state.name}.arrow")) as source:
            columns = pa.ipc.open_file(source).read_all()
        columns.validate()
        vectors = np.empty((0, *shape), dtype=np.float32)
        if state.searchable:
            vectors = np.load(folder / f"{state.name}.npy", mmap_mode="r")
        deleted = np.load(folder / state.deletions) if state.deletions else np.empty(0, dtype=np.int64)
        as_said = vectors.shape == (state.searchable, *shape) and vectors.dtype == "<f4"
        if not as_said or columns.num_rows < state.searchable or columns.schema != COLUMNS:
            raise ValueError(f"{state.name} has other vectors or rows than view.json says")
        if deleted.dtype != np.int64 or deleted.min(initial=0) < 0 or deleted.max(initial=-1) >= columns.num_rows:
            raise ValueError(f"{state.deletions} names rows that {state.name} does not have")
        return cls(state, vectors, columns, deleted)

    @cached_property
    def sound_columns(self) -> pa.Table:
        """The columns, after a look at every value: reading text where there is none can end the process."""
        self.columns.validate(full=True)
        return self.columns

    @cached_property
    def stamps(self) -> npt.NDArray[np.int64]:
        """Of all rows, deleted ones too."""
        return np.asarray(self.columns["stamp"].to_numpy(), dtype=np.int64)

    @cached_property
    def texts(self) -> npt.NDArray[np.bool_]:
        """Which of the rows that have a vector are texts."""
        import pyarrow.compute as pc

        modalities = self.sound_columns["modality"].slice(0, len(self.vectors))
        return np.asarray(pc.equal(modalities, "text").to_numpy(), dtype=bool)

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
    shape : tuple of int
        Of an item's vectors: ``(dimension,)``, or ``(vectors, dimension)``.
    """

    kind: ClassVar[str]

    def __init__(
        self, folder: Path, shape: tuple[int, ...], *, table_version: int, segments: Sequence[Segment]
    ) -> None:
        self.folder = folder
        self.shape = shape
        self.table_version = table_version
        self.segments = tuple(segments)

    @abstractmethod
    def search(self, query_vectors: Vectors, k: int) -> Candidates:
        """Find the rows most similar to each query.

        Parameters
        ----------
        query_vectors : float32 ``(queries, dimension)`` or ``(queries, vectors, dimension)``
            Of unit length; scored as `mmrag.similarity.cosines` says.
        k : int
            How many for each; fewer come back if the view holds fewer.
        """

    @classmethod
    def open(cls, folder: Path, dimension: int, *, vectors: int = 1) -> Self:
        """Open the published view in `folder`; one that was never published, or in another format, is empty.

        Parameters
        ----------
        folder : path
            Where its files are.
        dimension : int
            Length of the vectors.
        vectors : int
            How many of them a row has.

        Raises
        ------
        IndexFormatError
            If it is damaged.
        """
        attempts, shape = 3, vector_shape(dimension, vectors)
        while True:
            with damage_told(folder):
                state = _read_state(folder, dimension)
                try:
                    segments = [Segment.open(folder, one, shape) for one in state.segments]
                except FileNotFoundError:
                    attempts -= 1
                    if not attempts:
                        raise
                    continue  # a writer has published a newer view meanwhile
            return cls(folder, shape, table_version=state.table_version, segments=segments)

    @property
    def published(self) -> bool:
        """Whether there was a view to open."""
        return self.table_version > 0

    def __len__(self) -> int:
        """How many rows can be found."""
        return sum(int(s.alive[: len(s.vectors)].sum()) for s in self.segments)

    def records(self, refs: Sequence[int]) -> list[dict[str, Any]]:
        """Read the columns of some rows, as dictionaries."""
        located = [self._locate(ref) for ref in refs]
        found: dict[int, dict[str, Any]] = {}
        with damage_told(self.folder):
            if len(located) <= _FEW:  # taking rows imports pyarrow.compute, which costs a cold search 20 ms
                return [_record(segment, row) for segment, row in located]
            for segment in self.segments:
                positions = [n for n, (owner, _) in enumerate(located) if owner is segment]
                taken = segment.sound_columns.take([located[n][1] for n in positions]).to_pylist()
                found |= dict(zip(positions, taken, strict=True))
        return [found[n] for n in range(len(located))]

    def find(self, column: str, values: Sequence[str]) -> list[int]:
        """Find the refs of the rows whose `column` is one of `values`."""
        import pyarrow.compute as pc

        refs: list[int] = []
        for number, segment in enumerate(self.segments):
            with damage_told(self.folder):
                matching = pc.is_in(segment.sound_columns[column], value_set=pa.array(values, pa.string())).to_numpy()
            rows = np.flatnonzero(matching & segment.alive)
            refs += (rows | (number << SEGMENT_SHIFT)).tolist()
        return refs

    def find_below(self, uris: Sequence[str]) -> list[int]:
        """Find the refs of the rows whose uri is one of `uris`, or that of something in such a folder."""
        import pyarrow.compute as pc

        refs = set(self.find("uri", uris))
        for number, segment in enumerate(self.segments):
            with damage_told(self.folder):
                column = segment.sound_columns["uri"]
            matching = np.zeros(len(segment.alive), dtype=bool)
            for uri in uris:
                matching |= pc.starts_with(column, f"{uri.rstrip('/')}/").to_numpy()
            refs.update((np.flatnonzero(matching & segment.alive) | (number << SEGMENT_SHIFT)).tolist())
        return sorted(refs)

    def vector(self, ref: int) -> Vectors:
        """Read what one row was embedded into, ``(dimension,)`` or ``(vectors, dimension)``."""
        segment, row = self._locate(ref)
        return np.array(segment.vectors[row])

    def scan(self, names: Sequence[str], refs: Iterable[int] | None = None) -> Iterator[tuple[Any, ...]]:
        """Go through all rows, or those with `refs`: for each, its ref and then the values of the columns `names`."""
        if refs is not None:
            chosen = list(dict.fromkeys(refs))
            for ref, record in zip(chosen, self.records(chosen), strict=True):
                yield (ref, *(record[name] for name in names))
            return
        for number, segment in enumerate(self.segments):
            with damage_told(self.folder):
                columns = [segment.sound_columns[name].to_pylist() for name in names]
            first = number << SEGMENT_SHIFT
            rows = zip(range(first, first + len(segment.alive)), *columns, strict=True)
            yield from itertools.compress(rows, segment.alive.tolist())

    def leftovers(self) -> list[Path]:
        """List the files in its folder that are not its own: older ones, and what an interrupted writer left."""
        states = [segment.state for segment in self.segments]
        own = {"view.json", *(state.deletions for state in states)}
        own |= {f"{state.name}{suffix}" for state in states for suffix in (".npy", ".arrow")}
        return [path for path in self.folder.iterdir() if path.name not in own]

    def sync(self, table: Table) -> Self:
        """Bring the view to the table's current version and publish it.

        New rows become a segment, which takes in its smaller neighbours: there are O(log n)
        segments, and a row is rewritten O(log n) times.
        """
        if self.table_version == table.version:
            return self
        live = table.stamps()
        with damage_told(self.folder), disk_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            segments = [self._without_dead(segment, live) for segment in self.segments]
            seen = np.concatenate([np.empty(0, np.int64), *(s.stamps for s in self.segments)])
            fresh = live[~np.isin(live, seen)]
            if len(fresh):
                rows = table.rows_from(int(fresh[0]))
                segments = self._with_fresh(segments, _Part.of_table(rows, fresh, self.shape))
            return self._publish(segments, table.version)

    def _locate(self, ref: int) -> tuple[Segment, int]:
        return self.segments[int(ref) >> SEGMENT_SHIFT], int(ref) & ((1 << SEGMENT_SHIFT) - 1)

    def _without_dead(self, segment: Segment, live: npt.NDArray[np.int64]) -> Segment:
        deleted = np.flatnonzero(~np.isin(segment.stamps, live))
        if np.array_equal(deleted, segment.deleted):  # as many may be others: rows come back, too
            return segment
        deletions = f"{segment.state.name}-{uuid.uuid4().hex[:8]}.deleted.npy"
        np.save(self.folder / deletions, deleted)
        sync_to_disk(self.folder / deletions)
        return replace(segment, deleted=deleted, state=replace(segment.state, deletions=deletions))

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
            _write_vectors(self.folder / f"{name}.npy", [part.vectors for part in parts], self.shape)
        return Segment.open(self.folder, SegmentState(name, searchable), self.shape)

    def _publish(self, segments: Sequence[Segment], table_version: int) -> Self:
        segments = [segment for segment in segments if segment.alive.any()]
        state = ViewState(FORMAT, table_version, self.shape[-1], tuple(segment.state for segment in segments))
        write_json(self.folder / "view.json", asdict(state))
        view = type(self)(self.folder, self.shape, table_version=table_version, segments=segments)
        for path in view.leftovers():
            path.unlink()
        return view


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


def _read_state(folder: Path, dimension: int) -> ViewState:
    """Read ``view.json``; where there is none in today's format, the view is empty, and the table fills it."""
    try:
        data = read_json(folder / "view.json")
    except FileNotFoundError:
        return ViewState(FORMAT, 0, dimension)
    except IndexFormatError as error:
        raise ValueError(error) from error
    found = data.get("format") if isinstance(data, dict) else None
    if isinstance(found, int) and found != FORMAT:
        return ViewState(FORMAT, 0, dimension)
    state = build(ViewState, data, where="view.json")
    if state.dimension != dimension:
        raise ValueError(f"view.json: vectors have {state.dimension} dimensions, not {dimension}")
    return state


def _record(segment: Segment, row: int) -> dict[str, Any]:
    columns = segment.columns.slice(row, 1)
    columns.validate(full=True)
    found: dict[str, Any] = columns.to_pylist()[0]
    return found


def _write_vectors(path: Path, parts: Sequence[Vectors], row_shape: tuple[int, ...]) -> None:
    """Write an ``.npy`` file piece by piece; through a memory map, a full disk would end the process."""
    shape = (sum(len(part) for part in parts), *row_shape)
    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for part in parts:
            file.write(np.ascontiguousarray(part, dtype="<f4").data)
    sync_to_disk(path)


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
        return cls(segment.sound_columns.take(rows), searchable, segment.vectors[rows[searchable]])

    @classmethod
    def of_table(cls, rows: pa.Table, stamps: npt.NDArray[np.int64], shape: tuple[int, ...]) -> _Part:
        rows = rows.filter(np.isin(rows["stamp"].to_numpy(), stamps))
        searchable = rows["vector"].is_valid().to_numpy()
        vectors = from_lists(rows["vector"].combine_chunks(), shape)
        columns = rows.select(COLUMNS.names).cast(COLUMNS)
        return cls(columns, searchable, vectors)
