"""Names of things in an index: relative to its home when inside it, absolute otherwise."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from mmrag.errors import InputError

_REMOTE = ("s3://", "gs://", "gcs://", "https://", "http://", "memory://")


def absolute(path: str | Path, home: Path) -> Path:
    """Make a path absolute, so that one file has one name.

    A path inside `home` stays as it is written. Elsewhere, links on the way are resolved, and the
    last part is kept.

    Raises
    ------
    InputError
        If the path is empty.
    """
    if not os.fspath(path):
        raise InputError("a path is empty; '.' is the current folder")
    full = os.path.abspath(os.path.expanduser(path))
    if is_below(full, str(home)):
        return Path(full)
    folder, name = os.path.split(full)
    return Path(os.path.realpath(folder), name) if name else Path(full)


def is_remote(name: str) -> bool:
    """Tell whether a path or uri is a url, of which nothing is read unless that is allowed."""
    return name.startswith(_REMOTE)


def locate(given: str | Path, home: Path) -> str:
    """Name what is given by its url, or by its absolute path."""
    name = os.fspath(given)
    return name.rstrip("/") if is_remote(name) else str(absolute(given, home))


def path_of(uri: str, home: Path) -> str:
    """Say where a uri leads to: a url, or an absolute path."""
    return uri if is_remote(uri) else str(home / uri)


def to_uri(path: str | Path, home: Path) -> str:
    """Name an absolute path: with forward slashes, relative to `home` if it is inside."""
    path, folder = os.fspath(path), os.fspath(home)
    return "." if path == folder else path.removeprefix(folder.rstrip("/") + "/")


def is_below(path: str, folder: str) -> bool:
    """Tell whether an absolute path is `folder` itself or lies below it."""
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def item_id(uri: str, part: str | None = None) -> str:
    """Derive an item's id from its uri and part: 24 hexadecimal digits, the same on every machine."""
    name = uri if part is None else f"{uri}\0{part}"
    return hashlib.blake2b(name.encode(), digest_size=12).hexdigest()


def shown_name(uri: str, part: str | None) -> str:
    """Name an item for people: its uri, and which part of the file it is.

    Examples
    --------
    >>> shown_name("train.tar", "000017"), shown_name("notes.md", None)
    ('train.tar › 000017', 'notes.md')
    """
    return uri if part is None else f"{uri} › {part}"
