"""Index: a corpus on disk that can be searched. The façade over ingest, stores, models and search."""

from __future__ import annotations

import dataclasses
import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, overload

from mmrag.errors import (
    InputError,
    Interrupted,
    StoreError,
)
from mmrag.ingest.given import Given, given_sources, modalities_of
from mmrag.ingest.profile import Profile
from mmrag.ingest.recipe import EnrichOptions, IndexRecipe, load_recipe
from mmrag.ingest.roots import Root, find_targets, inside, joined, look_at, roots_of, with_roots
from mmrag.models.loaded import LoadedModels
from mmrag.models.registry import absolute_name, load_encoder, to_home
from mmrag.roles import Encoder, Matcher
from mmrag.search.condition import both
from mmrag.search.parse import as_query
from mmrag.search.pipeline import Pipeline, load_pipeline, looks_at_words, run
from mmrag.similarity import vector_shape
from mmrag.sources.uri import absolute, is_remote, locate, to_uri
from mmrag.stores.auto import choose, first_choice
from mmrag.stores.files import disk_errors, size_on_disk
from mmrag.stores.manifest import Manifest, Writer
from mmrag.stores.records import to_item
from mmrag.stores.registry import WORDS_FOLDER, view_class
from mmrag.stores.serving import Serving
from mmrag.stores.view_settings import Choice, Tuning, ViewSettings
from mmrag.types import (
    WORDS,
    Changes,
    Checkup,
    Classification,
    Compaction,
    Fact,
    Failure,
    Hit,
    Item,
    Modality,
    Query,
    Version,
)

if TYPE_CHECKING:
    from PIL.Image import Image

    from mmrag.ingest.enrich import Writer as EnrichWriter
    from mmrag.ingest.watch import Told
    from mmrag.ingest.write import Ingest, Progress
    from mmrag.search.explain import Explanation
    from mmrag.stores.table import Table
    from mmrag.stores.view import View

    Addable: TypeAlias = str | Path | bytes | Image | Item
    Asked: TypeAlias = str | Path | bytes | Image | Query

logger = logging.getLogger("mmrag")


class Index:
    """A corpus on disk: made by `create`, found by `open`.

    One open Index may be shared by threads. What it sees is what was committed when it was first looked
    into; call `refresh` to see what other processes have added since.

    Attributes
    ----------
    home : path
        The folder that holds ``.mmrag``; uris are relative to it.
    """

    def __init__(
        self, home: Path, *, model: str | None = None, precision: str | None = None, device: str = "auto"
    ) -> None:
        self.home = home
        self._serving = Serving(home)
        self._models = LoadedModels(home, precision=precision, device=device)
        if model is not None:
            self._models.open_encoder(model, self.manifest.model, self.manifest.identity)

    def __repr__(self) -> str:
        """Where it is and how much it holds."""
        return f"<mmrag.Index {str(self.home)!r}: {len(self):,} items, {self.manifest.model}>"

    def __len__(self) -> int:
        """How many items can be found."""
        return len(self._view)

    @property
    def folder(self) -> Path:
        """Where the index keeps its files."""
        return self._serving.folder

    @property
    def manifest(self) -> Manifest:
        """What the index is and who wrote its vectors."""
        return self._serving.manifest

    @property
    def encoder(self) -> Encoder:
        """The model that wrote the vectors, loaded when it is first needed."""
        manifest = self.manifest
        return self._models.encoder(manifest.model, manifest.identity)

    @property
    def _view(self) -> View:
        return self._serving.view

    def _searchable(self) -> tuple[View, Encoder]:
        """Give what to search and what to ask with, of one model: `reindex` may change both in another thread."""
        while True:
            manifest, view, encoder = self.manifest, self._view, self.encoder
            if view.folder == self._serving.place(manifest) and encoder.identity == manifest.identity:
                return view, encoder
            self._serving.show(None)

    def _matcher(self, matcher: str | Matcher) -> Matcher:
        manifest = self.manifest
        return self._models.matcher(matcher, manifest.model, manifest.identity)

    def add(
        self,
        sources: Addable | Iterable[Addable],
        *,
        exclude: Sequence[str] = (),
        captions: str | Path | Sequence[str | Path] | None = None,
        recipe: str | IndexRecipe = "default",
        progress: Progress | None = None,
        profile: Profile | None = None,
        allow_remote: bool = False,
    ) -> Changes:
        """Add pictures and texts, or bring them up to date.

        A folder is compared with what the index knows of it: new and changed files are embedded,
        moved files keep their vectors, files that are gone leave the index. What cannot be read is
        reported and does not stop the others. Of folders, pictures and documents are taken, as far as the model
        embeds them: a document is many items, its chunks. Tables, tars, Parquet files and datasets, of which
        each row or sample is an item, are read where they are named themselves.

        Parameters
        ----------
        sources : path, bytes, PIL image, Item, or an iterable of these
            Paths are relative to the current folder. An iterator of Items is a stream: it is taken as it is needed,
            however long it is.
        exclude : sequence of str
            Globs to leave out of folders, by name (``*.png``) or by path below the folder.
        captions : path, sequence of paths, or None
            Files that tell of pictures, as `mmrag.sources.captions.read_captions` reads them, relative to the current
            folder. They are remembered, and looked at in each later run; None leaves those that are remembered, and
            an empty sequence forgets them.
        recipe : str or IndexRecipe
            A shipped recipe's name or a path; only its source, commit and enrich settings are used.
        progress : callable or None
            Called with how many files are done and how many there are.
        profile : Profile or None
            Where to add up what each stage took.
        allow_remote : bool
            Whether connections may be opened, for paths that are urls: ``s3://``, ``gs://`` or ``https://``.

        Returns
        -------
        Changes
            What it came to.

        Raises
        ------
        InputError
            If a path does not exist, a source is of no kind that can be added, captions cannot be read, or two items
            have one id or one uri and part. What a stream gave before that may be in the index.
        ModelError
            If the model does not see pictures, or does not read texts, and such are given.
        IndexLockedError
            If another process is writing.
        Interrupted
            On Ctrl-C, after what was done is committed.
        """
        options = load_recipe(recipe)
        if isinstance(exclude, str):
            raise InputError(f"exclude takes a list of globs; put the one glob into a list: [{exclude!r}]")
        given = given_sources(sources)
        globs = tuple(dict.fromkeys((*options.source.exclude, *exclude)))
        paths = [locate(source, self.home) for source in given.paths]
        if any(map(is_remote, paths)):
            from mmrag.sources.remote import check_urls  # most runs do without

            check_urls(paths, allowed=allow_remote)
        missing = next((path for path in paths if not is_remote(path) and not os.path.lexists(path)), None)
        if missing is not None:
            raise InputError(f"there is no file or folder {missing!r}; nothing was changed")
        items = self._name_items(given)
        self._check_modalities(modalities_of(paths))
        writers = _load_writers(options.enrich)
        with self._ingest(options, progress, profile, captions, allow_remote=allow_remote) as ingest:
            changes = Changes()
            if paths:
                roots = [Root(path, globs) for path in paths]
                self._write_roots(joined(self._roots(), roots))
                changes += self._look_at(ingest, inside(self._roots(), roots))
            if given.total != 0:
                changes += ingest.add_items(items, given.total)
            changes += ingest.enrich(writers)
        return changes

    def update(
        self,
        *,
        captions: str | Path | Sequence[str | Path] | None = None,
        recipe: str | IndexRecipe = "default",
        progress: Progress | None = None,
        profile: Profile | None = None,
        allow_remote: bool = False,
    ) -> Changes:
        """Look again at everything that was added by its path, with the globs and captions it was added with.

        A folder that is not there any more, such as an unmounted disk, is reported as a failure, and
        its pictures are kept; so is a url, if `allow_remote` is not given. Parameters and errors are those of `add`.
        """
        if not self.manifest.folders:
            raise InputError("no folder was ever added to this index; name one: mmrag index FOLDER")
        options = load_recipe(recipe)
        writers = _load_writers(options.enrich)
        with self._ingest(options, progress, profile, captions, allow_remote=allow_remote) as ingest:
            return self._look_at(ingest, self._roots()) + ingest.enrich(writers)

    def enrich(self, *, caption: str | None = None, ocr: bool = False, progress: Progress | None = None) -> Changes:
        """Have models say what is in the pictures, where they have not yet; nothing is embedded.

        A run that is stopped keeps what it has done, and the same call goes on. An index recipe whose ``[enrich]``
        says the same has `add`, `update` and `watch` do it with each new picture.

        Parameters
        ----------
        caption : str or None
            The generator that writes a caption: "builtin", or as `mmrag models` lists them.
        ocr : bool
            Whether to read what stands in the pictures; needs the extra ``ocr``.
        progress : callable or None
            Called with how many pictures are done and how many there are.

        Raises
        ------
        ModelError
            If there is no such generator, or an extra is missing.
        IndexLockedError, Interrupted
            As `add`.
        """
        writers = _load_writers(EnrichOptions(caption, ocr))
        with self._ingest(IndexRecipe(), progress) as ingest:
            return ingest.enrich(writers)

    def watch(
        self,
        sources: str | Path | Sequence[str | Path] | None = None,
        *,
        exclude: Sequence[str] = (),
        captions: str | Path | Sequence[str | Path] | None = None,
        recipe: str | IndexRecipe = "default",
        progress: Progress | None = None,
        profile: Profile | None = None,
        stop: threading.Event | None = None,
        allow_remote: bool = False,
    ) -> Iterator[Changes]:
        """Bring the index up to date, and keep it so while files change: only what has changed is looked at.

        The lock is held only while a change is made; where another process holds it, the change waits. The
        index is then the one that `update` would have made. `WATCHFILES_FORCE_POLLING=1` in the
        environment has files compared where the system does not tell of changes, as on network drives.

        Parameters
        ----------
        sources : path, sequence of paths, or None
            Folders and files to add, as for `add`; by default everything that was added by its path.
        exclude, captions, recipe, progress, profile, allow_remote
            As for `add`. A change of a captions file is seen by the next run, and what is behind urls is looked at
            when everything is.
        stop : Event or None
            Ends it when it is set, within a second.

        Yields
        ------
        Changes
            Of the first run, and then of each that changed something. A failure is told once while its file
            stays the same.

        Raises
        ------
        WatchError
            If the system cannot watch that many folders.
        InputError, IndexLockedError, Interrupted
            As `add`.
        """
        from mmrag.ingest.watch import changed_paths, untold, when_free  # imports what a search does without

        stop = stop or threading.Event()
        options, named = load_recipe(recipe), [] if sources is None else _as_list(sources)
        chosen = [Root(locate(source, self.home)) for source in named]
        told: set[Told] = set()
        writers = _load_writers(options.enrich)

        def watched() -> list[Root]:
            return inside(joined(chosen, self._roots()), chosen) if chosen else self._roots()

        def catch_up(only: Sequence[str] | None) -> Changes:
            with self._ingest(options, progress, profile, allow_remote=allow_remote) as ingest:
                changes = self._look_at(ingest, inside(self._roots(), chosen or self._roots()), only=only)
                return changes + ingest.enrich(writers)

        def begin() -> Changes:
            if not named:
                return self.update(
                    captions=captions, recipe=options, progress=progress, profile=profile, allow_remote=allow_remote
                )
            return self.add(
                named,
                exclude=exclude,
                captions=captions,
                recipe=options,
                progress=progress,
                profile=profile,
                allow_remote=allow_remote,
            )

        begun = False
        for only in changed_paths(watched, stop):
            changes = when_free(partial(catch_up, only), stop) if begun else begin()
            failed, states = untold(changes.failed, told, self._view)
            told = states if only is None else told | states
            changes = replace(changes, failed=failed)
            if changes.any() or not begun:
                yield changes
            begun = True

    def remove(
        self,
        targets: str | Path | Sequence[str | Path] | None = None,
        *,
        where: str | None = None,
        dry_run: bool = False,
    ) -> int:
        """Take items out of the index; files are not touched.

        A folder that is removed is forgotten: `update` looks at it no more, unless it lies in another. One of which
        only what passes a filter is removed is not: what was removed comes back when it is looked at again.

        Parameters
        ----------
        targets : str, path, a sequence of these, or None
            Ids, uris, or paths of files or folders, relative to the current folder; by default everything.
        where : str or None
            Only what passes this filter, as for `search`; what could not be read may pass it, too.
        dry_run : bool
            Only count.

        Returns
        -------
        int
            How many items were removed, or would be.

        Raises
        ------
        InputError
            If a target matches nothing; then nothing is removed. If neither targets nor a filter is given.
        QueryError
            If the filter is wrong, with the place.
        """
        if targets is None and where is None:
            raise InputError('say what to remove: ids, uris or paths, or a filter such as where="year < 2000"')
        listed = None if targets is None else _as_list(targets)
        if dry_run:
            return len(find_targets(self._view, self.home, self._roots(), listed, where=where)[0])
        with self._ingest(IndexRecipe()) as ingest:
            stamps, kept = find_targets(ingest.view, self.home, self._roots(), listed, where=where)
            ingest.remove(stamps)
            self._write_roots(kept)
        return len(stamps)

    def versions(self) -> list[Version]:
        """List the versions that `restore` can go back to: the state after each of the last runs, oldest first."""
        return self._serving.open_table().versions()

    def restore(self, version: int) -> None:
        """Go back to an earlier version; that is a new version in its turn.

        The next `update` brings the index up to date with its folders again.

        Parameters
        ----------
        version : int
            A number that `versions` lists.

        Raises
        ------
        InputError
            If there is no such version, with those that there are.
        """
        with self._ingest(IndexRecipe()) as ingest:
            kept = ingest.table.kept()
            if version not in kept:
                known = ", ".join(map(str, kept)) or "none yet"
                raise InputError(f"there is no version {version} to go back to; there are: {known}")
            ingest.restore(version)

    def reindex(
        self,
        model: str,
        *,
        precision: str | None = None,
        device: str = "auto",
        recipe: str | IndexRecipe = "default",
        progress: Progress | None = None,
        profile: Profile | None = None,
        allow_remote: bool = False,
    ) -> Changes:
        """Embed everything again with another model.

        The new vectors are written beside the old ones, which serve searches until all is done; then the new ones
        take their place in one step. Files are read again as they are now, texts are taken from the index. What
        cannot be read any more is kept as a failure. An interrupted or killed run leaves the old index serving, and
        the same call goes on where it was. Whoever has the index open keeps what was opened, until `refresh`. Earlier
        versions, which hold the old model's vectors, cannot be restored afterwards.

        Parameters
        ----------
        model : str
            "builtin", the path of a model folder, a short name of the catalogue, or "family:reference".
        precision, device
            As for `create`.
        recipe, progress, profile, allow_remote
            As for `add`.

        Returns
        -------
        Changes
            `unchanged` counts what has the content that it had, `updated` what has changed since.

        Raises
        ------
        InputError
            If a picture can only be brought by its program again, or an indexed folder is gone.
        ModelError
            If there is no such encoder, or it cannot embed what the index holds.
        StoreError
            If there is not enough room for both.
        IndexLockedError
            If another process is writing.
        Interrupted
            On Ctrl-C, after what was done is committed.
        """
        encoder = load_encoder(model, precision=precision, device=device)
        encoder.verify()
        with self._serving.writing():
            new = replace(self.manifest, model=to_home(absolute_name(model), self.home))
            try:
                if not self.manifest.identity.difference(encoder.identity):
                    self._switch(new)
                    return Changes(unchanged=len(self._view))
                options = load_recipe(recipe)
                new, changes = self._embed_again(encoder, new, options, progress, profile, allow_remote=allow_remote)
                self._models.compute(precision=precision, device=device)
                self._switch(new)
            except KeyboardInterrupt as error:
                raise Interrupted("stopped; searches go on. Run the same command to go on") from error
        return changes

    def change_view(self, recipe: str | IndexRecipe) -> None:
        """Let another kind of view make search fast; it is built beside the one that serves until it is done.

        Parameters
        ----------
        recipe : str or IndexRecipe
            A shipped recipe's name ("hnsw"; "default" leaves it to mmrag) or a path; only its view is used.

        Raises
        ------
        MissingExtraError
            If the view needs a package that is not installed.
        RecipeError
            If there is no such recipe, or it does not suit the vectors.
        IndexLockedError
            If another process is writing.
        """
        settings, choice = first_choice(load_recipe(recipe).view)
        with self._ingest(IndexRecipe()) as ingest:
            if choice.auto:
                settings, why = choose(len(ingest.view), ingest.view.shape, target=settings.target)
                choice = Choice(True, why)
            ingest.view = self._serve(ingest.view, ingest.table, settings, choice)

    def tune(self, queries: Sequence[str] | None = None, *, target: float | None = None) -> Tuning:
        """Find how hard the view must look, and have it look so from now on.

        Parameters
        ----------
        queries : sequence of str or None
            What people ask of this corpus, the newest last; by default its own texts, or everyday things.
        target : float or None
            Share of the ten best hits of an exact search to be found, above 0 and up to 1; by default the view's.

        Raises
        ------
        InputError
            If the view is exact and finds all, or there is no query.
        ModelError
            If the model reads no words.
        IndexLockedError
            If another process is writing.
        """
        from mmrag.search.tune import choose_queries, tune

        self.encoder.check_modality("text")
        with self._ingest(IndexRecipe()) as ingest:
            if ingest.view.kind == "exact":
                raise InputError(
                    "the view of this index compares every vector and finds all: there is nothing to tune. At a "
                    "million pictures another view is faster: mmrag compact --view hnsw"
                )
            wanted = self.manifest.view if target is None else replace(self.manifest.view, target=target)
            asked, source = choose_queries(ingest.view, queries)
            settings, tuning = tune(ingest.view, self.encoder, asked, source, target=wanted.target)
            self._serving.write(replace(self.manifest, view=settings, tuning=tuning))
            ingest.view = ingest.view.looking(settings)
        return tuning

    def check(self, *, progress: Progress | None = None) -> Checkup:
        """Look at every row: whether the table is sound, and the view says the same.

        The view is made again from the table where it does not, and what interrupted writers left is removed.
        Rows of the table that are wrong cannot be mended; what to do is said.

        Parameters
        ----------
        progress : callable or None
            Called with how much is done and how much there is.

        Raises
        ------
        IndexLockedError
            If another process is writing.
        """
        from mmrag.ingest.reindex import drop_stores
        from mmrag.stores.check import check_store, with_words

        with self._serving.writing():
            store, table = self._serving.store, self._serving.open_table()
            view, checkup = check_store(self.folder, store, table, self.manifest.view, progress)
            if view is not None:
                self._serving.show(view)
            checkup = checkup if view is None else with_words(checkup, view)
            dropped = ", ".join(drop_stores(self.folder, self.manifest.store))
        told = [f"removed what an interrupted or finished reindex left: {dropped}"] if dropped else []
        return replace(checkup, mended=(*checkup.mended, *told))

    def compact(self, *, view: str | IndexRecipe | None = None) -> Compaction:
        """Join what many runs have left into one, without what is deleted; searches go on.

        Versions that can be restored stay.

        Parameters
        ----------
        view : str, IndexRecipe or None
            A recipe, or its name or path, whose view the index gets then; by default it keeps its own.

        Returns
        -------
        Compaction
            What it came to.

        Raises
        ------
        IndexLockedError
            If another process is writing.
        """
        from mmrag.stores.compact import compact_store

        if view is not None:
            self.change_view(view)
        with self._serving.writing():
            table = self._serving.open_table()
            served = self._serving.synced(self._serving.published_view(), table)
            served, compaction = compact_store(self.folder, table, served)
            self._serving.show(served)
        if view is not None:
            self.change_view(view)
        return compaction

    @overload
    def search(  # type: ignore[overload-overlap]
        self,
        query: Asked,
        *,
        k: int | None = None,
        min_score: float | None = None,
        pipeline: str | Pipeline = "default",
        rerank: str | Matcher | None = None,
        top: int | None = None,
        where: str | None = None,
        progress: Progress | None = None,
    ) -> list[Hit]: ...

    @overload
    def search(
        self,
        query: Sequence[Asked],
        *,
        k: int | None = None,
        min_score: float | None = None,
        pipeline: str | Pipeline = "default",
        rerank: str | Matcher | None = None,
        top: int | None = None,
        where: str | None = None,
        progress: Progress | None = None,
    ) -> list[list[Hit]]: ...

    def search(
        self,
        query: Asked | Sequence[Asked],
        *,
        k: int | None = None,
        min_score: float | None = None,
        pipeline: str | Pipeline = "default",
        rerank: str | Matcher | None = None,
        top: int | None = None,
        where: str | None = None,
        progress: Progress | None = None,
    ) -> list[Hit] | list[list[Hit]]:
        """Find the items that answer a query.

        Parameters
        ----------
        query : str, Path, bytes, PIL image, Query, or a sequence of these
            A str is words, in the query language that `mmrag.parse_query` describes: ``'a dog + on a beach'``,
            ``'harbour "Fujifilm X100V"'``. A Query can say more; the rest are pictures. Several queries are encoded
            in one batch.
        k : int or None
            How many hits; by default the pipeline's.
        min_score : float or None
            Lowest score of a hit, by default the pipeline's: of the kind that its hits are ranked by.
        pipeline : str or Pipeline
            A shipped recipe's name, a path that ends in ``.toml``, or a Pipeline. "hybrid" looks at the words of items
            too; the first such search makes the full-text index.
        rerank : str, Matcher or None
            What judges the best candidates again, by name or loaded; by default the pipeline's, if it names one.
            By name, it is loaded in the precision and onto the device that this index was opened with. Where it also
            wrote the index, and computes as the index was opened to, one network does both.
        top : int or None
            How many candidates of each query it judges; by default the pipeline's, or 128. The others keep their
            order behind, and so does what it cannot judge.
        where : str or None
            A filter, such as ``"year >= 2022 and camera like 'Canon%'"``: only items that pass it can be found. It
            counts beside that of a Query. `facts` lists the names; `mmrag.search.condition` says what can be written.
        progress : callable or None
            Called with how many candidates are judged and how many there are.

        Returns
        -------
        list of Hit, or list of list of Hit for a sequence of queries
            By rank. Fewer than k if the index holds fewer.

        Raises
        ------
        QueryError
            If a query is empty or unreadable, the matcher can judge nothing of what was found for it, or a filter is
            wrong, with the place.

        Examples
        --------
        >>> index = mmrag.open("photos")  # doctest: +SKIP
        >>> [hit.item.uri for hit in index.search("a dog on a beach", k=3)]  # doctest: +SKIP
        """
        queries = [as_query(asked) for asked in _as_list(query)]
        if where is not None:
            queries = [replace(one, where=both(one.where, where)) for one in queries]
        name = rerank.card.name if isinstance(rerank, Matcher) else rerank
        chosen = load_pipeline(pipeline).changed(k=k, min_score=min_score, rerank=name, top=top)
        matcher = None
        if chosen.rerank:
            matcher = self._matcher(rerank if isinstance(rerank, Matcher) else chosen.rerank.model)
        self.encoder.prepare(words=any(one.words for one in queries))
        view, encoder = self._searchable()
        hits = run(
            chosen,
            queries,
            view=view,
            full_text=self._serving.words_of(view) if looks_at_words(chosen, queries) else None,
            encoder=encoder,
            matcher=matcher,
            home=self.home,
            features_folder=self.folder / "features",
            progress=progress,
        )
        return hits if _is_many(query) else hits[0]

    def explain(
        self, query: Asked, hits: Sequence[Hit], *, rerank: str | Matcher | None = None, tokens: bool = False
    ) -> Iterator[Explanation]:
        """Tell which parts of the pictures that were found have to do with what was asked.

        Parameters
        ----------
        query : str, Path, bytes, PIL image or Query
            What was asked.
        hits : sequence of Hit
            What `search` found for it.
        rerank : str, Matcher or None
            What has judged them: it tells what it looked at. By default the index's own model tells cosines.
        tokens : bool
            Whether to explain token by token too; needs a matcher.

        Yields
        ------
        Explanation
            Of each hit that is a picture and can be read; of the others, the log tells.

        Raises
        ------
        ModelError
            If the model cannot tell.
        QueryError
            If tokens are asked for without a matcher or without words.
        """
        from mmrag.search.explain import explain  # imports the decoders

        matcher = None if rerank is None else self._matcher(rerank)
        view, encoder = self._searchable()
        asked = as_query(query)
        return explain(asked, hits, view=view, encoder=encoder, matcher=matcher, home=self.home, tokens=tokens)

    def classify(
        self,
        labels: Sequence[str] | None = None,
        *,
        templates: str | Sequence[str] | None = None,
        k: int = 5,
        logit_scale: float | None = None,
        progress: Progress | None = None,
    ) -> Iterator[Classification]:
        """Tell which of some labels fit the pictures of the index, by the vectors that it holds: none is opened.

        Parameters, results and errors as those of `mmrag.classify`; the pictures are sorted by uri.
        """
        from mmrag.zeroshot.stored import classify_stored

        return classify_stored(
            *self._searchable(),
            labels,
            templates=templates,
            k=k,
            logit_scale=logit_scale,
            progress=progress,
        )

    def get(self, item_id: str) -> Item:
        """Look up an item by its id.

        Raises
        ------
        InputError
            If no item has this id.
        """
        view = self._view
        refs = view.find("id", [item_id])
        if not refs:
            raise InputError(f"no item of this index has the id {item_id!r}")
        return to_item(view.records(refs)[0])

    def count(self, where: str) -> int:
        """Count the items that can be found and pass a filter, which is as for `search`.

        Raises
        ------
        QueryError
            If the filter is wrong, with the place.
        """
        from mmrag.search.where import passing  # imports pyarrow.compute

        return passing(self._view, where)

    def facts(self) -> list[Fact]:
        """List what filters can ask for: the facts of items, and what else is known of them, by name."""
        from mmrag.stores.columns import facts_in  # imports pyarrow.compute

        return facts_in(self._view)

    def failures(self) -> list[Failure]:
        """List every file and item that could not be read when it was last tried, and why."""
        rows = self._view.scan(("uri", "failure", "part"))
        return [Failure(uri, reason, part) for _, uri, reason, part in rows if reason is not None]

    def refresh(self) -> None:
        """See what other processes have committed since this Index was opened."""
        self._serving.refresh()

    def info(self) -> dict[str, Any]:
        """Describe the index: counts, model, folders, size on disk."""
        kinds = ("text", *WORDS)
        rows = list(self._view.scan(("modality", "failure", *kinds)))
        sound = [row for row in rows if row[2] is None]
        found = [modality for _, modality, *_ in sound]
        pictures = [row[3:] for row in sound if row[1] == "image"]
        return {
            "home": str(self.home),
            "items": len(found),
            "images": found.count("image"),
            "texts": found.count("text"),
            "failed": len(rows) - len(found),
            "words": {kind: sum(bool(row[n]) for row in pictures) for n, kind in enumerate(kinds)},
            "model": self.manifest.model,
            "identity": dataclasses.asdict(self.manifest.identity),
            "view": dataclasses.asdict(self.manifest.view),
            "choice": dataclasses.asdict(self.manifest.choice),
            "tuning": dataclasses.asdict(self.manifest.tuning) if self.manifest.tuning else None,
            "table_version": self._view.table_version,
            "folders": [dataclasses.asdict(one) for one in self.manifest.folders],
            "captions": list(self.manifest.captions),
            "created": self.manifest.created,
            "format": self.manifest.format,
            "writer": dataclasses.asdict(self.manifest.writer),
            "keep_versions": self.manifest.keep_versions,
            "bytes": size_on_disk(self.folder),
            "full_text_bytes": size_on_disk(self._view.folder.parent / WORDS_FOLDER),
        }

    def _check_modalities(self, wanted: set[Modality]) -> None:
        for modality in sorted(wanted - set(self.manifest.modalities)):
            self.encoder.check_modality(modality)

    @contextmanager
    def _ingest(
        self,
        options: IndexRecipe,
        progress: Progress | None = None,
        profile: Profile | None = None,
        captions: str | Path | Sequence[str | Path] | None = None,
        *,
        allow_remote: bool = False,
    ) -> Iterator[Ingest]:
        with self._serving.writing():
            if captions is not None:
                self._go_by(_as_list(captions))
            table = self._serving.open_table()
            published = self._serving.published_view()
            view = self._serving.synced(published, table)
            ingest = self._ingest_into(table, view, self._verified_encoder, options, progress, profile)
            ingest.allow_remote = allow_remote
            finish = partial(ingest.finish, since=published.table_version, keep_versions=self.manifest.keep_versions)
            try:
                yield ingest
                finish()
                self._serving.keep_words_up(ingest.view)
                self._choose_again(ingest)
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
                    f"what was written last to {self.folder} was cut short, as by a full disk, and is taken back. What "
                    "was committed before is kept and can be searched; make room, and run the same command again"
                ) from error
            finally:
                self._serving.show(ingest.view)

    def _embed_again(
        self,
        encoder: Encoder,
        manifest: Manifest,
        options: IndexRecipe,
        progress: Progress | None,
        profile: Profile | None,
        *,
        allow_remote: bool,
    ) -> tuple[Manifest, Changes]:
        """Fill a new store with what this index holds, and give the manifest that names it."""
        from mmrag.ingest.reindex import check_sources, check_space, embed_again, open_store, store_name

        old = self._serving.synced(self._serving.published_view(), self._serving.open_table())
        for modality in {modality for _, modality in old.scan(("modality",))}:
            encoder.check_modality(modality)
        check_sources(old, manifest, self.home, allow_remote=allow_remote)
        identity, name = encoder.identity, store_name(encoder.identity)
        view_class(manifest.view.kind).check(manifest.view, identity.dimension)
        check_space(old, vector_shape(identity.dimension, identity.vectors), self.folder / name)
        table, view = open_store(self.folder / name, manifest.view, identity)
        ingest = self._ingest_into(table, view, lambda: encoder, options, progress, profile)
        changes = embed_again(old, ingest, keep_versions=manifest.keep_versions)
        writer = Writer(encoder.engine, encoder.precision)
        modalities = encoder.card.modalities
        new = replace(manifest, identity=identity, store=name, writer=writer, modalities=modalities, tuning=None)
        return new, changes

    def _switch(self, manifest: Manifest) -> None:
        """Let the store that a manifest names serve from now on, in one step, and delete the others."""
        from mmrag.ingest.reindex import drop_stores

        with disk_errors(self.folder):
            manifest.write(self.folder)
        self._serving.go_by(manifest)
        drop_stores(self.folder, manifest.store)

    def _choose_again(self, ingest: Ingest) -> None:
        """Where mmrag chooses the view, see whether another one suits what the corpus has become."""
        if not self.manifest.choice.auto:
            return
        chosen, why = choose(len(ingest.view), ingest.view.shape, target=self.manifest.view.target)
        if chosen.kind != self.manifest.view.kind:
            ingest.view = self._serve(ingest.view, ingest.table, chosen, Choice(True, why))
        elif ingest.view.published:
            self._serving.write(replace(self.manifest, choice=Choice(True, why)))

    def _serve(self, old: View, table: Table, settings: ViewSettings, choice: Choice) -> View:
        """Build and tune another view, let it serve from then on, in one step, and delete the old one."""
        from mmrag.search.tune import choose_queries, tune
        from mmrag.stores.rebuild import build_beside, drop_other_views

        view, tuning = build_beside(old, table, self._serving.store, settings), None
        if settings.kind != "exact" and "text" in self.encoder.card.modalities and len(view):
            settings, tuning = tune(view, self.encoder, *choose_queries(view, None))
        self._serving.write(replace(self.manifest, view=settings, choice=choice, tuning=tuning))
        drop_other_views(self._serving.store, settings)
        return view.looking(settings)

    def _ingest_into(
        self,
        table: Table,
        view: View,
        load: Callable[[], Encoder],
        options: IndexRecipe,
        progress: Progress | None,
        profile: Profile | None,
    ) -> Ingest:
        from mmrag.ingest.notes import Notes
        from mmrag.ingest.write import Ingest

        return Ingest(
            table=table,
            view=view,
            load_encoder=load,
            home=self.home,
            notes=Notes(self.home, self.manifest.captions),
            max_pixels=options.source.max_pixels,
            max_seconds=options.source.max_seconds,
            commit_every=options.store.commit_every,
            progress=progress,
            profile=profile or Profile(),
            modalities=self.manifest.modalities or self.encoder.card.modalities,
        )

    def _verified_encoder(self) -> Encoder:
        encoder = self.encoder
        encoder.verify()
        writer = Writer(encoder.engine, encoder.precision)
        self._serving.write(replace(self.manifest, writer=writer, modalities=encoder.card.modalities))
        return encoder

    def _go_by(self, captions: Sequence[str | Path]) -> None:
        """Remember captions files beside those that are; none forgets them all."""
        from mmrag.ingest.notes import Notes

        uris = [to_uri(absolute(path, self.home), self.home) for path in captions]
        Notes(self.home, uris).load()
        known = dict.fromkeys((*self.manifest.captions, *uris)) if uris else ()
        self._serving.write(replace(self.manifest, captions=tuple(known)))

    def _look_at(self, ingest: Ingest, roots: Sequence[Root], *, only: Sequence[str] | None = None) -> Changes:
        changes, kept = look_at(ingest, roots, self._roots(), only=only)
        self._write_roots(kept)
        return changes

    def _name_items(self, given: Given) -> Iterable[Item]:
        """Name what a caller brings: all at once, before anything is changed, or one by one as a stream gives it."""
        if given.total == 0:
            return []
        from mmrag.ingest.items import name_items  # imports the decoders: folders may need none

        if given.total is None:
            return map(self._checked, name_items(given.items, self.home, kept="what was committed before is kept"))
        return list(map(self._checked, name_items(given.items, self.home)))

    def _checked(self, item: Item) -> Item:
        self._check_modalities({item.modality})
        return item

    def _roots(self) -> list[Root]:
        return roots_of(self.manifest, self.home)

    def _write_roots(self, roots: Sequence[Root]) -> None:
        self._serving.write(with_roots(self.manifest, roots, self.home))


def _load_writers(options: EnrichOptions) -> list[EnrichWriter]:
    if not (options.caption or options.ocr):
        return []
    from mmrag.ingest.enrich import load_writers  # imports the decoders

    return load_writers(options)


def _is_many(given: Any) -> bool:
    return isinstance(given, Iterable) and not isinstance(given, (str, bytes))


def _as_list(given: Any) -> list[Any]:
    return list(given) if _is_many(given) else [given]
