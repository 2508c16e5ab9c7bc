"""Folders → the files in them that may be pictures, without opening any."""

from __future__ import annotations

import fnmatch
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mmrag.errors import InputError
from mmrag.sources.limits import SUFFIXES
from mmrag.sources.uri import to_uri

SKIPPED_FOLDERS = frozenset({"node_modules", "@eaDir", "__MACOSX", "$RECYCLE.BIN"})


@dataclass(frozen=True, slots=True)
class File:
    """One file as the file system describes it.

    Attributes
    ----------
    path : str
        Absolute.
    uri : str
        Its name in the index.
    size : int
        In bytes.
    mtime_ns : int
        Time of the last change, in nanoseconds.
    problem : str
        Why it cannot be read, if that is known without opening it.
    """

    path: str
    uri: str
    size: int = 0
    mtime_ns: int = 0
    problem: str = ""


@dataclass
class Walk:
    """What a walk found.

    Attributes
    ----------
    files : list of File
        Sorted by path.
    unreadable : list of File
        Folders that could not be listed, so that nothing is known of what is in them.
    """

    files: list[File] = field(default_factory=list)
    unreadable: list[File] = field(default_factory=list)


def walk(root: Path, *, home: Path, exclude: Sequence[str] = ()) -> Walk:
    """Find the pictures in a folder by their suffixes, or take one file whatever its suffix.

    Hidden files and folders, ``node_modules`` and ``@eaDir`` are skipped. Links to folders are
    followed, each folder once, so that loops end.

    Parameters
    ----------
    root : path
        A folder or a file.
    home : path
        The folder that uris are relative to.
    exclude : sequence of str
        Globs. A glob leaves out what it matches by name (``*.png``, ``2019``) or by path relative
        to `root` (``2019/raw/*``), with everything below.

    Raises
    ------
    InputError
        If there is nothing at `root`.
    """
    found = Walk()
    if not root.exists():
        raise InputError(f"there is no file or folder {str(root)!r}; nothing was changed")
    if not root.is_dir():
        found.files.append(describe(str(root), home))
        return found
    visited: set[tuple[int, int]] = set()
    folders = [(str(root), "")]
    while folders:
        folder, relative = folders.pop()
        try:
            about = os.stat(folder)
            with os.scandir(folder) as entries:
                listed = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            problem = f"cannot list the folder: {error.strerror}"
            found.unreadable.append(File(folder, _printable(to_uri(folder, home)), problem=problem))
            continue
        if (about.st_dev, about.st_ino) in visited:
            continue
        visited.add((about.st_dev, about.st_ino))
        for entry in _wanted(listed, relative, exclude):
            if entry.is_dir():
                folders.append((entry.path, f"{relative}{entry.name}/"))
            elif os.path.splitext(entry.name)[1].lower() in SUFFIXES:
                found.files.append(describe(entry.path, home))
    found.files.sort(key=lambda file: file.path)
    return found


def _wanted(entries: Sequence[os.DirEntry[str]], relative: str, exclude: Sequence[str]) -> Iterator[os.DirEntry[str]]:
    for entry in entries:
        if entry.name.startswith(".") or entry.name in SKIPPED_FOLDERS:
            continue
        path = relative + entry.name
        globs = (glob.removeprefix("./").rstrip("/") for glob in exclude)
        if not any(fnmatch.fnmatch(entry.name, g) or fnmatch.fnmatch(path, g) for g in globs):
            yield entry


def describe(path: str, home: Path) -> File:
    """Look at one file without opening it."""
    uri = to_uri(path, home)
    if uri != _printable(uri):
        return File(path, _printable(uri), problem="the name is not valid UTF-8; rename the file")
    try:
        about = os.stat(path)
    except OSError as error:
        return File(path, uri, problem=f"cannot be read: {error.strerror}")
    problem = "" if stat.S_ISREG(about.st_mode) else "not a regular file"
    return File(path, uri, about.st_size, about.st_mtime_ns, problem)


def _printable(uri: str) -> str:
    return uri.encode("utf-8", "backslashreplace").decode("utf-8")
