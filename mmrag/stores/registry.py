"""Kinds of views, by the names that recipes and manifests use. A new view is one file and one line here."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

from mmrag.errors import RecipeError
from mmrag.stores.view_settings import ViewSettings

if TYPE_CHECKING:
    from mmrag.stores.view import View

_VIEWS = {
    "exact": "mmrag.stores.exact:ExactView",
    "lance": "mmrag.stores.lance_index:LanceView",
    "faiss": "mmrag.stores.faiss:FaissView",
}


WORDS_FOLDER = "words"
"""Name of the folder of the full-text index, beside those of views."""


def view_class(kind: str) -> type[View]:
    """Find the class of a kind of view.

    Raises
    ------
    RecipeError
        If there is no such kind, with those that there are.
    """
    if kind not in _VIEWS:
        raise RecipeError(f"there is no view {kind!r}; known: {', '.join(_VIEWS)}")
    module, _, name = _VIEWS[kind].partition(":")
    found: type[View] = getattr(importlib.import_module(module), name)
    return found


def view_folder(store: Path, settings: ViewSettings) -> Path:
    """Where the files of a view lie, in the folder of its store."""
    return store / "views" / settings.folder_name


def open_view(store: Path, settings: ViewSettings, dimension: int, *, vectors: int = 1) -> View:
    """Open the view of a store, as `View.open` does."""
    found = view_class(settings.kind)
    return found.open(view_folder(store, settings), dimension, vectors=vectors, settings=settings)
