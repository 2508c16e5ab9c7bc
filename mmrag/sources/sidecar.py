"""Sidecars: ``x.txt``, a text a line, or ``x.json``, texts and facts by name, beside ``x.jpg``."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import NamedTuple

from mmrag.errors import InputError, ItemError
from mmrag.sources.file import open_file
from mmrag.sources.limits import SUFFIXES
from mmrag.sources.pairs.row import clean_texts, parse_json
from mmrag.sources.told import Told, told_by

SIDECARS = (".json", ".txt")
"""What tells more comes first, and is the one that is read."""

_MOST_BYTES = 1 << 20


class Sidecar(NamedTuple):
    """A file beside a picture, as its folder lists it.

    Attributes
    ----------
    path : str
        Absolute.
    state : str
        Its name, size and time of the last change: what tells whether it is what was read.
    """

    path: str
    state: str

    @property
    def name(self) -> str:
        """Its name in the folder."""
        return os.path.basename(self.path)

    def read(self) -> Told:
        """Read what it tells; nothing, if it cannot be read or is something else."""
        with suppress(ItemError, InputError, OSError):
            with open_file(self.path) as file:
                data = file.read(_MOST_BYTES)
            if self.path.lower().endswith(".txt"):
                return Told(clean_texts(data.decode("utf-8-sig", "replace").splitlines()))
            found = parse_json(data.decode("utf-8-sig", "replace").encode(), self.path)
            return told_by(found) if isinstance(found, dict) else Told()
        return Told()


class Sidecars:
    """Finds the sidecars of pictures; each folder is listed once, when it is first asked about."""

    def __init__(self) -> None:
        self._folders: dict[str, dict[str, os.DirEntry[str]]] = {}

    def of(self, path: str) -> Sidecar | None:
        """Find the sidecar of a picture, if it has one."""
        folder, name = os.path.split(path)
        if folder not in self._folders:
            self._folders[folder] = _listed(folder)
        stem = os.path.splitext(name)[0]
        entries = (self._folders[folder].get(stem + suffix) for suffix in SIDECARS)
        entry = next(filter(None, entries), None)
        with suppress(OSError):
            if entry is not None and entry.is_file():
                about = entry.stat()
                return Sidecar(entry.path, f"{entry.name} {about.st_size} {about.st_mtime_ns}")
        return None


def pictures_beside(path: str) -> list[str]:
    """List the pictures that a file, which may be gone, is or was the sidecar of."""
    stem, suffix = os.path.splitext(path)
    if suffix.lower() not in SIDECARS:
        return []
    try:
        names = os.listdir(os.path.dirname(path))
    except OSError:
        return []
    parts = (os.path.splitext(name) for name in names)
    return [stem + ending for own, ending in parts if own == os.path.basename(stem) and ending.lower() in SUFFIXES]


def _listed(folder: str) -> dict[str, os.DirEntry[str]]:
    """List the sidecars of a folder by their names, with the suffix in small letters."""
    with suppress(OSError), os.scandir(folder) as entries:
        parts = ((*os.path.splitext(entry.name), entry) for entry in entries)
        return {stem + suffix.lower(): entry for stem, suffix, entry in parts if suffix.lower() in SIDECARS}
    return {}
