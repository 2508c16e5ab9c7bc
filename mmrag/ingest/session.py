"""Writing to an index: one run at a time, under its lock, committed and ended so that nothing done is lost."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

from mmrag.errors import InputError, Interrupted, StoreError
from mmrag.ingest.given import Given, as_list, given_sources, modalities_of
from mmrag.ingest.profile import Profile
from mmrag.ingest.recipe import EnrichOptions, IndexRecipe
from mmrag.ingest.roots import Root, find_targets, inside, joined, look_at, roots_of, with_roots
from mmrag.ingest.views import choose_again
from mmrag.models.loaded import LoadedModels
from mmrag.roles import Encoder
from mmrag.sources.uri import absolute, is_remote, locate, to_uri
from mmrag.stores.manifest import Writer
from mmrag.stores.serving import Serving
from mmrag.types import Changes, Item, Modality

if TYPE_CHECKING:
    from mmrag.ingest.enrich import Writer as EnrichWriter
    from mmrag.ingest.watch import Told
    from mmrag.ingest.write import Ingest, Progress
    from mmrag.stores.table import Table
    from mmrag.stores.view import View


@dataclass(frozen=True)
class Run:
    """How a run goes, whatever it does; the fields are as in `Index.add`."""

    options: IndexRecipe = field(default_factory=IndexRecipe)
    progress: Progress | None = None
    profile: Profile | None = None
    captions: str | Path | Sequence[str | Path] | None = None
    allow_remote: bool = False


class Session:
    """Writes to the index that a process has open; methods, results and errors are those of `Index`."""

    def __init__(self, serving: Serving, models: LoadedModels) -> None:
        self.serving = serving
        self.models = models
        self._home = serving.home

    @property
    def encoder(self) -> Encoder:
        """The model that wrote the vectors."""
        manifest = self.serving.manifest
        return self.models.encoder(manifest.model, manifest.identity)

    @contextmanager
    def ingest(self, run: Run) -> Iterator[Ingest]:
        """Hold the index for writing; what was done is committed and served at the end, whatever ends it."""
        with self.serving.writing():
            if run.captions is not None:
                self._remember(as_list(run.captions))
            table = self.serving.open_table()
            published = self.serving.published_view()
            ingest = self.ingest_into(table, self.serving.synced(published, table), self._verified_encoder, run)
            keep_versions = self.serving.manifest.keep_versions
            finish = partial(ingest.finish, since=published.table_version, keep_versions=keep_versions)
            try:
                yield ingest
                finish()
                self.serving.keep_words_up(ingest.view)
                choose_again(self.serving, self.models, ingest)
            except Interrupted:
                finish()
                raise
            except KeyboardInterrupt as error:
                raise Interrupted(
                    "stopped; what was done before is kept and can be searched. Run the same command to go on"
                ) from error
            except StoreError as error:
                if not table.withdraw_unreadable(since=ingest.view.table_version):
                    raise
                raise StoreError(
                    f"what was written last to {self.serving.folder} was cut short, as by a full disk, and is taken "
                    "back. What was committed before is kept and can be searched; make room, and run the same command "
                    "again"
                ) from error
            finally:
                self.serving.show(ingest.view)

    def ingest_into(self, table: Table, view: View, load: Callable[[], Encoder], run: Run) -> Ingest:
        """Make ready to write to a table and its view. Hold the write lock."""
        from mmrag.ingest.notes import Notes
        from mmrag.ingest.write import Ingest

        manifest, options = self.serving.manifest, run.options
        return Ingest(
            table=table,
            view=view,
            load_encoder=load,
            home=self._home,
            notes=Notes(self._home, manifest.captions),
            max_pixels=options.source.max_pixels,
            max_seconds=options.source.max_seconds,
            commit_every=options.store.commit_every,
            progress=run.progress,
            profile=run.profile or Profile(),
            modalities=manifest.modalities or self.encoder.card.modalities,
            allow_remote=run.allow_remote,
        )

    def add(self, sources: Any, exclude: Sequence[str], run: Run) -> Changes:
        """Add what is given, or bring it up to date."""
        if isinstance(exclude, str):
            raise InputError(f"exclude takes a list of globs; put the one glob into a list: [{exclude!r}]")
        given = given_sources(sources)
        globs = tuple(dict.fromkeys((*run.options.source.exclude, *exclude)))
        paths = [locate(source, self._home) for source in given.paths]
        _check_paths(paths, allow_remote=run.allow_remote)
        items = self._name_items(given)
        self._check_modalities(modalities_of(paths))
        writers = _load_writers(run.options.enrich)
        with self.ingest(run) as ingest:
            changes = Changes()
            if paths:
                roots = [Root(path, globs) for path in paths]
                self._write_roots(joined(self._roots(), roots))
                changes += self._look_at(ingest, inside(self._roots(), roots))
            if given.total != 0:
                changes += ingest.add_items(items, given.total)
            changes += ingest.enrich(writers)
        return changes

    def update(self, run: Run) -> Changes:
        """Look again at all roots."""
        if not self.serving.manifest.folders:
            raise InputError("no folder was ever added to this index; name one: mmrag index FOLDER")
        writers = _load_writers(run.options.enrich)
        with self.ingest(run) as ingest:
            return self._look_at(ingest, self._roots()) + ingest.enrich(writers)

    def enrich(self, run: Run) -> Changes:
        """Have the models that a run's recipe names say what is in the pictures."""
        writers = _load_writers(run.options.enrich)
        with self.ingest(run) as ingest:
            return ingest.enrich(writers)

    def watch(self, sources: Sequence[str | Path], exclude: Sequence[str], run: Run, stop: Event) -> Iterator[Changes]:
        """Add sources, or bring everything up to date, and keep it so while files change."""
        from mmrag.ingest.watch import changed_paths, untold, when_free  # imports what a search does without

        chosen = [Root(locate(source, self._home)) for source in sources]
        told: set[Told] = set()
        writers = _load_writers(run.options.enrich)

        def watched() -> list[Root]:
            return inside(joined(chosen, self._roots()), chosen) if chosen else self._roots()

        def catch_up(only: Sequence[str] | None) -> Changes:
            with self.ingest(replace(run, captions=None)) as ingest:
                changes = self._look_at(ingest, inside(self._roots(), chosen or self._roots()), only=only)
                return changes + ingest.enrich(writers)

        begun = False
        for only in changed_paths(watched, stop):
            if begun:
                changes = when_free(partial(catch_up, only), stop)
            else:
                changes = self.add(sources, exclude, run) if sources else self.update(run)
            failed, states = untold(changes.failed, told, self.serving.view)
            told = states if only is None else told | states
            changes = replace(changes, failed=failed)
            if changes.any() or not begun:
                yield changes
            begun = True

    def remove(self, targets: Sequence[str | Path] | None, *, where: str | None, dry_run: bool) -> int:
        """Take out, or count, what goes by targets and passes a filter."""
        if targets is None and where is None:
            raise InputError('say what to remove: ids, uris or paths, or a filter such as where="year < 2000"')
        if dry_run:
            return len(find_targets(self.serving.view, self._home, self._roots(), targets, where=where)[0])
        with self.ingest(Run()) as ingest:
            stamps, kept = find_targets(ingest.view, self._home, self._roots(), targets, where=where)
            ingest.remove(stamps)
            self._write_roots(kept)
        return len(stamps)

    def restore(self, version: int) -> None:
        """Go back to an earlier version."""
        with self.ingest(Run()) as ingest:
            kept = ingest.table.kept()
            if version not in kept:
                known = ", ".join(map(str, kept)) or "none yet"
                raise InputError(f"there is no version {version} to go back to; there are: {known}")
            ingest.restore(version)

    def _verified_encoder(self) -> Encoder:
        encoder = self.encoder
        encoder.verify()
        writer = Writer(encoder.engine, encoder.precision)
        self.serving.write(replace(self.serving.manifest, writer=writer, modalities=encoder.card.modalities))
        return encoder

    def _remember(self, captions: Sequence[str | Path]) -> None:
        """Remember captions files beside those that are; none forgets them all."""
        from mmrag.ingest.notes import Notes

        uris = [to_uri(absolute(path, self._home), self._home) for path in captions]
        Notes(self._home, uris).load()
        known = dict.fromkeys((*self.serving.manifest.captions, *uris)) if uris else ()
        self.serving.write(replace(self.serving.manifest, captions=tuple(known)))

    def _name_items(self, given: Given) -> Iterable[Item]:
        """Name what a caller brings: all at once, before anything is changed, or one by one as a stream gives it."""
        if given.total == 0:
            return []
        from mmrag.ingest.items import name_items  # imports the decoders: folders may need none

        if given.total is None:
            return map(self._checked, name_items(given.items, self._home, kept="what was committed before is kept"))
        return list(map(self._checked, name_items(given.items, self._home)))

    def _checked(self, item: Item) -> Item:
        self._check_modalities({item.modality})
        return item

    def _check_modalities(self, wanted: set[Modality]) -> None:
        for modality in sorted(wanted - set(self.serving.manifest.modalities)):
            self.encoder.check_modality(modality)

    def _look_at(self, ingest: Ingest, roots: Sequence[Root], *, only: Sequence[str] | None = None) -> Changes:
        changes, kept = look_at(ingest, roots, self._roots(), only=only)
        self._write_roots(kept)
        return changes

    def _roots(self) -> list[Root]:
        return roots_of(self.serving.manifest, self._home)

    def _write_roots(self, roots: Sequence[Root]) -> None:
        self.serving.write(with_roots(self.serving.manifest, roots, self._home))


def _check_paths(paths: Sequence[str], *, allow_remote: bool) -> None:
    if any(map(is_remote, paths)):
        from mmrag.sources.remote import check_urls  # most runs do without

        check_urls(paths, allowed=allow_remote)
    missing = next((path for path in paths if not is_remote(path) and not os.path.lexists(path)), None)
    if missing is not None:
        raise InputError(f"there is no file or folder {missing!r}; nothing was changed")


def _load_writers(options: EnrichOptions) -> list[EnrichWriter]:
    if not (options.caption or options.ocr):
        return []
    from mmrag.ingest.enrich import load_writers  # imports the decoders

    return load_writers(options)
