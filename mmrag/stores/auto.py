"""Which view suits a corpus: decided by its rows, their dimension and the memory, with the reason in one line."""

from __future__ import annotations

from mmrag.stores.view_settings import Choice, ViewSettings


def first_choice(asked: ViewSettings) -> tuple[ViewSettings, Choice]:
    """Give a new index its view: what was asked for, or, where that is left to mmrag, the exact one for now."""
    if asked.kind != "auto":
        return asked, Choice(why="the recipe asks for it")
    return ViewSettings(kind="exact", target=asked.target), Choice(auto=True, why="there is nothing to search yet")
