"""Pictures as a writer that sees is shown them: upright, and no larger than it needs."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from mmrag.compose.answer import Source
from mmrag.errors import ItemError
from mmrag.search.queries import load_picture
from mmrag.sources.rooms import Rooms
from mmrag.sources.uri import is_remote, path_of

if TYPE_CHECKING:
    from PIL.Image import Image

    from mmrag.types import ImageInput

_log = logging.getLogger(__name__)

LONGEST_SIDE = 768
"""In pixels, of a picture that is shown."""


def pictures_of(sources: Iterable[Source], home: Path) -> dict[int, Image]:
    """Read the pictures among sources, by number; one that cannot be read is left out, and the log says why."""
    rooms, pictures = Rooms(), {}
    for source in sources:
        item = source.item
        if item.modality != "image" or is_remote(item.uri):
            continue
        try:
            with ExitStack() as held:
                data = rooms.read_part(path_of(item.uri, home), item.part, held)
                pictures[source.number] = _bounded(rooms.decode(data, held, at_least=LONGEST_SIDE))
        except ItemError as error:
            _log.warning("the generator is not shown %s: %s", item.uri, error)
    return pictures


def asked_picture(image: ImageInput) -> Image:
    """Read a picture that a question is about.

    Raises
    ------
    QueryError
        If it cannot be read.
    """
    return _bounded(load_picture(image, LONGEST_SIDE))


def _bounded(image: Image) -> Image:
    image = image.copy()
    image.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    return image
