"""What a caller brings → items with names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING

from mmrag.errors import InputError, ItemError
from mmrag.ingest.load import hash_pixels
from mmrag.sources.file import hash_bytes
from mmrag.sources.image import as_rgb
from mmrag.sources.uri import absolute, is_remote, item_id, shown_name, to_uri
from mmrag.types import Item

if TYPE_CHECKING:
    from PIL.Image import Image

    Brought = Item | bytes | Image


def name_items(brought: Iterable[Brought], home: Path, *, kept: str = "nothing was changed") -> Iterator[Item]:
    """Give everything a uri and an id, one after the other; a picture without a name is named by its content.

    Of each that went by, 16 bytes are remembered. `kept` says, in errors, what is in the index by then.

    Raises
    ------
    InputError
        If two items have the same id, or the same uri and part, or something is of no kind that can be added.
    """
    seen: set[bytes] = set()
    for one in brought:
        item = _named(one, home)
        names = {_short("id", item.id), _short("uri", item.uri, item.part)}
        if not seen.isdisjoint(names):
            if not isinstance(one, Item):  # the same picture again
                continue
            shown = shown_name(item.uri, item.part)
            raise InputError(f"two items have the id {item.id!r} or the uri {shown!r}; {kept}")
        seen |= names
        yield item


def _short(*name: str | None) -> bytes:
    return blake2b(repr(name).encode(), digest_size=8).digest()


def _named(one: Brought, home: Path) -> Item:
    if isinstance(one, bytes):
        uri = f"memory:{hash_bytes(one)[:24]}"
        return Item(uri=uri, id=item_id(uri), image=one)
    if isinstance(one, Item):
        in_file = one.modality == "image" and one.image is None
        place = one.uri if in_file else one.image
        if isinstance(place, str) and is_remote(place):
            raise InputError(
                f"an Item is read from a file or brings its image; add {place} by its url: allow_remote=True"
            )
        uri = to_uri(absolute(home / one.uri, home), home) if in_file else one.uri
        return replace(one, uri=uri, id=one.id or item_id(uri, one.part))
    if not hasattr(one, "convert"):
        raise InputError(f"only paths, PIL images, bytes and Items can be added, not {type(one).__name__}")
    try:
        uri = f"memory:{hash_pixels(as_rgb(one))[-24:]}"
    except ItemError:  # it will be a named failure when it is read again
        uri = f"memory:{id(one):x}"
    return Item(uri=uri, id=item_id(uri), image=one)
