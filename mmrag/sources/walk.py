"""Folders → the files in them that may be pictures or documents, without opening any."""

from __future__ import annotations

import fnmatch
import os
import stat
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from mmrag.sources.kinds import holds_rows, is_dataset, suffix_of
from mmrag.sources.limits import SUFFIXES
from mmrag.sources.uri import to_uri

_CAPTION = ".txt"

SKIPPED_FOLDERS = frozenset({"node_modules", "@eaDir", "__MACOSX", "$RECYCLE.BIN"})


@dataclass(frozen=True, slots=True)
class File:
    """One file as the file system describes it, or one folder that is a dataset.

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
    unlisted : list of File
        Folders that could not be listed, so that nothing is known of what is in them.
    left : list of str
        Paths of files of rows and of datasets, which are read only where they are the root itself.
    """

    files: list[File] = field(default_factory=list)
    unlisted: list[File] = field(default_factory=list)
    left: list[str] = field(default_factory=list)


def walk(
    root: Path,
    *,
    home: Path,
    exclude: Sequence[str] = (),
    only: Sequence[str] | None = None,
    suffixes: Collection[str] = SUFFIXES,
) -> Walk:
    """Find the pictures in a folder by their suffixes, or take one file or dataset whatever its suffix.

    Where there is nothing, nothing is found. Hidden files and folders, ``node_modules`` and
    ``@eaDir`` are skipped, and so is a ``.txt`` of the name of a picture beside it, which has its words. Links to
    folders are followed, after everything else and each folder once, so that loops end and a link never takes the
    place of the folder itself.

    Parameters
    ----------
    root : path
        A folder or a file, absolute.
    home : path
        The folder that uris are relative to.
    exclude : sequence of str
        Globs. A glob leaves out what it matches by name (``*.png``, ``2019``) or by path relative
        to `root` (``2019/raw/*``), with everything below.
    only : sequence of str or None
        Paths in `root`: what a walk of the whole would find at and below them; none of them is a link
        to a folder, or behind one.
    suffixes : collection of str
        Of the files to find, in small letters; by default those of pictures.
    """
    found = Walk()
    globs = _clean(exclude)
    visited: set[tuple[int, int]] = set()
    folders, links = list[tuple[str, str]](), deque[tuple[str, str]]()
    for start in [str(root)] if only is None else only:
        if not os.path.lexists(start) or not is_wanted(start, str(root), exclude):
            continue
        if start == str(root) and _is_dataset(start):
            found.files.append(describe_dataset(start, home))
        elif os.path.isdir(start):
            folders.append((start, "".join(f"{name}/" for name in _names(start, str(root)))))
        elif start == str(root) or (suffix_of(start) in suffixes and not is_caption(start)):
            found.files.append(describe(start, home))
        elif holds_rows(start):
            found.left.append(start)
    while folders or links:
        folder, relative = folders.pop() if folders else links.popleft()
        try:
            about = os.stat(folder)
            with os.scandir(folder) as entries:
                listed = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            problem = f"cannot list the folder: {error.strerror}"
            found.unlisted.append(File(folder, _printable(to_uri(folder, home)), problem=problem))
            continue
        if (about.st_dev, about.st_ino) in visited:
            continue
        visited.add((about.st_dev, about.st_ino))
        names = {entry.name for entry in listed}
        if is_dataset(folder, names):
            found.left.append(folder)
            continue
        pictured = stems_of_pictures(names)
        for entry in _wanted(listed, relative, globs):
            if _is_folder(entry):
                (links if entry.is_symlink() else folders).append((entry.path, f"{relative}{entry.name}/"))
            elif suffix_of(entry.name) in suffixes and not is_words(entry.name, pictured):
                found.files.append(describe(entry.path, home, entry.stat))
            elif holds_rows(entry.name):
                found.left.append(entry.path)
    found.files.sort(key=lambda file: file.path)
    return found


def is_caption(path: str) -> bool:
    """Tell whether a file has the words of a picture beside it: ``x.txt`` of ``x.jpg``."""
    if suffix_of(path) != _CAPTION:
        return False
    try:
        names = set(os.listdir(os.path.dirname(path)))
    except OSError:
        return False
    return is_words(os.path.basename(path), stems_of_pictures(names))


def companions(path: str) -> list[str]:
    """List the files beside one that it has a say in: pictures whose words it may have, or words that it may take."""
    stem, suffix = os.path.splitext(path)
    if has_suffix(path):
        return [f"{stem}{_CAPTION}"]
    if suffix.lower() not in (_CAPTION, ".json"):
        return []
    try:
        names = os.listdir(os.path.dirname(path))
    except OSError:
        return []
    beside = (os.path.join(os.path.dirname(path), name) for name in names if has_suffix(name))
    return [one for one in beside if os.path.splitext(one)[0] == stem]


def stems_of_pictures(names: Collection[str]) -> set[str]:
    """Gather the names of pictures without their suffixes."""
    return {os.path.splitext(name)[0] for name in names if has_suffix(name)}


def is_words(name: str, pictured: Collection[str]) -> bool:
    """Tell whether a file has the words of one of these pictures, which are named without their suffixes."""
    stem, suffix = os.path.splitext(name)
    return suffix.lower() == _CAPTION and stem in pictured


def _is_dataset(path: str) -> bool:
    try:
        return os.path.isdir(path) and is_dataset(path, os.listdir(path))
    except OSError:
        return False


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads nowhere, round in circles or behind a locked door
        return False


def _wanted(entries: Sequence[os.DirEntry[str]], relative: str, globs: Sequence[str]) -> Iterator[os.DirEntry[str]]:
    return (entry for entry in entries if _is_named_well(entry.name, relative + entry.name, globs))


def is_wanted(path: str, root: str, exclude: Sequence[str]) -> bool:
    """Tell whether a walk of `root` would come to `path`, which lies in it, by the names on the way."""
    globs, names = _clean(exclude), _names(path, root)
    return all(_is_named_well(name, "/".join(names[: n + 1]), globs) for n, name in enumerate(names))


def has_suffix(name: str) -> bool:
    """Tell whether a file may be a picture by its name."""
    return name[name.rfind(".") :].lower() in SUFFIXES


def _is_named_well(name: str, path: str, globs: Sequence[str]) -> bool:
    if name.startswith(".") or name in SKIPPED_FOLDERS:
        return False
    return not any(fnmatch.fnmatch(name, g) or fnmatch.fnmatch(path, g) for g in globs)


def _clean(exclude: Sequence[str]) -> list[str]:
    return [glob.removeprefix("./").rstrip("/") for glob in exclude]


def _names(path: str, root: str) -> list[str]:
    """List the names on the way from `root` to `path`."""
    return [name for name in path.removeprefix(root.rstrip("/")).split("/") if name]


def describe(path: str, home: Path, about_it: Callable[[], os.stat_result] | None = None) -> File:
    """Look at one file without opening it; through `about_it`, where a listing knows a quicker way."""
    uri = to_uri(path, home)
    if uri != _printable(uri):
        return File(path, _printable(uri), problem="the name is not valid UTF-8; rename the file")
    try:
        about = about_it() if about_it else os.stat(path)
    except OSError as error:
        return File(path, uri, problem=f"cannot be read: {error.strerror}")
    problem = "" if stat.S_ISREG(about.st_mode) else "not a regular file"
    return File(path, uri, about.st_size, about.st_mtime_ns, problem)


def describe_dataset(folder: str, home: Path) -> File:
    """Look at a folder that is a dataset: its size is that of its files, its time that of the last change in it."""
    file = describe(folder, home)
    size, newest = 0, 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):  # it has just gone, as when the dataset is being written
                about = os.stat(os.path.join(place, name))
                size, newest = size + about.st_size, max(newest, about.st_mtime_ns)
    return replace(file, size=size, mtime_ns=newest, problem="")


def _printable(uri: str) -> str:
    return uri.encode("utf-8", "backslashreplace").decode("utf-8")
