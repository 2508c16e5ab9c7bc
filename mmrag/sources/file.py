"""A regular file's content, with the size and time that belong to it."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable
from typing import BinaryIO, NamedTuple

from mmrag.errors import ItemError, TooLargeError
from mmrag.sources.limits import MAX_BYTES
from mmrag.sources.uri import is_remote

NOT_ALLOWED = "it is remote, and only indexing opens a connection, where that is allowed"

_TRIES = 3
_UNSIZED = 1 << 26


class Content(NamedTuple):
    """What a file held, and what the file system said of it then.

    Attributes
    ----------
    size : int
        In bytes; some file systems say 0 of files that have content.
    mtime_ns : int
        Time of the last change, in nanoseconds.
    """

    data: bytes
    size: int
    mtime_ns: int


def read_file(path: str, *, admit: Callable[[int], None] | None = None, allow_remote: bool = False) -> Content:
    """Read a regular file whole, unless it is beyond `MAX_BYTES`. Never waits for another process.

    Parameters
    ----------
    path : str
        Of the file.
    admit : callable or None
        Called with the size in bytes before they are read; may wait until there is room for them.
    allow_remote : bool
        Whether a connection may be opened to read it.

    Raises
    ------
    ItemError
        With the reason.
    """
    if is_remote(path):
        if not allow_remote:
            raise ItemError(NOT_ALLOWED)
        from mmrag.sources.remote import read_remote  # most runs do without

        return read_remote(path, admit=admit)
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # looked at before opening, which may do things to a device
            raise ItemError("not a regular file")
        with open(path, "rb", opener=_open) as file:
            return _read_unchanged(file, admit)
    except (OSError, ValueError) as error:
        raise ItemError(f"cannot be read: {getattr(error, 'strerror', None) or error}") from error


def open_file(path: str) -> BinaryIO:
    """Open a regular file, to be read piece by piece.

    Raises
    ------
    ItemError
        With the reason.
    """
    if is_remote(path):
        from mmrag.sources.remote import open_remote  # most runs do without

        return open_remote(path)
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise ItemError("not a regular file")
        return open(path, "rb", opener=_open)
    except (OSError, ValueError) as error:
        raise ItemError(f"cannot be read: {getattr(error, 'strerror', None) or error}") from error


def hash_bytes(data: bytes) -> str:
    """Hash a file's content: what tells whether two are the same, and whether one is what was indexed."""
    return hashlib.sha256(data).hexdigest()


def _open(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY)  # it may have become a pipe since


def _read_unchanged(file: BinaryIO, admit: Callable[[int], None] | None) -> Content:
    before = os.fstat(file.fileno())
    if not stat.S_ISREG(before.st_mode):
        raise ItemError("not a regular file")
    if admit:
        admit(min(before.st_size, MAX_BYTES))
    for _ in range(_TRIES):
        if before.st_size > MAX_BYTES:
            raise TooLargeError(f"larger than the limit of {MAX_BYTES:,} bytes")
        file.seek(0)
        data = file.read((before.st_size or _UNSIZED) + 1) or b""
        after = os.fstat(file.fileno())
        same = (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns)
        if same and len(data) == (before.st_size or len(data)):
            return Content(data, after.st_size, after.st_mtime_ns)
        before = after
    raise ItemError("changed while it was read")
