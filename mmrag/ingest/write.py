"""Plans and items → committed rows."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from mmrag.errors import Interrupted
from mmrag.ingest.batches import in_batches
from mmrag.ingest.notes import Notes
from mmrag.ingest.plan import Plan, known_rows, make_plan
from mmrag.ingest.profile import Profile
from mmrag.ingest.roots import Root
from mmrag.ingest.tally import Tally
from mmrag.roles import Encoder, Vectors
from mmrag.sources.kinds import kind_of
from mmrag.stores.manifest import STAMPS_PER_VERSION
from mmrag.stores.rows import Row
from mmrag.stores.table import Table
from mmrag.stores.view import View
from mmrag.types import Changes, Failure, Item, Modality

if TYPE_CHECKING:
    from mmrag.ingest.enrich import Writer
    from mmrag.ingest.load import Loaded, Loader, Source

T = TypeVar("T")
Progress = Callable[[int, int], None]
"""Called with how many are done and how many there are, or 0 where that is not known."""

_DELETE_AT_ONCE = 1000
_COMMIT_SECONDS = 10.0


@dataclass
class Ingest:
    """Brings a table and its view up to date with files and items. Hold the write lock.

    Attributes
    ----------
    view : View
        The newest that was published; replaced by every commit.
    notes : Notes
        What lies beside pictures.
    max_pixels, max_seconds, commit_every
        As in an index recipe.
    modalities : sequence of str
        What is looked for in folders: what the encoder can embed.
    allow_remote : bool
        Whether connections may be opened to read what is behind urls.
    """

    table: Table
    view: View
    load_encoder: Callable[[], Encoder]
    home: Path
    notes: Notes
    max_pixels: int
    max_seconds: float
    commit_every: int
    progress: Progress | None = None
    profile: Profile = field(default_factory=Profile)
    modalities: Sequence[Modality] = ("image", "text")
    allow_remote: bool = False

    def add_files(self, roots: Sequence[Root], others: Sequence[Root], *, only: Sequence[str] | None = None) -> Changes:
        """Make the rows below `roots` agree with the files there; `only` and `others` are as in `make_plan`."""
        start = time.perf_counter()
        plan = make_plan(
            roots,
            others,
            self.view,
            self.home,
            self.notes,
            only=only,
            modalities=self.modalities,
            allow_remote=self.allow_remote,
        )
        seen = plan.unchanged + plan.still_failing + len(plan.read)
        self.profile.add("walk", seen, time.perf_counter() - start)
        tally = Tally(self.view, plan.vanished, plan.lost)
        if plan.read:
            self._write_files(tally, plan)
        self.remove(tally.doomed)
        if only is None:
            self.notes.tell_strays(uri for _, uri in self.view.scan(("uri",)))
        unreachable = Changes(failed=tuple(Failure(file.uri, file.problem) for file in plan.unreachable))
        return unreachable + tally.changes(unchanged=plan.unchanged, still_failing=plan.still_failing, left=plan.left)

    def _write_files(self, tally: Tally, plan: Plan) -> None:
        """Write what is in files; what was in one before and is no more goes when its end has been read."""
        from mmrag.ingest.members import open_files  # imports the readers of rows

        self._unmark([ref for refs in plan.changed.values() for ref in refs])
        many = any(kind_of(file.uri) != "picture" or os.path.isdir(file.path) for file in plan.read)
        sources = open_files(plan.read, self.encoder, self.profile)
        changed = Changed(plan.changed, (self.table.version + 1) * STAMPS_PER_VERSION)
        self._write(tally, sources, None if many else len(plan.read), changed)

    def _unmark(self, refs: Sequence[int]) -> None:
        """Take the file's time from rows: from now on, until it is read to its end, the file counts as not read."""
        for some in _batched(refs, self.commit_every):
            self._upsert([replace(row, mtime_ns=None) for row in rows_of(self.view, some)])

    def add_items(self, items: Iterable[Item], total: int | None = None) -> Changes:
        """Add or replace items, which `name_items` has named; as many as come, however many those are."""
        tally = Tally(self.view, caller_knows_best=True)
        self._write(tally, items, total)
        self.remove(tally.doomed)
        return tally.changes()

    def write_again(self, old: View, sources: Iterable[Source], total: int) -> Changes:
        """Write what another view has, read again from `sources`, with the ids and words that are there."""
        tally = Tally(old)
        self._write(tally, sources, total)
        return tally.changes()

    def copy(self, rows: Sequence[Row]) -> None:
        """Commit rows as they are."""
        for some in _batched(rows, self.commit_every):
            self._upsert(some)

    def enrich(self, writers: Sequence[Writer]) -> Changes:
        """Have models say what is in the pictures, as far as they have not; see `mmrag.ingest.enrich`."""
        if not writers:
            return Changes()
        from mmrag.ingest.enrich import enrich  # imports the decoders

        return Changes(enriched=sum(enrich(self, writer) for writer in writers))

    def remove(self, stamps: Sequence[int]) -> None:
        """Delete rows by their stamps."""
        for some in _batched(stamps, _DELETE_AT_ONCE):
            self.table.delete(some)
        self.view = self.view.sync(self.table)

    def restore(self, version: int) -> None:
        """Go back to an earlier version."""
        self.table.restore(version)
        self.view = self.view.sync(self.table)

    def finish(self, *, since: int, keep_versions: int) -> None:
        """End a run: what it has made of the table's version `since` can be restored from now on."""
        if self.table.version == since:
            return
        if self.table.overgrown():
            self.table.compact()
            self.view = self.view.sync(self.table)
        self.view = self.view.built()
        self.table.keep(keep_versions)

    @cached_property
    def encoder(self) -> Encoder:
        """The encoder, loaded and verified when the first item has to be read."""
        return self.load_encoder()

    def _loader(self) -> Loader:
        from mmrag.ingest.load import Loader  # imports the decoders: most runs read nothing

        rows = [row for row in self.view.scan(("content_hash", "fingerprint", "failure")) if row[3] is None]
        content = {content_hash: ref for ref, content_hash, _, _ in rows}
        fingerprints = {content_hash: known for _, content_hash, known, _ in rows if known is not None}
        return Loader(self.encoder, self.home, self.max_pixels, content, fingerprints, self.notes, self.profile)

    def _rows(self, sources: Iterable[Source], total: int | None) -> Generator[Row]:
        view, seconds = self.view, self.max_seconds
        return in_batches(
            self._loader(), sources, lambda loaded: self._embed(loaded, view), seconds=seconds, total=total
        )

    def _embed(self, loaded: Sequence[Loaded], view: View) -> list[Row]:
        with self.profile.stage("encode", len(loaded)):
            return embed(loaded, self.encoder, view)

    def _write(
        self, tally: Tally, sources: Iterable[Source], total: int | None, changed: Changed | None = None
    ) -> None:
        pending: list[Row] = []
        kept = 0
        committed = time.monotonic()
        with closing(self._rows(sources, total)) as rows:
            try:
                for done, row in enumerate(rows, start=1):
                    pending.append(row)
                    if self.progress:
                        self.progress(done, total or 0)
                    if len(pending) >= self.commit_every or time.monotonic() - committed > _COMMIT_SECONDS:
                        self._commit(tally, pending, changed)
                        kept, committed = done, time.monotonic()
                self._commit(tally, pending, changed)
            except KeyboardInterrupt as error:
                kept += len(pending)
                self._commit(tally, pending, changed)
                of = "" if total is None else f" of {total:,}"
                raise Interrupted(
                    f"stopped; {kept:,}{of} are kept and can be searched. Run the same command to go on"
                ) from error

    def _commit(self, tally: Tally, pending: list[Row], changed: Changed | None) -> None:
        """Settle and commit what is pending; of files that have ended, what was not written again goes then.

        Only the last step says that such a file was read to its end: whatever interrupts, no row is lost before.
        """
        if not pending:
            return
        settled = {row.id: row for row in tally.settle(pending)}
        ends = [row for row in settled.values() if changed and row.mtime_ns is not None and row.uri in changed.uris]
        self._upsert(list((settled | {row.id: replace(row, mtime_ns=None) for row in ends}).values()))
        if changed and ends:
            older = known_rows(self.view, self.view.find_older([row.uri for row in ends], changed.since))
            self.remove(tally.drop(row for row in older if row.size is not None))  # what a caller brought stays
            self._upsert(ends)
        pending.clear()

    def _upsert(self, rows: Sequence[Row]) -> None:
        with self.profile.stage("write", len(rows)):
            self.table.upsert(rows)
            if self.table.scattered():
                self.table.compact()
            self.view = self.view.sync(self.table)


@dataclass(frozen=True)
class Changed:
    """Files that were read before, and of which something may be gone.

    Attributes
    ----------
    uris : collection of str
        Theirs.
    since : int
        Rows with lower stamps were written before they were read again.
    """

    uris: Collection[str]
    since: int


def rows_of(view: View, refs: Sequence[int]) -> list[Row]:
    """Read rows as they are, with their vectors."""
    names = [one.name for one in fields(Row) if one.name != "vector"]
    return [
        Row(
            **{name: record[name] for name in names},
            vector=None if record["failure"] is not None else view.vector(ref),
        )
        for ref, record in zip(refs, view.records(refs), strict=True)
    ]


def embed(loaded: Sequence[Loaded], encoder: Encoder, view: View) -> list[Row]:
    """Fill in the vectors of loaded rows, at most as many as the encoder takes at once."""
    pictures = [one for one in loaded if one.pixels is not None]
    texts = [one for one in loaded if one.needs_text]
    vectors = {id(one): view.vector(one.same_as) for one in loaded if one.same_as is not None}
    if pictures:
        encoded = encoder.encode_pixels(np.stack([one.pixels for one in pictures if one.pixels is not None]))
        vectors |= {id(one): vector for one, vector in zip(pictures, encoded, strict=True)}
    if texts:
        encoded = encoder.encode_text([one.row.text or "" for one in texts])
        vectors |= {id(one): vector for one, vector in zip(texts, encoded, strict=True)}
    return [replace(one.row, vector=_filled_up(vectors.get(id(one)), view.shape)) for one in loaded]


def _filled_up(vector: Vectors | None, shape: tuple[int, ...]) -> Vectors | None:
    """Repeat the one vector of a text where an item has several: the highest of equal cosines is the text's own."""
    return None if vector is None else np.broadcast_to(vector, shape)


def _batched(sequence: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(sequence)
    while batch := list(islice(iterator, size)):
        yield batch
