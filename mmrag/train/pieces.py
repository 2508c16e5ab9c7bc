"""A folder cut into pieces that are small enough to travel, and whole again.

The pieces, one behind the other, are a tar: ``cat piece-* | tar -x`` unpacks them where there is no mmrag.
``pieces.json`` lists them with their hashes.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmrag.errors import InputError

LIST_NAME = "pieces.json"


class _Cut(io.RawIOBase):
    """What is written goes into files of at most `limit` bytes."""

    def __init__(self, folder: Path, limit: int) -> None:
        self._folder, self._limit = folder, limit
        self._waiting = bytearray()
        self.hashes: dict[str, str] = {}

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._waiting += data
        while len(self._waiting) >= self._limit:
            self._write_piece(bytes(self._waiting[: self._limit]))
            del self._waiting[: self._limit]
        return len(data)

    def finish(self) -> None:
        """Write what is left."""
        if self._waiting:
            self._write_piece(bytes(self._waiting))

    def _write_piece(self, data: bytes) -> None:
        name = f"piece-{len(self.hashes):04}"
        (self._folder / name).write_bytes(data)
        self.hashes[name] = _hash(data)


class _Joined(io.RawIOBase):
    """Files read as one, each only if it is what the list says."""

    def __init__(self, folders: Sequence[Path], hashes: dict[str, str]) -> None:
        self._folders, self._hashes = folders, hashes
        self._names = iter(hashes)
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._rest:
            name = next(self._names, None)
            if name is None:
                return 0
            self._rest = memoryview(self._read(name))
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count

    def _read(self, name: str) -> bytes:
        path = next((folder / name for folder in self._folders if (folder / name).is_file()), None)
        if path is None:
            places = ", ".join(map(str, self._folders))
            raise InputError(f"{name} of {len(self._hashes)} pieces is not in {places}; fetch it, or name its folder")
        data = path.read_bytes()
        if _hash(data) != self._hashes[name]:
            raise InputError(f"{path} is not what {LIST_NAME} lists; fetch it again")
        return data


def cut(folder: Path, out: Path, *, limit: int) -> list[Path]:
    """Write a folder as pieces.

    Parameters
    ----------
    folder : path
        What is cut; it stays as it is.
    out : path
        An empty folder, or none yet, for the pieces and their list.
    limit : int
        The most bytes that a piece has.

    Returns
    -------
    list of path
        The pieces.

    Raises
    ------
    InputError
        If `out` holds something, or `limit` is none.
    """
    if limit < 1:
        raise InputError(f"a piece has at least one byte, not {limit}")
    claim_empty(out)
    pieces = _Cut(out, limit)
    with tarfile.open(fileobj=pieces, mode="w|") as archive:
        for path in sorted(folder.iterdir()):
            archive.add(path, path.name)
    pieces.finish()
    (out / LIST_NAME).write_text(json.dumps(pieces.hashes, indent=1), encoding="utf-8")
    return [out / name for name in pieces.hashes]


def join(folders: Sequence[Path], out: Path) -> None:
    """Put a folder together again.

    Parameters
    ----------
    folders : sequence of path
        Where the pieces and their list are, in several folders if they came in several transfers.
    out : path
        An empty folder, or none yet.

    Raises
    ------
    InputError
        If a piece is missing or damaged, nothing lists them, or `out` holds something.
    """
    listing = next((folder / LIST_NAME for folder in folders if (folder / LIST_NAME).is_file()), None)
    if listing is None:
        raise InputError(f"there is no {LIST_NAME} in {', '.join(map(str, folders))}; name the folder of the pieces")
    claim_empty(out)
    hashes = json.loads(listing.read_text(encoding="utf-8"))
    whole = io.BufferedReader(_Joined(folders, hashes))
    with tarfile.open(fileobj=whole, mode="r|") as archive:
        archive.extractall(out, filter="data")


def claim_empty(folder: Path) -> None:
    """Make a folder, or take one that is empty.

    Raises
    ------
    InputError
        If it is neither.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{str(folder)!r} is not empty; name a folder that is, or is not there yet")
    folder.mkdir(parents=True, exist_ok=True)


def _hash(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()
