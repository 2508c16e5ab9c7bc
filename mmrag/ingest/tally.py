"""What becomes of each row: counted, and put in the place of the row that it follows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

from mmrag.ingest.plan import Known
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
        Where the records of known rows are read.
    known : mapping of str to Known
        What may be followed, by uri.
    vanished : sequence of Known
        Rows whose file is gone, to be deleted in the end.
    lost : sequence of Known
        Rows whose whole folder is gone, to be kept; like those that vanished, they may turn up elsewhere.
    """

    def __init__(
        self,
        view: View,
        known: Mapping[str, Known],
        vanished: Sequence[Known] = (),
        lost: Sequence[Known] = (),
        *,
        caller_knows_best: bool = False,
    ) -> None:
        self._view = view
        self._known = known
        self._known_ids = {before.id: before for before in known.values()}
        self._caller_knows_best = caller_knows_best
        self._vanished = {row.stamp: row for row in vanished}
        self._movable: dict[str | None, list[Known]] = defaultdict(list)
        for row in reversed([*vanished, *lost]):
            if not row.failed:
                self._movable[row.content_hash].append(row)
        self._replaced: list[int] = []
        self._added = self._updated = self._moved = self._unchanged = 0
        self._failed: list[Failure] = []

    @property
    def doomed(self) -> list[int]:
        """Stamps of rows to delete in the end."""
        return [*self._vanished, *self._replaced]

    def settle(self, row: Row) -> Row:
        """Count a row, and give it the words and the id of the row that it follows."""
        before = self._known.get(row.uri)
        if self._caller_knows_best:
            before = self._known_ids.get(row.id, before)
        if row.failure is not None:
            self._failed.append(Failure(row.uri, row.failure))
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
        if self._caller_knows_best:
            self._replace_namesake(row)
        return self._in_place_of(before, row) if before else row

    def changes(self, *, unchanged: int = 0, still_failing: int = 0) -> Changes:
        """Sum up, with what did not have to be read."""
        return Changes(
            added=self._added,
            updated=self._updated,
            moved=self._moved,
            removed=sum(not row.failed for row in self._vanished.values()),
            unchanged=self._unchanged + unchanged,
            failed=tuple(self._failed),
            still_failing=still_failing,
        )

    def _says_otherwise(self, before: Known, row: Row) -> bool:
        record, row = self._view.records([before.ref])[0], self._in_place_of(before, row)
        return any(record[name] != getattr(row, name) for name in SAID)

    def _replace_namesake(self, row: Row) -> None:
        """One uri names one item: an item of another id that had this uri goes."""
        namesake = self._known.get(row.uri)
        if namesake is not None and namesake.id != row.id:
            self._replaced.append(namesake.stamp)

    def _in_place_of(self, before: Known, row: Row) -> Row:
        record = self._view.records([before.ref])[0]
        if self._caller_knows_best:
            return enriched_as_before(row, record)
        own_id = before.id != item_id(before.uri)
        return replace(as_before(row, record), id=before.id if own_id else row.id)
