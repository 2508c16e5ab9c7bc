"""Looking at every row: the table must be sound, and its view must say the same. Views are mended, tables are not."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mmrag.errors import IndexFormatError, StoreError
from mmrag.stores.facts import NUMBERS, as_said, facts_of
from mmrag.stores.files import checksum, delete, disk_errors
from mmrag.stores.registry import WORDS_FOLDER, open_view, view_class, view_folder
from mmrag.stores.rescore import copy_suffix, is_copy, open_copy
from mmrag.stores.rows import COLUMNS, from_lists
from mmrag.stores.segment import Segment, damage_told
from mmrag.stores.table import Table
from mmrag.stores.view import View
from mmrag.stores.view_settings import ViewSettings
from mmrag.types import Checkup

Progress = Callable[[int, int], None]

_UNIT = 1e-3
_PASSES = 3  # through the rows of the table, those of the view, and the files derived from these
_FACTS_AT_ONCE = 1 << 14
_GO_BACK = (
    "This cannot be mended: go back to an earlier version (mmrag info --versions, mmrag restore VERSION), "
    "or take these items out (mmrag remove) and index them again"
)


def check_store(
    folder: Path, store: Path, table: Table, settings: ViewSettings, progress: Progress | None
) -> tuple[View | None, Checkup]:
    """Compare the table and the view of the index in `folder`, and mend the view. Hold the write lock.

    Table and view lie in `store`, which is that folder or one in it.

    Returns
    -------
    view : View or None
        What agrees with the table; None if the table is wrong.
    checkup : Checkup
        What was found and mended.
    """
    view: View | None = None
    mended: list[str] = []
    try:
        count = table.count()
        failed = count - table.column("failure").null_count
        wrong = [f"{fault}. {_GO_BACK}" for fault in _table_faults(table, _report(progress, 0, count))]
        if not wrong:  # a view of a table that is wrong may hold the last good copy
            view, mended = _sound_view(store, table, settings, _report(progress, count, count))
    except StoreError as error:
        advice = f"If mmrag restore does not help, delete {folder} and index again"
        return None, Checkup(wrong=(f"{error}. {advice}",))
    if view is not None:
        mended += _without_leftovers(folder, view)
    return view, Checkup(items=count - failed, failed=failed, mended=tuple(mended), wrong=tuple(wrong))


def with_words(checkup: Checkup, view: View) -> Checkup:
    """Compare the full-text index beside a sound view with it, if there is one, and make it anew where it differs."""
    folder = view.folder.parent / WORDS_FOLDER
    if not folder.exists():
        return checkup
    from mmrag.stores.words import WordsView

    words = WordsView.open(folder)
    behind = words.table_version < view.table_version
    difference = words.sync(view).difference(view)
    if difference is not None:
        WordsView.make(folder, view)
        return replace(checkup, mended=(*checkup.mended, f"made the full-text index again: {difference}"))
    told = ["brought the full-text index up to the table's newest version"] if behind else []
    return replace(checkup, mended=(*checkup.mended, *told))


def _without_leftovers(folder: Path, view: View) -> list[str]:
    leftovers = [*view.leftovers(), *folder.glob("*.tmp")]
    with disk_errors(folder):
        for path in leftovers:
            delete(path)
    names = ", ".join(sorted(path.name for path in leftovers))
    return [f"removed what an interrupted writer left: {names}"] if names else []


def _report(progress: Progress | None, before: int, count: int) -> Callable[[int], None]:
    return lambda done: progress(before + done, _PASSES * count) if progress else None


def _table_faults(table: Table, report: Callable[[int], None]) -> Iterator[str]:
    """Say what is wrong with the rows of a table."""
    for name in ("id", "stamp"):
        counts = table.column(name).value_counts()
        repeated = counts.filter(np.asarray(counts.field("counts")) > 1).field("values").to_pylist()
        if repeated:
            yield f"{len(repeated):,} times several rows have the same {name}, such as {repeated[0]!r}"
    done = 0
    unsound: list[str] = []
    for batch in table.batches():
        unsound += batch.filter(_unsound(batch, table.shape))["uri"].to_pylist()
        done += batch.num_rows
        report(done)
    if unsound:
        yield (
            f"{len(unsound):,} rows have no vector of unit length and {table.shape[-1]} dimensions, "
            f"and no reason for it, such as {unsound[0]!r}"
        )


def _unsound(batch: pa.RecordBatch, shape: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    has_vector, vectors = _vectors(batch, shape)
    unsound = ~has_vector & np.asarray(batch["failure"].is_null())
    sound = np.abs(np.linalg.norm(vectors, axis=-1) - 1) < _UNIT  # a NaN is not below either
    unsound[has_vector] = ~sound.all(axis=tuple(range(1, sound.ndim)))
    return np.asarray(unsound)


def _vectors(batch: pa.RecordBatch, shape: tuple[int, ...]) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float32]]:
    """Which rows of a batch have vectors, and those, ``(n, *shape)``."""
    return np.asarray(batch["vector"].is_valid()), from_lists(batch["vector"], shape)


def _sound_view(
    store: Path, table: Table, settings: ViewSettings, report: Callable[[int], None]
) -> tuple[View, list[str]]:
    """Open a view that says what the table says, made anew if the one that is there does not."""
    folder = view_folder(store, settings)
    try:
        view = open_view(store, settings, table.shape[-1], vectors=math.prod(table.shape[:-1]))
        behind = view.table_version != table.version
        view = view.sync(table)
        with damage_told(folder):
            difference = _difference(view, table, report)
    except IndexFormatError as error:
        difference = f"it was damaged ({error.__cause__})"
    if difference is None:
        return view, ["brought the view up to the table's newest version"] if behind else []
    view = view_class(settings.kind)(folder, table.shape, settings=settings).sync(table).built()
    return view, [f"made the view again from the table: {difference}"]


def _difference(view: View, table: Table, report: Callable[[int], None]) -> str | None:
    """Say how a view differs from the table; None if it does not."""
    finders = [(segment, _Finder(segment)) for segment in view.segments]
    rows = found = 0
    for batch in table.batches():
        rows += batch.num_rows
        report(rows)
        for segment, finder in finders:
            mine, places = finder.find(np.asarray(batch["stamp"]))
            found += len(places)
            if not _equal(segment, places, batch.filter(mine), view.shape):
                return "rows in it differ from those of the table"
    alive = sum(int(segment.alive.sum()) for segment in view.segments)
    if not rows == found == alive:
        return f"it had {alive:,} rows, the table has {rows:,}"
    return _derived_difference(view, lambda done: report(rows + done))


def _derived_difference(view: View, report: Callable[[int], None]) -> str | None:
    """Say which file of a view, whose vectors and columns are sound, is not what is made of these; None if none."""
    done = 0
    for segment in view.segments:
        name, suffix = segment.state.name, copy_suffix(view.settings.rescore)
        with np.errstate(all="ignore"):  # a deleted row's vector may be any
            if segment.codes is not None and not segment.codes.are_of(segment.vectors):
                return f"{name}.i8 differed from the vectors it is made of"
            if suffix in segment.state.built and not _has_copy(view, segment):
                return f"{name}{suffix} differed from the vectors it is made of"
        for ending, expected in segment.state.built.items():
            if expected and checksum(view.folder / f"{name}{ending}") != expected:
                return f"{name}{ending} was not what was built"
        for start in range(0, len(segment.alive), _FACTS_AT_ONCE):
            if not _has_facts(segment, start):
                return f"{name}.facts differed from the metadata it is made of"
            done += int(segment.alive[start : start + _FACTS_AT_ONCE].sum())
            report(done)
    return None


def _has_copy(view: View, segment: Segment) -> bool:
    rescore = view.settings.rescore
    return is_copy(open_copy(segment, view.folder, rescore), segment.vectors, rescore)


def _has_facts(segment: Segment, start: int) -> bool:
    """Whether the facts of some rows of a segment are what their metadata says."""
    kept = segment.sound_facts.whole.slice(start, _FACTS_AT_ONCE)
    metadata = segment.sound_columns["metadata"].slice(start, _FACTS_AT_ONCE)
    made = as_said(facts_of(metadata), metadata, kept.schema)
    return all(_bits(one).equals(_bits(other)) for one, other in zip(kept.columns, made.columns, strict=True))


def _bits(column: pa.ChunkedArray) -> pa.Array:
    """Give what a column is compared by: NaN does not equal NaN, its bits do."""
    whole = column.combine_chunks()
    return whole.view(pa.int64()) if whole.type == NUMBERS else whole


class _Finder:
    """Finds the rows of a segment by their stamps."""

    def __init__(self, segment: Segment) -> None:
        alive = np.flatnonzero(segment.alive)
        self._places = alive[np.argsort(segment.stamps[alive], kind="stable")]
        self._stamps = segment.stamps[self._places]

    def find(self, stamps: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.int64]]:
        """Which of the stamps are here, and in which rows."""
        if not len(self._stamps):
            return np.zeros(len(stamps), dtype=bool), np.empty(0, dtype=np.int64)
        nearest = np.minimum(np.searchsorted(self._stamps, stamps), len(self._stamps) - 1)
        here = self._stamps[nearest] == stamps
        return here, self._places[nearest[here]]


def _equal(segment: Segment, places: npt.NDArray[np.int64], batch: pa.RecordBatch, shape: tuple[int, ...]) -> bool:
    """Whether rows of a segment and rows of the table are the same, vectors bit for bit."""
    columns = pa.table(batch.select(COLUMNS.names)).cast(COLUMNS)
    has_vector, vectors = _vectors(batch, shape)
    searchable = places < len(segment.vectors)
    return bool(
        segment.sound_columns.whole.take(places).equals(columns)
        and np.array_equal(searchable, has_vector)
        and np.array_equal(segment.vectors[places[searchable]].view(np.int32), vectors.view(np.int32))
    )
