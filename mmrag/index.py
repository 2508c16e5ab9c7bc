"""Index: a corpus on disk that can be searched. The façade over ingest, stores, models and search."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, overload

from mmrag.errors import InputError
from mmrag.ingest import upkeep
from mmrag.ingest.given import as_list, is_many
from mmrag.ingest.profile import Profile
from mmrag.ingest.recipe import EnrichOptions, IndexRecipe, load_recipe
from mmrag.ingest.session import Run, Session
from mmrag.models.loaded import LoadedModels
from mmrag.roles import Encoder, Generator, Judgement, Matcher
from mmrag.search.condition import both
from mmrag.search.parse import as_query
from mmrag.search.pipeline import Pipeline, load_pipeline, looks_at_words, run
from mmrag.stores.about import describe
from mmrag.stores.manifest import Manifest
from mmrag.stores.records import to_item
from mmrag.stores.serving import Serving
from mmrag.stores.view_settings import Tuning
from mmrag.types import (
    Changes,
    Checkup,
    Classification,
    Compaction,
    Duplicates,
    Fact,
    Failure,
    Hit,
    Item,
    Query,
    Version,
)

if TYPE_CHECKING:
    from PIL.Image import Image

    from mmrag.ingest.write import Progress
    from mmrag.search.explain import Explanation
    from mmrag.stores.view import View

    Addable: TypeAlias = str | Path | bytes | Image | Item
    Asked: TypeAlias = str | Path | bytes | Image | Query


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
        self._session = Session(self._serving, self._models)
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
        return self._session.encoder

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

    def matcher(self, matcher: str | Matcher) -> Matcher:
        """Load a matcher as this index was opened to compute; if it also wrote the vectors, one network does both."""
        manifest = self.manifest
        return self._models.matcher(matcher, manifest.model, manifest.identity)

    def generator(self, generator: str | Generator) -> Generator:
        """Load a generator as this index was opened to compute, once."""
        return self._models.generator(generator)

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
        return self._session.add(sources, exclude, Run(load_recipe(recipe), progress, profile, captions, allow_remote))

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
        return self._session.update(Run(load_recipe(recipe), progress, profile, captions, allow_remote))

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
        return self._session.enrich(Run(IndexRecipe(enrich=EnrichOptions(caption, ocr)), progress))

    def describe(
        self, items: Sequence[Item], *, generator: str | Generator = "builtin", keep: bool = True
    ) -> list[Item]:
        """Give pictures that have no words a caption by a model, and keep it in the index, as `enrich` does with all.

        Parameters
        ----------
        items : sequence of Item
            Of this index. Those that have words, those of which a model has found nothing to say, and those that
            cannot be read stay as they are.
        generator : str or Generator
            What writes the captions, by name or loaded. By name it is loaded once, when the first is needed.
        keep : bool
            Whether they are kept. While another process is writing, or where nothing can be written, they are not,
            and the log says so.

        Returns
        -------
        list of Item
            The same, in their order, with their words.

        Raises
        ------
        ModelError
            If there is no such generator, or it sees no pictures.
        """
        from mmrag.ingest.describe import describe  # imports the decoders

        return describe(self._session, items, generator, keep=keep)

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
        run = Run(load_recipe(recipe), progress, profile, captions, allow_remote)
        named = [] if sources is None else as_list(sources)
        yield from self._session.watch(named, exclude, run, stop or threading.Event())

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
        listed = None if targets is None else as_list(targets)
        return self._session.remove(listed, where=where, dry_run=dry_run)

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
        self._session.restore(version)

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
        run = Run(load_recipe(recipe), progress, profile, allow_remote=allow_remote)
        return upkeep.reindex(self._session, model, run, precision=precision, device=device)

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
        upkeep.change_view(self._session, load_recipe(recipe))

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
        return upkeep.tune_view(self._session, queries, target)

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
        return upkeep.check(self._serving, progress)

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
        return upkeep.compact(self._session, None if view is None else load_recipe(view))

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
        queries = [as_query(asked) for asked in as_list(query)]
        if where is not None:
            queries = [replace(one, where=both(one.where, where)) for one in queries]
        name = rerank.card.name if isinstance(rerank, Matcher) else rerank
        chosen = load_pipeline(pipeline).changed(k=k, min_score=min_score, rerank=name, top=top)
        matcher = None
        if chosen.rerank:
            matcher = self.matcher(rerank if isinstance(rerank, Matcher) else chosen.rerank.model)
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
        return hits if is_many(query) else hits[0]

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

        matcher = None if rerank is None else self.matcher(rerank)
        view, encoder = self._searchable()
        asked = as_query(query)
        return explain(asked, hits, view=view, encoder=encoder, matcher=matcher, home=self.home, tokens=tokens)

    def match(self, texts: Sequence[str], ids: Sequence[str], *, matcher: str | Matcher = "builtin") -> Judgement:
        """Tell how well texts match items: each text with each item.

        Parameters
        ----------
        texts : sequence of str
            Such as captions, or sentences.
        ids : sequence of str
            Of items.
        matcher : str or Matcher
            What judges, by name or loaded: pictures, or where it sees none, texts.

        Returns
        -------
        Judgement
            Each array ``(texts, ids)``; not a number for what is not in the index, cannot be read, or is of
            another modality than the matcher judges.
        """
        from mmrag.search.match import match_items  # most uses of an index do without

        return match_items(
            texts,
            ids,
            view=self._view,
            matcher=self.matcher(matcher),
            home=self.home,
            features_folder=self.folder / "features",
        )

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

    def duplicates(self, kind: Literal["exact", "near"] | None = None) -> Duplicates:
        """List the items that are the same as others, and those that look or read nearly the same. Nothing is deleted.

        Parameters
        ----------
        kind : {"exact", "near"} or None
            Only those with the very same content, or only groups of different contents; by default both.
        """
        from mmrag.search.duplicates import find_duplicates  # imports pyarrow.compute

        return find_duplicates(self._view, kind)

    def failures(self) -> list[Failure]:
        """List every file and item that could not be read when it was last tried, and why."""
        rows = self._view.scan(("uri", "failure", "part"))
        return [Failure(uri, reason, part) for _, uri, reason, part in rows if reason is not None]

    def refresh(self) -> None:
        """See what other processes have committed since this Index was opened."""
        self._serving.refresh()

    def info(self) -> dict[str, Any]:
        """Describe the index: counts, model, folders, size on disk."""
        return describe(self._serving)
