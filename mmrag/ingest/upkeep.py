"""Upkeep of an index: another model, another view, tuning, checking and making it small. Errors as those of `Index`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from mmrag.errors import InputError, Interrupted
from mmrag.ingest.recipe import IndexRecipe
from mmrag.ingest.session import Run, Session
from mmrag.ingest.views import exchange
from mmrag.models.registry import absolute_name, load_encoder, to_home
from mmrag.roles import Encoder
from mmrag.similarity import vector_shape
from mmrag.stores.auto import choose, first_choice
from mmrag.stores.files import disk_errors
from mmrag.stores.manifest import Manifest, Writer
from mmrag.stores.registry import view_class
from mmrag.stores.serving import Serving
from mmrag.stores.view_settings import Choice, Tuning
from mmrag.types import Changes, Checkup, Compaction

if TYPE_CHECKING:
    from mmrag.ingest.write import Progress


def reindex(session: Session, model: str, run: Run, *, precision: str | None, device: str) -> Changes:
    """Embed everything again with another model."""
    encoder = load_encoder(model, precision=precision, device=device)
    encoder.verify()
    serving = session.serving
    with serving.writing():
        new = replace(serving.manifest, model=to_home(absolute_name(model), serving.home))
        try:
            if not serving.manifest.identity.difference(encoder.identity):
                _switch(serving, new)
                return Changes(unchanged=len(serving.view))
            new, changes = _embed_again(session, encoder, new, run)
            session.models.compute(precision=precision, device=device)
            _switch(serving, new)
        except KeyboardInterrupt as error:
            raise Interrupted("stopped; searches go on. Run the same command to go on") from error
    return changes


def change_view(session: Session, recipe: IndexRecipe) -> None:
    """Let the view of a recipe serve."""
    settings, choice = first_choice(recipe.view)
    with session.ingest(Run()) as ingest:
        if choice.auto:
            settings, why = choose(len(ingest.view), ingest.view.shape, target=settings.target)
            choice = Choice(True, why)
        exchange(session.serving, session.models, ingest, settings, choice)


def tune_view(session: Session, queries: Sequence[str] | None, target: float | None) -> Tuning:
    """Find how hard the view must look, and have it look so."""
    from mmrag.search.tune import choose_queries, tune

    session.encoder.check_modality("text")
    with session.ingest(Run()) as ingest:
        if ingest.view.kind == "exact":
            raise InputError(
                "the view of this index compares every vector and finds all: there is nothing to tune. At a "
                "million pictures another view is faster: mmrag compact --view hnsw"
            )
        manifest = session.serving.manifest
        wanted = manifest.view if target is None else replace(manifest.view, target=target)
        asked, source = choose_queries(ingest.view, queries)
        settings, tuning = tune(ingest.view, session.encoder, asked, source, target=wanted.target)
        session.serving.write(replace(manifest, view=settings, tuning=tuning))
        ingest.view = ingest.view.looking(settings)
    return tuning


def check(serving: Serving, progress: Progress | None) -> Checkup:
    """Look at every row, and mend what can be made again."""
    from mmrag.ingest.reindex import drop_stores
    from mmrag.stores.check import check_store, with_words

    with serving.writing():
        view, checkup = check_store(
            serving.folder, serving.store, serving.open_table(), serving.manifest.view, progress
        )
        if view is not None:
            serving.show(view)
            checkup = with_words(checkup, view)
        dropped = ", ".join(drop_stores(serving.folder, serving.manifest.store))
    told = [f"removed what an interrupted or finished reindex left: {dropped}"] if dropped else []
    return replace(checkup, mended=(*checkup.mended, *told))


def compact(session: Session, view: IndexRecipe | None) -> Compaction:
    """Join what many runs have left; with a recipe, its view serves then."""
    from mmrag.stores.compact import compact_store

    serving = session.serving
    if view is not None:
        change_view(session, view)
    with serving.writing():
        table = serving.open_table()
        served, compaction = compact_store(serving.folder, table, serving.synced(serving.published_view(), table))
        serving.show(served)
    if view is not None:
        change_view(session, view)
    return compaction


def _embed_again(session: Session, encoder: Encoder, manifest: Manifest, run: Run) -> tuple[Manifest, Changes]:
    """Fill a new store with what this index holds, and give the manifest that names it."""
    from mmrag.ingest.reindex import check_sources, check_space, embed_again, open_store, store_name

    serving = session.serving
    old = serving.synced(serving.published_view(), serving.open_table())
    for modality in {modality for _, modality in old.scan(("modality",))}:
        encoder.check_modality(modality)
    check_sources(old, manifest, serving.home, allow_remote=run.allow_remote)
    identity, name = encoder.identity, store_name(encoder.identity)
    view_class(manifest.view.kind).check(manifest.view, identity.dimension)
    check_space(old, vector_shape(identity.dimension, identity.vectors), serving.folder / name)
    table, view = open_store(serving.folder / name, manifest.view, identity)
    ingest = session.ingest_into(table, view, lambda: encoder, run)
    changes = embed_again(old, ingest, keep_versions=manifest.keep_versions)
    writer = Writer(encoder.engine, encoder.precision)
    modalities = encoder.card.modalities
    new = replace(manifest, identity=identity, store=name, writer=writer, modalities=modalities, tuning=None)
    return new, changes


def _switch(serving: Serving, manifest: Manifest) -> None:
    """Let the store that a manifest names serve from now on, in one step, and delete the others."""
    from mmrag.ingest.reindex import drop_stores

    with disk_errors(serving.folder):
        manifest.write(serving.folder)
    serving.go_by(manifest)
    drop_stores(serving.folder, manifest.store)
