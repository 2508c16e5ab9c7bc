"""Sources that were found nowhere."""

from __future__ import annotations

from mmrag.compose.answer import Source
from mmrag.types import Item


def picture(number, text="", **more):
    return Source(number, Item(f"{number}.jpg"), text, **more)


def document(number, text):
    return Source(number, Item(f"{number}.md", modality="text", text=text), text)
