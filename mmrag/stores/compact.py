"""Making an index small again: one segment without deleted rows, a table of few files, no version that nobody needs."""

from __future__ import annotations

from pathlib import Path

from mmrag.stores.files import size_on_disk
from mmrag.stores.table import Table
from mmrag.stores.view import View
from mmrag.types import Compaction, Extent


def compact_store(folder: Path, table: Table, view: View) -> tuple[View, Compaction]:
    """Compact the table and the view of the index in `folder`. Hold the write lock.

    Whoever reads the old files goes on with them, and a process that dies leaves one state or the other.

    Returns
    -------
    view : View
        What serves from now on.
    compaction : Compaction
        What it came to.
    """
    before = _extent(folder, view)
    table.compact()
    view = view.sync(table).compacted()
    return view, Compaction(before, _extent(folder, view))


def _extent(folder: Path, view: View) -> Extent:
    rows = sum(len(segment.alive) for segment in view.segments)
    alive = sum(int(segment.alive.sum()) for segment in view.segments)
    return Extent(len(view.segments), rows, rows - alive, size_on_disk(folder))
