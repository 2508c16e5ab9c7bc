"""Plans and items → committed rows."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from mmrag.errors import Interrupted
from mmrag.ingest.batches import in_batches
from mmrag.ingest.notes import Notes
from mmrag.ingest.plan import known_rows, make_plan
from mmrag.ingest.profile import Profile
from mmrag.ingest.roots import Root
from mmrag.ingest.tally import Tally
from mmrag.roles import Encoder, Vectors
from mmrag.sources.walk import File
from mmrag.stores.rows import Row
from mmrag.stores.table import Table
from mmrag.stores.view import View
from mmrag.types import Changes, Item

if TYPE_CHECKING:
    from mmrag.ingest.enrich import Writer
    from mmrag.ingest.load import Loaded, Loader

T = TypeVar("T")
Progress = Callable[[int, int], None]
"""Called with how many are done and how many there are."""

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

    def add_files(self, roots: Sequence[Root], others: Sequence[Root], *, only: Sequence[str] | None = None) -> Changes:
        """Make the rows below `roots` agree with the files there; `only` and `others` are as in `make_plan`."""
        start = time.perf_counter()
        plan = make_plan(roots, others, self.view, self.home, self.notes, only=only)
        self.profile.add("walk", plan.unchanged + plan.still_failing + len(plan.read), time.perf_counter() - start)
        tally = Tally(self.view, plan.known, plan.vanished, plan.lost)
        if plan.read:
            self._write(tally, plan.read)
        self.remove(tally.doomed)
        if only is None:
            self.notes.tell_strays(uri for _, uri in self.view.scan(("uri",)))
        return tally.changes(unchanged=plan.unchanged, still_failing=plan.still_failing)

    def add_items(self, items: Sequence[Item]) -> Changes:
        """Add or replace items, which `name_items` has named."""
        refs = self.view.find("id", [item.id for item in items]) + self.view.find("uri", [item.uri for item in items])
        tally = Tally(self.view, known_rows(self.view, refs), caller_knows_best=True)
        self._write(tally, items)
        self.remove(tally.doomed)
        return tally.changes()

    def write_again(self, old: View, refs: Sequence[int], sources: Sequence[File | Item]) -> Changes:
        """Write what another view has in the rows `refs`, read again from `sources`, with their ids and words."""
        tally = Tally(old, known_rows(old, refs))
        self._write(tally, sources)
        return tally.changes()

    def copy(self, rows: Sequence[Row]) -> None:
        """Commit rows as they are."""
        for some in _batched(rows, self.commit_every):
            self._commit({row.id: row for row in some})

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

    def _rows(self, sources: Sequence[File | Item]) -> Generator[Row]:
        view = self.view
        return in_batches(self._loader(), sources, lambda loaded: self._embed(loaded, view), seconds=self.max_seconds)

    def _embed(self, loaded: Sequence[Loaded], view: View) -> list[Row]:
        with self.profile.stage("encode", len(loaded)):
            return embed(loaded, self.encoder, view)

    def _write(self, tally: Tally, sources: Sequence[File | Item]) -> None:
        pending: dict[str, Row] = {}
        done = kept = 0
        committed = time.monotonic()
        with closing(self._rows(sources)) as rows:
            try:
                for row in map(tally.settle, rows):
                    pending[row.id] = row
                    done += 1
                    if self.progress:
                        self.progress(done, len(sources))
                    if len(pending) >= self.commit_every or time.monotonic() - committed > _COMMIT_SECONDS:
                        self._commit(pending)
                        kept, committed = done, time.monotonic()
                self._commit(pending)
            except KeyboardInterrupt as error:
                kept = done if pending else kept
                self._commit(pending)
                raise Interrupted(
                    f"stopped; {kept:,} of {len(sources):,} are kept and can be searched. Run the same command to go on"
                ) from error

    def _commit(self, pending: dict[str, Row]) -> None:
        if not pending:
            return
        with self.profile.stage("write", len(pending)):
            self.table.upsert(list(pending.values()))
            pending.clear()
            if self.table.scattered():
                self.table.compact()
            self.view = self.view.sync(self.table)


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
