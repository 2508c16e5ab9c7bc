"""Plans and items → committed rows, with the decoder beside the encoder."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np

from mmrag.errors import Interrupted
from mmrag.ingest.load import Loaded, Loader
from mmrag.ingest.plan import Known, known_rows, make_plan
from mmrag.roles import Encoder, Vectors
from mmrag.sources.uri import item_id, to_uri
from mmrag.sources.walk import walk
from mmrag.stores.rows import Row
from mmrag.stores.table import Table
from mmrag.stores.view import View
from mmrag.types import Changes, Failure, Item

T = TypeVar("T")
Progress = Callable[[int, int], None]
"""Called with how many are done and how many there are."""

_COMPACT_AFTER_COMMITS = 8
_DELETE_AT_ONCE = 1000


@dataclass
class Ingest:
    """Brings a table and its view up to date with files and items. Hold the write lock.

    Attributes
    ----------
    view : View
        The newest that was published; replaced by every commit.
    max_pixels, commit_every : int
        As in an index recipe.
    """

    table: Table
    view: View
    load_encoder: Callable[[], Encoder]
    home: Path
    max_pixels: int
    commit_every: int
    progress: Progress | None = None

    def add_files(self, root: Path, exclude: Sequence[str]) -> Changes:
        """Make the rows below `root` agree with the files there."""
        known = known_rows(self.view, files_only=True)
        found = walk(root, home=self.home, exclude=exclude)
        plan = make_plan(found, known, to_uri(root, self.home))
        tally = _Tally(self.view, known, plan.vanished)
        if plan.read:
            self._write(tally, self._loader().load_file, plan.read)
        self._delete(tally.vanished)
        changes = tally.changes()
        unlisted = tuple(Failure(folder.uri, folder.problem) for folder in found.unreadable)
        return replace(
            changes,
            unchanged=changes.unchanged + plan.unchanged,
            still_failing=plan.still_failing,
            failed=changes.failed + unlisted,
        )

    def add_items(self, items: Sequence[Item]) -> Changes:
        """Add or replace items by their ids."""
        tally = _Tally(self.view, known_rows(self.view), [], caller_knows_best=True)
        self._write(tally, self._loader().load_item, items)
        self._delete(tally.vanished)
        return tally.changes()

    @cached_property
    def encoder(self) -> Encoder:
        """The encoder, loaded and verified when the first file has to be read."""
        return self.load_encoder()

    def remove(self, stamps: Sequence[int]) -> None:
        """Delete rows."""
        self._delete(stamps)

    def _loader(self) -> Loader:
        content = {
            content_hash: ref
            for ref, content_hash, failure in self.view.scan(("content_hash", "failure"))
            if failure is None
        }
        return Loader(self.encoder, self.home, self.max_pixels, content)

    def _write(self, tally: _Tally, load: Callable[[T], Loaded], sources: Sequence[T]) -> None:
        pending: dict[str, Row] = {}
        commits = done = 0
        pool = ThreadPoolExecutor(max_workers=os.cpu_count() or 1, thread_name_prefix="mmrag-load")
        try:
            loaded = _ahead(pool, load, sources, depth=4 * self.encoder.batch)
            for row in map(tally.settle, embed(loaded, self.encoder, self.view)):
                pending[row.id] = row
                done += 1
                if self.progress:
                    self.progress(done, len(sources))
                if len(pending) >= self.commit_every:
                    self._commit(pending)
                    commits += 1
            self._commit(pending)
        except KeyboardInterrupt as error:
            self._commit(pending)
            raise Interrupted(
                f"stopped after {done:,} of {len(sources):,}; they are kept and can be searched. "
                "Run the same command to go on"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)
        if commits >= _COMPACT_AFTER_COMMITS:
            self.table.compact()
            self.view = self.view.sync(self.table)

    def _commit(self, pending: dict[str, Row]) -> None:
        if pending:
            self.table.upsert(list(pending.values()), self.view.last_stamp() + 1)
            pending.clear()
            self.view = self.view.sync(self.table)

    def _delete(self, stamps: Sequence[int]) -> None:
        for some in _batched(stamps, _DELETE_AT_ONCE):
            self.table.delete(some)
        self.view = self.view.sync(self.table)


class _Tally:
    """Counts what becomes of each row, and finds out which rows have merely moved.

    A file keeps what a caller once said of it: its own id, its text, its metadata. Where the caller
    brings the items (`caller_knows_best`), what the items say replaces it.
    """

    def __init__(
        self,
        view: View,
        known: dict[str, Known],
        vanished: Sequence[Known],
        *,
        caller_knows_best: bool = False,
    ) -> None:
        self._view = view
        self._known = known
        self._caller_knows_best = caller_knows_best
        self._vanished = {row.stamp: row for row in vanished}
        self._movable = {row.content_hash: row for row in vanished if not row.failed}
        self._replaced: list[int] = []
        self._added = self._updated = self._moved = self._unchanged = 0
        self._failed: list[Failure] = []

    @property
    def vanished(self) -> list[int]:
        """Stamps of rows to delete in the end."""
        return [*self._vanished, *self._replaced]

    def settle(self, row: Row) -> Row:
        """Count a row, and give it the words and the id of the row whose place it takes."""
        before = self._known.get(row.uri)
        if row.failure is not None:
            self._failed.append(Failure(row.uri, row.failure))
        elif before is None and row.content_hash in self._movable:
            before = self._movable.pop(row.content_hash)
            self._replaced.append(self._vanished.pop(before.stamp).stamp)
            self._moved += 1
        elif before is None or before.failed:
            self._added += 1
        elif before.content_hash == row.content_hash:
            self._unchanged += 1
        else:
            self._updated += 1
        return self._in_place_of(before, row) if before else row

    def _in_place_of(self, before: Known, row: Row) -> Row:
        if self._caller_knows_best:
            if before.id != row.id:
                self._replaced.append(before.stamp)
            return row
        record = self._view.records([before.ref])[0]
        own_id = before.id != item_id(record["uri"])
        return replace(
            row,
            id=before.id if own_id else row.id,
            text=record["text"],
            metadata=record["metadata"],
        )

    def changes(self) -> Changes:
        """Sum up."""
        return Changes(
            added=self._added,
            updated=self._updated,
            moved=self._moved,
            removed=len(self._vanished),
            unchanged=self._unchanged,
            failed=tuple(self._failed),
        )


def embed(loaded: Iterable[Loaded], encoder: Encoder, view: View) -> Iterator[Row]:
    """Fill in the vectors of loaded rows, in their order, as many at once as the encoder takes."""
    for some in _batched(loaded, encoder.batch):
        pictures = [one for one in some if one.pixels is not None]
        texts = [one for one in some if one.needs_text]
        vectors: dict[int, Vectors] = {}
        if pictures:
            encoded = encoder.encode_pixels(np.stack([one.pixels for one in pictures if one.pixels is not None]))
            vectors |= {id(one): vector for one, vector in zip(pictures, encoded, strict=True)}
        if texts:
            encoded = encoder.encode_text([one.row.text or "" for one in texts])
            vectors |= {id(one): vector for one, vector in zip(texts, encoded, strict=True)}
        for one in some:
            if one.same_as is not None:
                vectors[id(one)] = view.vector(one.same_as)
            yield replace(one.row, vector=vectors.get(id(one)))


def _ahead(
    pool: ThreadPoolExecutor, function: Callable[[T], Loaded], arguments: Sequence[T], depth: int
) -> Iterator[Loaded]:
    """Map in threads, at most `depth` results ahead of what was taken, in order."""
    running: deque[Future[Loaded]] = deque()
    for argument in arguments:
        running.append(pool.submit(function, argument))
        if len(running) >= depth:
            yield running.popleft().result()
    while running:
        yield running.popleft().result()


def _batched(sequence: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(sequence)
    while batch := list(islice(iterator, size)):
        yield batch
