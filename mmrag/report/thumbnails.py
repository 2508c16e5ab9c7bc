"""Pictures → small ones that fit into a page."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from mmrag.errors import ItemError
from mmrag.ingest.ahead import ahead
from mmrag.ingest.recipe import SourceOptions
from mmrag.machine import usable_cores
from mmrag.sources.image import as_rgb
from mmrag.sources.parts import PartOf
from mmrag.sources.rooms import Rooms

if TYPE_CHECKING:
    from mmrag.types import ImageInput

SIDE = 480
"""Longest side, in pixels: sharp at half of it on a screen of double density."""

MOST_BYTES = 60_000
"""Of one thumbnail; noise, which compresses badly, gets a lower quality."""

_QUALITIES = (82, 60, 35, 10)


@dataclass(frozen=True)
class Thumbnail:
    """A small picture as a data URI, or why there is none."""

    uri: str = ""
    width: int = 0
    height: int = 0
    problem: str = ""


def thumbnails(pictures: Sequence[ImageInput | PartOf]) -> Iterator[Thumbnail]:
    """Make a thumbnail of each picture, or part of a file, in order, within the limits that indexing has."""
    return ahead(
        partial(_thumbnail, Rooms()),
        pictures,
        threads=usable_cores(),
        depth=2 * usable_cores(),
        seconds=SourceOptions().max_seconds,
        instead=lambda _, reason: Thumbnail(problem=reason),
    )


def _thumbnail(rooms: Rooms, picture: ImageInput | PartOf) -> Thumbnail:
    try:
        with ExitStack() as held:
            if isinstance(picture, PartOf):
                picture = rooms.read_part(picture.path, picture.part, held)
            if isinstance(picture, (str, Path)):
                picture = rooms.read(str(picture), held).data
            if isinstance(picture, bytes):
                return _shrunk(rooms.decode(picture, held, at_least=SIDE))
            return _shrunk(as_rgb(picture))
    except ItemError as error:
        return Thumbnail(problem=str(error))
    except MemoryError:
        return Thumbnail(problem="too large to handle in memory")


def _shrunk(image: Image.Image) -> Thumbnail:
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    for quality in _QUALITIES:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=quality, optimize=True, progressive=True)
        if file.tell() <= MOST_BYTES:
            break
    data = base64.b64encode(file.getvalue()).decode()
    return Thumbnail(f"data:image/jpeg;base64,{data}", image.width, image.height)
