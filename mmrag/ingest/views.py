"""Which view serves an index: chosen anew after a run, or exchanged for another."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from mmrag.models.loaded import LoadedModels
from mmrag.stores.auto import choose
from mmrag.stores.serving import Serving
from mmrag.stores.view_settings import Choice, ViewSettings

if TYPE_CHECKING:
    from mmrag.ingest.write import Ingest


def choose_again(serving: Serving, models: LoadedModels, ingest: Ingest) -> None:
    """Where mmrag chooses the view, see whether another one suits what the corpus has become."""
    manifest = serving.manifest
    if not manifest.choice.auto:
        return
    chosen, why = choose(len(ingest.view), ingest.view.shape, target=manifest.view.target)
    if chosen.kind != manifest.view.kind:
        exchange(serving, models, ingest, chosen, Choice(True, why))
    elif ingest.view.published:
        serving.write(replace(manifest, choice=Choice(True, why)))


def exchange(serving: Serving, models: LoadedModels, ingest: Ingest, settings: ViewSettings, choice: Choice) -> None:
    """Build and tune another view, let it serve from then on, in one step, and delete the old one."""
    from mmrag.search.tune import choose_queries, tune
    from mmrag.stores.rebuild import build_beside, drop_other_views

    view, tuning = build_beside(ingest.view, ingest.table, serving.store, settings), None
    if settings.kind != "exact" and len(view):
        encoder = models.encoder(serving.manifest.model, serving.manifest.identity)
        if "text" in encoder.card.modalities:
            settings, tuning = tune(view, encoder, *choose_queries(view, None))
    serving.write(replace(serving.manifest, view=settings, choice=choice, tuning=tuning))
    drop_other_views(serving.store, settings)
    ingest.view = view.looking(settings)
