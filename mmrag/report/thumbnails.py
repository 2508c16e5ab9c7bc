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
from mmrag.sources.file import read_file
from mmrag.sources.image import as_rgb, read_image
from mmrag.sources.limits import MAX_BYTES, MAX_PIXELS
from mmrag.sources.room import Room

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


def thumbnails(pictures: Sequence[ImageInput]) -> Iterator[Thumbnail]:
    """Make a thumbnail of each picture, in order, within the limits that indexing has."""
    reading, decoding = Room(MAX_BYTES), Room(MAX_PIXELS)
    return ahead(
        partial(_thumbnail, reading=reading, decoding=decoding),
        pictures,
        threads=usable_cores(),
        depth=2 * usable_cores(),
        seconds=SourceOptions().max_seconds,
        instead=lambda _, reason: Thumbnail(problem=reason),
    )


def _thumbnail(picture: ImageInput, *, reading: Room, decoding: Room) -> Thumbnail:
    try:
        with ExitStack() as held:
            if isinstance(picture, (str, Path)):
                picture = read_file(str(picture), admit=lambda size: held.enter_context(reading.take(size))).data
            if isinstance(picture, bytes):
                return _shrunk(read_image(picture, at_least=SIDE, admit=lambda n: held.enter_context(decoding.take(n))))
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
