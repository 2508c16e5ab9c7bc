"""The bytes of pictures again, whether they are files or parts of one."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import NamedTuple

from mmrag.errors import InputError, ItemError
from mmrag.sources.file import NOT_ALLOWED, read_file
from mmrag.sources.pairs.listing import list_rows, picture_of
from mmrag.sources.pairs.row import NO_PICTURE, InPart, Picture
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
    if part is None:
        return read_file(path, admit=admit, allow_remote=allow_remote).data
    if is_remote(path) and not allow_remote:
        raise ItemError(NOT_ALLOWED)
    picture = picture_of(path, part)
    if admit and isinstance(picture, InPart):
        admit(picture.size)
    return picture.read()


class PartOf(NamedTuple):
    """A picture, by where it was indexed."""

    path: str
    part: str | None


def pictures_in(path: str, parts: Collection[str]) -> Iterator[tuple[str, Picture]]:
    """Find the pictures of several parts of a file, in its order: however many there are, it is gone through once.

    Parameters
    ----------
    path : str
        Of the file; if it is a url, a connection is opened.
    parts : collection of str
        Those that are not there are left out.

    Raises
    ------
    ItemError
        If it cannot be read, or on.
    """
    wanted = set(parts)
    try:
        for row in list_rows(path):
            if row.id in wanted and row.problem != NO_PICTURE:
                yield row.id, row.picture
    except (OSError, InputError) as error:
        raise ItemError(f"cannot be read: {getattr(error, 'strerror', None) or error}") from error
