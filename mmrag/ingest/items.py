"""What a caller brings → items with names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mmrag.errors import InputError, ItemError
from mmrag.ingest.load import hash_pixels
from mmrag.sources.file import hash_bytes
from mmrag.sources.image import as_rgb
from mmrag.sources.uri import absolute, item_id, to_uri
from mmrag.types import Item

if TYPE_CHECKING:
    from PIL.Image import Image

    Brought = Item | bytes | Image


def name_items(brought: Sequence[Brought], home: Path) -> list[Item]:
    """Give everything a uri and an id; a picture without a name is named by its content.

    Raises
    ------
    InputError
        If two items have the same id or uri, or something is of no kind that can be added.
    """
    named: list[Item] = []
    ids: set[str] = set()
    uris: set[str] = set()
    for one in brought:
        item = _named(one, home)
        if item.id in ids or item.uri in uris:
            if not isinstance(one, Item):  # the same picture again
                continue
            raise InputError(f"two items have the id {item.id!r} or the uri {item.uri!r}; nothing was changed")
        ids.add(item.id)
        uris.add(item.uri)
        named.append(item)
    return named


def _named(one: Brought, home: Path) -> Item:
    if isinstance(one, bytes):
        uri = f"memory:{hash_bytes(one)[:24]}"
        return Item(uri=uri, id=item_id(uri), image=one)
    if isinstance(one, Item):
        in_file = one.modality == "image" and one.image is None
        uri = to_uri(absolute(home / one.uri, home), home) if in_file else one.uri
        return replace(one, uri=uri, id=one.id or item_id(uri, one.part))
    if not hasattr(one, "convert"):
        raise InputError(f"only paths, PIL images, bytes and Items can be added, not {type(one).__name__}")
    try:
        uri = f"memory:{hash_pixels(as_rgb(one))[-24:]}"
    except ItemError:  # it will be a named failure when it is read again
        uri = f"memory:{id(one):x}"
    return Item(uri=uri, id=item_id(uri), image=one)
