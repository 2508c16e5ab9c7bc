"""The way up from the built-in model, told once."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import typer

from mmrag.models.memo import recall, remembered

if TYPE_CHECKING:
    from mmrag.index import Index

_OFFER = (
    "A full CLIP finds far more than the built-in model:  pip install 'mmrag[torch]' && mmrag models pull clip-b32 && "
    "mmrag index FOLDER --model clip-b32 --index ./clip"
)


def offer_upgrade(corpus: Index) -> None:
    """Tell whoever searches an index of the built-in model of a better one: a person, and once for each index."""
    if corpus.manifest.model != "builtin" or not sys.stderr.isatty():
        return
    key = str(corpus.folder)
    if recall("offers", key) is None and remembered("offers", key, lambda: True) and recall("offers", key):
        typer.echo(_OFFER, err=True)  # where nothing can be remembered, nothing is told: never twice
