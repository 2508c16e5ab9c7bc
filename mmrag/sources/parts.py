"""The bytes of a picture again, whether it is a file or a part of one."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from mmrag.errors import ItemError
from mmrag.sources.file import read_file
from mmrag.sources.pairs.listing import picture_of
from mmrag.sources.pairs.row import InPart
from mmrag.sources.uri import is_remote


def read_part(
    path: str, part: str | None, *, admit: Callable[[int], None] | None = None, allow_remote: bool = False
) -> bytes:
    """Read a picture from where it was indexed.

    Parameters
    ----------
    path : str
        Of the file.
    part : str or None
        Which row or sample of it; None: the file is the picture.
    admit : callable or None
        Called with the size in bytes before they are read, where it is known; may wait until there is room for them.

    allow_remote : bool
        Whether a connection may be opened to read it.

    Raises
    ------
    ItemError
        With the reason.
    """
    if is_remote(path) and not allow_remote:
        raise ItemError("it is remote, and only indexing opens a connection, where that is allowed")
    if part is None:
        return read_file(path, admit=admit).data
    picture = picture_of(path, part)
    if admit and isinstance(picture, InPart):
        admit(picture.size)
    return picture.read()


class PartOf(NamedTuple):
    """A picture that is found again by its part when it is read; a url is one that may be."""

    path: str
    part: str | None

    def read(self) -> bytes:
        """Read it."""
        return read_part(self.path, self.part, allow_remote=True)
