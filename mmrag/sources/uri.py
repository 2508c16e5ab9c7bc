"""Names of things in an index: relative to its home when inside it, absolute otherwise."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path


def absolute(path: str | Path) -> Path:
    """Make a path absolute; links on the way are resolved, the last part is kept as it is named."""
    full = os.path.abspath(os.path.expanduser(path))
    folder, name = os.path.split(full)
    return Path(os.path.realpath(folder), name) if name else Path(full)


def to_uri(path: str | Path, home: Path) -> str:
    """Name an absolute path: with forward slashes, relative to `home` if it is inside."""
    path = Path(path)
    return path.relative_to(home).as_posix() if path.is_relative_to(home) else path.as_posix()


def from_uri(uri: str, home: Path) -> Path:
    """Find the path that a uri names."""
    return home / uri


def is_under(uri: str, folder: str) -> bool:
    """Tell whether a uri is `folder` itself or lies below it; the home folder is named "."."""
    if folder == ".":
        return not uri.startswith("/")
    return uri == folder or uri.startswith(folder.rstrip("/") + "/")


def item_id(uri: str) -> str:
    """Derive an item's id from its uri: 24 hexadecimal digits, the same on every machine."""
    return hashlib.blake2b(uri.encode(), digest_size=12).hexdigest()
