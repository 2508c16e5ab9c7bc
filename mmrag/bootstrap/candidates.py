"""Which pictures there are to describe, and what people have said of them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from mmrag.errors import InputError, ItemError
from mmrag.sources.pairs import open_pairs
from mmrag.sources.pairs.row import InFile, Picture, Row
from mmrag.sources.walk import has_suffix, walk

PICTURES = "pictures"
"""The folder, in that of the pairs, for pictures that are no files of their own."""


@dataclass(frozen=True)
class Candidate:
    """A picture that may become a pair.

    Attributes
    ----------
    key : str
        What it is called from one run to the next.
    image : path
        Where it lies, or will lie.
    picture : Picture
        Where its bytes are.
    texts : tuple of str
        What people have said of it.
    version : str
        Another one if the file or the texts have changed.
    stored : bool
        Whether the picture is no file of its own, and becomes one at `image`.
    """

    key: str
    image: Path
    picture: Picture
    texts: tuple[str, ...]
    version: str
    stored: bool = False


class _Unreadable(NamedTuple):
    """A picture of which it is known without opening it that it cannot be read."""

    problem: str

    def read(self) -> bytes:
        raise ItemError(self.problem)


def find_candidates(
    folders: Sequence[str | Path],
    *,
    out: Path,
    pairs: Sequence[str | Path] = (),
    text_key: str | None = None,
    exclude: Sequence[str] = (),
) -> list[Candidate]:
    """List the pictures of folders, with the texts that pairs have for the same files, then those of pairs alone.

    Raises
    ------
    InputError
        If a folder is not there, or there is no picture at all.
    """
    found: dict[str, Candidate] = {}
    out = Path(os.path.realpath(out))
    for folder in folders:
        for candidate in _walked(Path(folder), out, exclude):
            found.setdefault(candidate.key, candidate)
    for source in pairs:
        for row in open_pairs([source], text_key=text_key).rows:
            _join(found, row, Path(source), out)
    if not found:
        raise InputError(f"there is no picture in {', '.join(map(str, folders))}")
    return list(found.values())


def _walked(folder: Path, out: Path, exclude: Sequence[str]) -> Iterator[Candidate]:
    if not folder.exists():
        raise InputError(f"there is no folder {str(folder)!r} to take pictures from")
    root = folder.resolve()
    found = walk(root, home=root, exclude=exclude)
    for file in (*found.files, *found.unlisted):
        if file.problem:
            yield Candidate(file.path, root / file.uri, _Unreadable(file.problem), (), "")
        elif not Path(file.path).is_relative_to(out):
            yield _in_file(Path(os.path.realpath(file.path)), (), out)


def _in_file(path: Path, texts: tuple[str, ...], out: Path) -> Candidate:
    """Make a candidate of a file; it is called as it is seen from `out`, so that both can be moved together."""
    return Candidate(os.path.relpath(path, out), path, InFile(str(path)), texts, _version(path, texts))


def _version(path: Path, texts: tuple[str, ...]) -> str:
    try:
        about = os.stat(path)
        stamp = [about.st_size, about.st_mtime_ns]
    except OSError:  # told when it is read
        stamp = []
    return _hashed([stamp, texts])


def _join(found: dict[str, Candidate], row: Row, source: Path, out: Path) -> None:
    """Add the picture of a pair; if it is there already, add its texts."""
    if isinstance(row.picture, InFile):
        mine = _in_file(Path(os.path.realpath(row.picture.path)), row.texts, out)
        before = found[mine.key].texts if mine.key in found else ()
        found[mine.key] = _in_file(mine.image, tuple(dict.fromkeys([*before, *row.texts])), out)
        return
    key = f"{os.path.relpath(source, out)}#{row.id}"
    suffix = Path(row.id).suffix if has_suffix(row.id) else ".jpg"
    image = out / PICTURES / f"{_hashed(key)}{suffix}"
    found[key] = Candidate(key, image, row.picture, row.texts, _version(source, row.texts), stored=True)


def _hashed(what: object) -> str:
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()[:20]
