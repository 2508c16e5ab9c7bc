"""Views: derived, rebuildable copies of the table that make search fast.

A view is a list of immutable segments (`mmrag.stores.segment`) plus deletions, named by one small file,
``view.json``, that is replaced in one step.
"""

from __future__ import annotations

import itertools
import math
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import copy
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mmrag.errors import IndexFormatError
from mmrag.recipe import build
from mmrag.roles import Vectors
from mmrag.similarity import vector_shape
from mmrag.stores.files import delete, disk_errors, read_json, sync_to_disk, write_json
from mmrag.stores.manifest import STAMPS_PER_VERSION
from mmrag.stores.segment import SUFFIXES, Part, Refs, Segment, SegmentState, damage_told, read_record, write_segment
from mmrag.stores.table import Table
from mmrag.stores.view_settings import ViewSettings

FORMAT = 2

Allowed = Sequence[npt.NDArray[np.bool_]]
"""Which rows may be found: for each segment of a view, bool ``(rows,)``."""

SEGMENT_SHIFT = 40  # a ref is (segment << 40) | row

_FEW = 64
_BYTES_AT_ONCE = 1 << 27
_LEAST_AT_ONCE = 1024


@dataclass(frozen=True)
class ViewState:
    """What ``view.json`` says."""

    format: int
    table_version: int
    dimension: int
    segments: tuple[SegmentState, ...] = ()


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


def best_of(found: Sequence[Candidates], k: int) -> Candidates:
    """Give the k best of what was found in several places; equal scores come in the order of the rows."""
    scores = np.concatenate([one.scores for one in found], axis=1)
    refs = np.concatenate([one.refs for one in found], axis=1)
    order = np.lexsort((refs, -scores), axis=1)[:, :k]
    return Candidates(np.take_along_axis(scores, order, axis=1), np.take_along_axis(refs, order, axis=1))


class View(ABC):
    """A snapshot of the table, ready to be searched. Immutable: `sync` returns a new one.

    Parameters
    ----------
    folder : path
        Where its files are.
    shape : tuple of int
        Of an item's vectors: ``(dimension,)``, or ``(vectors, dimension)``.
    settings : ViewSettings
        How it is built and how hard it looks.
    """

    kind: ClassVar[str]

    def __init__(
        self,
        folder: Path,
        shape: tuple[int, ...],
        *,
        table_version: int = 0,
        segments: Sequence[Segment] = (),
        settings: ViewSettings = ViewSettings(),  # noqa: B008 - frozen
    ) -> None:
        self.folder = folder
        self.shape = shape
        self.table_version = table_version
        self.segments = tuple(segments)
        self.settings = settings

    @abstractmethod
    def search(self, query_vectors: Vectors, k: int, *, allowed: Allowed | None = None) -> Candidates:
        """Find the rows most similar to each query.

        Parameters
        ----------
        query_vectors : float32 ``(queries, dimension)`` or ``(queries, vectors, dimension)``
            Of unit length; scored as `mmrag.similarity.cosines` says.
        k : int
            How many for each; fewer come back if the view holds fewer.
        allowed : sequence of bool arrays, or None
            Which rows may be found, by segment; by default all.
        """

    @classmethod
    def open(
        cls,
        folder: Path,
        dimension: int,
        *,
        vectors: int = 1,
        settings: ViewSettings = ViewSettings(),  # noqa: B008 - frozen
    ) -> Self:
        """Open the published view in `folder`; one that was never published, or in another format, is empty.

        Parameters
        ----------
        folder : path
            Where its files are.
        dimension : int
            Length of the vectors.
        vectors : int
            How many of them a row has.
        settings : ViewSettings
            How it is built and how hard it looks.

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
            return cls(folder, shape, table_version=state.table_version, segments=segments, settings=settings)

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
                return [read_record(segment, row) for segment, row in located]
            for segment in self.segments:
                positions = [n for n, (owner, _) in enumerate(located) if owner is segment]
                rows = pa.array([located[n][1] for n in positions], pa.int64())
                taken = segment.sound_columns.whole.take(rows).to_pylist()
                found |= dict(zip(positions, taken, strict=True))
        return [found[n] for n in range(len(located))]

    def find(self, column: str, values: Sequence[str]) -> list[int]:
        """Find the refs of the rows whose `column` is one of `values`."""
        return self._refs_where(lambda segment: _is_in(segment, column, values))

    def find_parts(self, uris: Sequence[str], parts: Sequence[str | None]) -> list[int]:
        """Find the refs of the rows whose uri is one of `uris` and whose part is one of `parts`; None is one, too."""
        chosen = list(set(parts))
        return self._refs_where(lambda segment: _is_in(segment, "uri", uris) & _is_in(segment, "part", chosen))

    def find_older(self, uris: Sequence[str], stamp: int) -> list[int]:
        """Find the refs of the rows whose uri is one of `uris`, and which were written before a stamp."""
        return self._refs_where(lambda segment: _is_in(segment, "uri", uris) & (segment.stamps < stamp))

    def _refs_where(self, matching: Callable[[Segment], npt.NDArray[np.bool_]]) -> list[int]:
        refs: list[int] = []
        for number, segment in enumerate(self.segments):
            with damage_told(self.folder):
                rows = np.flatnonzero(matching(segment) & segment.alive)
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
        own |= {f"{state.name}{suffix}" for state in states for suffix in (*SUFFIXES, *state.built)}
        return [path for path in self.folder.iterdir() if path.name not in own]

    def sync(self, table: Table) -> Self:
        """Bring the view to the table's current version and publish it.

        New rows become a segment, which takes in its smaller neighbours: there are O(log n)
        segments, and a row is rewritten O(log n) times. What the table itself has seen happen is all that is read of
        it; where others have changed it meanwhile, all stamps are compared.
        """
        if self.table_version == table.version:
            return self
        with damage_told(self.folder), disk_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            segments = self._followed(table)
            if segments is None:
                segments = self._compared(table)
            return self._publish(segments, table.version)

    @classmethod  # noqa: B027 - most views need nothing
    def check(cls, settings: ViewSettings, dimension: int) -> None:
        """Check that a view of such vectors can be built here.

        Raises
        ------
        MissingExtraError
            If a package is missing.
        RecipeError
            If the settings do not suit the dimension.
        """

    def looking(self, settings: ViewSettings) -> Self:
        """Give the same view, looking as hard as other settings say."""
        other = copy(self)
        other.settings = self.settings.with_effort_of(settings)
        return other

    def built(self) -> Self:
        """Build what a search of the large segments needs to be fast, where it is lacking; called when a run ends."""
        return self

    def compacted(self) -> Self:
        """Join all segments into one without deleted rows, build what belongs to it, and publish it."""
        with damage_told(self.folder), disk_errors(self.folder):
            whole = [segment for segment in self.segments if segment.is_compact]
            if len(self.segments) < 2 and len(whole) == len(self.segments):
                return self.built()
            parts = [Part.of_segment(segment) for segment in self.segments]
            return self._publish([write_segment(self.folder, parts, self.shape)], self.table_version).built()

    def _followed(self, table: Table) -> list[Segment] | None:
        """Do what the table has seen happen since; None if that is not all that has happened."""
        changes = table.changes_since(self.table_version)
        if changes is None or not self.published:
            return None
        fresh = table.rows_from((self.table_version + 1) * STAMPS_PER_VERSION)
        dead = np.sort(changes.removed)
        segments = [self._without(segment, _found(segment.stamps, dead)) for segment in self.segments]
        if changes.replaced:
            ids = fresh["id"].combine_chunks()
            segments = [self._without(segment, _namesakes(segment, ids)) for segment in segments]
        if sum(int(segment.alive.sum()) for segment in segments) + len(fresh) != table.count():
            return None
        return self._with_fresh(segments, Part.of_table(fresh, self.shape)) if len(fresh) else segments

    def _compared(self, table: Table) -> list[Segment]:
        """Compare the stamps of all rows, and read those that are new some at once."""
        live = table.stamps()
        segments = [self._with_deleted(one, np.flatnonzero(~_among(one.stamps, live))) for one in self.segments]
        seen = np.sort(np.concatenate([np.empty(0, np.int64), *(s.stamps for s in self.segments)]))
        fresh = live[~_among(live, seen)]
        at_once = max(_LEAST_AT_ONCE, _BYTES_AT_ONCE // (4 * math.prod(self.shape)))
        for start in range(0, len(fresh), at_once):
            some = fresh[start : start + at_once]
            rows = table.rows_between(int(some[0]), int(some[-1]))
            rows = rows.filter(pa.array(_among(rows["stamp"].to_numpy(), some)))
            segments = self._with_fresh(segments, Part.of_table(rows, self.shape))
        return segments

    def _locate(self, ref: int) -> tuple[Segment, int]:
        return self.segments[int(ref) >> SEGMENT_SHIFT], int(ref) & ((1 << SEGMENT_SHIFT) - 1)

    def _without(self, segment: Segment, dead: Refs) -> Segment:
        """Let rows of a segment be deleted, those that are so far too."""
        return self._with_deleted(segment, np.union1d(segment.deleted, dead)) if len(dead) else segment

    def _with_deleted(self, segment: Segment, deleted: Refs) -> Segment:
        if np.array_equal(deleted, segment.deleted):  # as many may be others: rows come back, too
            return segment
        deletions = f"{segment.state.name}-{uuid.uuid4().hex[:8]}.deleted.npy"
        np.save(self.folder / deletions, deleted)
        sync_to_disk(self.folder / deletions)
        return replace(segment, deleted=deleted, state=replace(segment.state, deletions=deletions))

    def _with_fresh(self, segments: list[Segment], fresh: Part) -> list[Segment]:
        kept = [s for s in segments if s.alive.sum() * 2 > len(s.alive)]
        joined = [s for s in segments if s.alive.sum() * 2 <= len(s.alive)]
        size = len(fresh) + sum(int(s.alive.sum()) for s in joined)
        while kept and len(kept[-1].alive) <= 2 * size:
            joined.insert(0, kept.pop())
            size += int(joined[0].alive.sum())
        written = write_segment(self.folder, [*map(Part.of_segment, joined), fresh], self.shape)
        self._drop_unpublished(joined)
        return [*kept, written]

    def _drop_unpublished(self, segments: Sequence[Segment]) -> None:
        """Delete the files of segments that nobody else knows of."""
        published = {segment.state.name for segment in self.segments}
        for name in {segment.state.name for segment in segments} - published:
            for path in self.folder.glob(f"{name}.*"):
                delete(path)

    def publish_in(self, folder: Path) -> None:
        """Say in another folder, which has the files of the segments too, what this view holds."""
        states = tuple(replace(segment.state, built={}) for segment in self.segments)
        write_json(folder / "view.json", asdict(ViewState(FORMAT, self.table_version, self.shape[-1], states)))

    def _publish(self, segments: Sequence[Segment], table_version: int) -> Self:
        segments = [segment for segment in segments if segment.alive.any()]
        state = ViewState(FORMAT, table_version, self.shape[-1], tuple(segment.state for segment in segments))
        write_json(self.folder / "view.json", asdict(state))
        view = type(self)(
            self.folder, self.shape, table_version=table_version, segments=segments, settings=self.settings
        )
        for path in view.leftovers():
            delete(path)
        return view


def _among(stamps: Refs, ascending: Refs) -> npt.NDArray[np.bool_]:
    """Which of the stamps are among some that are sorted."""
    if not len(ascending):
        return np.zeros(len(stamps), dtype=bool)
    places = np.minimum(np.searchsorted(ascending, stamps), len(ascending) - 1)
    return np.asarray(ascending[places] == stamps)


def _found(stamps: Refs, ascending: Refs) -> Refs:
    return np.flatnonzero(_among(stamps, ascending))


def _namesakes(segment: Segment, ids: pa.Array) -> Refs:
    """Which rows of a segment have one of the ids: of rows with one id, only the newest is in the table."""
    import pyarrow.compute as pc

    return np.flatnonzero(pc.is_in(segment.sound_columns["id"], value_set=ids).to_numpy())


def _is_in(segment: Segment, column: str, values: Sequence[str | None]) -> npt.NDArray[np.bool_]:
    import pyarrow.compute as pc

    found = pc.is_in(segment.sound_columns[column], value_set=pa.array(values, pa.string()))
    return np.asarray(found.to_numpy(), dtype=bool)


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
