"""Files → upright RGB pictures, in several threads that together stay within the limits of memory."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

from PIL import Image

from mmrag.sources.file import Content, read_file
from mmrag.sources.image import read_image
from mmrag.sources.limits import MAX_BYTES, MAX_PIXELS
from mmrag.sources.pairs.row import InPart, Picture
from mmrag.sources.parts import read_part
from mmrag.sources.room import Room


class Rooms:
    """Room for the files that threads read at once, and for the pictures that they decode.

    Threads wait for each other rather than hold more than `MAX_BYTES` of files and `MAX_PIXELS` of pictures
    together. What a call takes is held until its `held` is closed.
    """

    def __init__(self) -> None:
        self._reading, self._decoding = Room(MAX_BYTES), Room(MAX_PIXELS)

    def read(self, path: str, held: ExitStack, *, allow_remote: bool = False) -> Content:
        """Read a file as `read_file` does."""
        return read_file(path, admit=_taker(self._reading, held), allow_remote=allow_remote)

    def read_part(self, path: str, part: str | None, held: ExitStack) -> bytes:
        """Read a picture that is a file, or a part of one, as `mmrag.sources.parts.read_part` does."""
        return read_part(path, part, admit=_taker(self._reading, held))

    def take(self, picture: Picture, held: ExitStack) -> bytes:
        """Read a picture; what it takes is held where its size is known before."""
        if isinstance(picture, InPart):
            held.enter_context(self._reading.take(picture.size))
        return picture.read()

    def decode(
        self, data: bytes, held: ExitStack, *, at_least: int | None = None, max_pixels: int = MAX_PIXELS
    ) -> Image.Image:
        """Decode a picture as `read_image` does."""
        return read_image(data, at_least=at_least, max_pixels=max_pixels, admit=_taker(self._decoding, held))


def _taker(room: Room, held: ExitStack) -> Callable[[int], None]:
    """Make what takes room until `held` is closed."""
    return lambda amount: held.enter_context(room.take(amount))
