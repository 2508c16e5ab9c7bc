"""What becomes of each row: counted, and put in the place of the row that it follows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace

from mmrag.ingest.plan import Known, known_rows
from mmrag.ingest.words import SAID, as_before, enriched_as_before
from mmrag.sources.uri import item_id
from mmrag.stores.rows import Row
from mmrag.stores.view import View
from mmrag.types import Changes, Failure


class Tally:
    """Counts rows on their way into the table, and finds out which of them have merely moved.

    A file keeps what a caller once said of it: its own id, its words, its facts. Where the caller
    brings the items (`caller_knows_best`), what the items say replaces it.

    Parameters
    ----------
    view : View
        What was there before: rows of the same uri and part are followed.
    vanished : sequence of Known
        Rows whose file is gone, to be deleted in the end.
    lost : sequence of Known
        Rows whose whole folder is gone, to be kept; like those that vanished, they may turn up elsewhere.
    """

    def __init__(
        self,
        view: View,
        vanished: Sequence[Known] = (),
        lost: Sequence[Known] = (),
        *,
        caller_knows_best: bool = False,
    ) -> None:
        self._view = view
        self._caller_knows_best = caller_knows_best
        self._vanished = {row.stamp: row for row in vanished}
        self._movable: dict[str | None, list[Known]] = defaultdict(list)
        for row in reversed([*vanished, *lost]):
            if not row.failed:
                self._movable[row.content_hash].append(row)
        self._replaced: list[int] = []
        self._added = self._updated = self._moved = self._removed = self._unchanged = 0
        self._failed: list[Failure] = []

    @property
    def doomed(self) -> list[int]:
        """Stamps of rows to delete in the end."""
        return [*self._vanished, *self._replaced]

    def settle(self, rows: Sequence[Row]) -> list[Row]:
        """Count rows, and give them the words and the ids of the rows that they follow."""
        refs = self._view.find_parts([row.uri for row in rows], [row.part for row in rows])
        if self._caller_knows_best:
            refs += self._view.find("id", [row.id for row in rows])
        known = list(known_rows(self._view, refs))
        by_name = {(before.uri, before.part): before for before in known}
        by_id = {before.id: before for before in known} if self._caller_knows_best else {}
        return [self._settle(row, by_name.get((row.uri, row.part)), by_id.get(row.id)) for row in rows]

    def drop(self, rows: Iterable[Known]) -> list[int]:
        """Count rows that are no more in a file which is still there, and give their stamps."""
        gone = list(rows)
        self._removed += sum(not row.failed for row in gone)
        return [row.stamp for row in gone]

    def _settle(self, row: Row, namesake: Known | None, same_id: Known | None) -> Row:
        before = same_id or namesake
        if row.failure is not None:
            self._failed.append(Failure(row.uri, row.failure, row.part))
        elif before is None and self._movable.get(row.content_hash):
            before = self._movable[row.content_hash].pop()
            self._vanished.pop(before.stamp, None)
            self._replaced.append(before.stamp)
            self._moved += 1
        elif before is None or before.failed:
            self._added += 1
        elif before.content_hash == row.content_hash and not self._says_otherwise(before, row):
            self._unchanged += 1
        else:
            self._updated += 1
        if self._caller_knows_best and namesake is not None and namesake.id != row.id:  # one name is that of one item
            self._replaced.append(namesake.stamp)
        return self._in_place_of(before, row) if before else row

    def changes(self, *, unchanged: int = 0, still_failing: int = 0, left: int = 0) -> Changes:
        """Sum up, with what did not have to be read."""
        return Changes(
            added=self._added,
            updated=self._updated,
            moved=self._moved,
            removed=self._removed + sum(not row.failed for row in self._vanished.values()),
            unchanged=self._unchanged + unchanged,
            failed=tuple(self._failed),
            still_failing=still_failing,
            left=left,
        )

    def _says_otherwise(self, before: Known, row: Row) -> bool:
        record, row = self._view.records([before.ref])[0], self._in_place_of(before, row)
        return any(record[name] != getattr(row, name) for name in SAID)

    def _in_place_of(self, before: Known, row: Row) -> Row:
        record = self._view.records([before.ref])[0]
        if self._caller_knows_best:
            return enriched_as_before(row, record)
        reads_itself = row.part is not None or row.modality == "text"  # what it says of itself is read with it
        own_id = before.id != item_id(before.uri, before.part)
        row = enriched_as_before(row, record) if reads_itself else as_before(row, record)
        return replace(row, id=before.id if own_id else row.id)
