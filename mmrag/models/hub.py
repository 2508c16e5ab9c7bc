"""Fetching models from a hub into its cache, from where they are loaded without a network ever after.

huggingface_hub is asked for its session, its token and its errors. The bytes are fetched here, because its own download
begins again from nothing after a kill.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote

from mmrag.errors import ModelError
from mmrag.models import cache, catalogue
from mmrag.models.needs import Need, needs

logger = logging.getLogger("mmrag")

Progress = Callable[[int, int], None]

_TIMEOUT = (5.0, 10.0, 10.0, 5.0)  # seconds to connect, read, write, and get a connection
_TRIES = 3  # in a row without a byte
_PAUSE = 1.0  # seconds

_COMMIT = re.compile(r"[0-9a-f]{40}")
_DIGEST = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


@dataclass(frozen=True)
class RemoteFile:
    """A file of a repository at a commit.

    Attributes
    ----------
    path : str
        In the repository.
    size : int
        In bytes.
    digest : str
        Its SHA-256 if it is large (git-lfs), else git's SHA-1.
    """

    path: str
    size: int
    digest: str


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


def is_offline() -> bool:
    """Tell whether HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE forbids the network."""
    given = (os.environ.get(name, "") for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"))
    return any(value.upper() in ("1", "ON", "YES", "TRUE") for value in given)


def endpoint() -> str:
    """Where the hub is: HF_ENDPOINT, or huggingface.co.

    Raises
    ------
    ModelError
        If it is no address.
    """
    address = (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")
    if not re.match(r"https?://[^/]", address):
        raise ModelError(f"HF_ENDPOINT must be an address such as https://huggingface.co, not {address!r}")
    return address


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
    plans = [_plan(need) for need in wanted]
    transfer = _Transfer(sum(plan.size for plan in plans), progress)
    _check_room(plans)
    for plan in plans:
        _fetch(plan, transfer)
    first = plans[0]
    return Fetched(full, first.folder, first.commit, transfer.size, transfer.received)


def _already_here(full: str, wanted: Sequence[Need]) -> Fetched:
    lacking = next((need for need in wanted if not need.is_here()), None)
    if lacking:
        raise ModelError(
            f"{lacking.repository} is not here, or only in part, and the network is switched off "
            "(--offline, HF_HUB_OFFLINE): pull it once without"
        )
    return Fetched(full, cache.snapshot(wanted[0].repository, wanted[0].revision))


@dataclass(frozen=True)
class _Plan:
    """Which files of a repository are fetched."""

    repository: str
    revision: str
    commit: str
    files: tuple[RemoteFile, ...]

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)

    @property
    def home(self) -> Path:
        return cache.repository_folder(self.repository)

    @property
    def folder(self) -> Path:
        return self.home / "snapshots" / self.commit

    def blob(self, file: RemoteFile) -> Path:
        return self.home / "blobs" / file.digest

    def url(self, file: RemoteFile) -> str:
        return f"{endpoint()}/{self.repository}/resolve/{self.commit}/{quote(file.path)}"


@dataclass
class _Transfer:
    """How far a pull is."""

    size: int
    progress: Progress | None
    received: int = 0
    finished: int = 0

    def tell(self, in_file: int) -> None:
        if self.progress:
            self.progress(self.finished + in_file, self.size)


def _plan(need: Need) -> _Plan:
    """Ask the hub for the commit and its files."""
    from huggingface_hub import get_session, hf_raise_for_status

    url = f"{endpoint()}/api/models/{need.repository}/revision/{quote(need.revision, safe='')}"
    with _hub_errors(need.repository, need.revision):
        answer = get_session().get(url, params={"blobs": "true"}, headers=_headers(), timeout=_TIMEOUT)
        hf_raise_for_status(answer)
    try:
        commit, files = _read_listing(answer.json())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"{endpoint()} does not answer as a model hub does, with the sizes and hashes of {need.repository}'s "
            "files; nothing was fetched. Check HF_ENDPOINT, and whether the network wants a login"
        ) from error
    chosen = need.choose(files)
    if not chosen:
        raise ModelError(
            f"{need.repository} has none of the files that mmrag reads (model.safetensors, pytorch_model.bin, or "
            f"onnx/ for onnx:{need.repository}); it has: {', '.join(sorted(files)[:12])}"
        )
    return _Plan(need.repository, need.revision, commit, tuple(files[path] for path in chosen))


def _read_listing(answer: Any) -> tuple[str, dict[str, RemoteFile]]:
    commit = answer["sha"]
    if not _COMMIT.fullmatch(commit):
        raise ValueError(commit)
    files = {}
    for one in answer["siblings"]:
        large = one.get("lfs") or {}
        digest = large.get("sha256") or one["blobId"]
        if not _DIGEST.fullmatch(digest):
            raise ValueError(digest)
        files[one["rfilename"]] = RemoteFile(one["rfilename"], int(large.get("size") or one["size"]), digest)
    return commit, files


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
    """Bring all files of a plan into the cache; only a snapshot that is whole gets its name."""
    with _disk_errors(plan):
        (plan.home / "blobs").mkdir(parents=True, exist_ok=True)
        for file in plan.files:
            blob = plan.blob(file)
            if blob.is_file() and not _is(blob, file):
                logger.warning("%s was damaged and is fetched again", file.path)
                blob.unlink()
            if not blob.is_file():
                _fetch_file(plan, file, transfer)
            transfer.finished += file.size
            transfer.tell(0)
        for file in plan.files:
            _link(plan, file)
        ref = plan.home / "refs" / plan.revision
        if plan.revision != plan.commit:
            ref.parent.mkdir(parents=True, exist_ok=True)
            ref.write_text(plan.commit, encoding="utf-8")


def _fetch_file(plan: _Plan, file: RemoteFile, transfer: _Transfer) -> None:
    blob = plan.blob(file)
    with _aside(blob).open("ab") as out:
        try:
            fcntl.flock(out, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ModelError(f"another process is fetching {plan.repository}; wait until it is done") from error
        _fill(plan, file, out, transfer)
    if not _is(_aside(blob), file):
        _aside(blob).unlink()
        raise ModelError(
            f"{file.path} of {plan.repository} came with another hash than {endpoint()} lists; it was removed. Pull "
            "again; if that does not help, something between here and there changes files"
        )
    os.replace(_aside(blob), blob)


def _fill(plan: _Plan, file: RemoteFile, out: BinaryIO, transfer: _Transfer) -> None:
    """Append what is missing, through cut connections, until the file has its size."""
    if out.tell() > file.size:
        out.truncate(0)
    tries = _TRIES
    while out.tell() < file.size:
        before = out.tell()
        try:
            with _hub_errors(plan.repository, plan.revision):
                _append(plan.url(file), file, out, transfer)
        except _ConnectionLostError as error:
            tries = _TRIES if out.tell() > before else tries - 1
            if not tries:
                raise ModelError(
                    f"the connection was lost with {out.tell() / 1e6:,.1f} of {file.size / 1e6:,.1f} MB of {file.path} "
                    f"here; pull again, it goes on from there. {error}"
                ) from error
            time.sleep(_PAUSE)


def _append(url: str, file: RemoteFile, out: BinaryIO, transfer: _Transfer) -> None:
    from huggingface_hub import get_session, hf_raise_for_status

    start = out.tell()
    headers = {**_headers(), "Accept-Encoding": "identity", **({"Range": f"bytes={start}-"} if start else {})}
    with get_session().stream("GET", url, headers=headers, timeout=_TIMEOUT) as answer:
        hf_raise_for_status(answer)
        if start and answer.status_code != 206:  # the whole file, although a part was asked for
            out.truncate(0)
        for chunk in answer.iter_bytes():
            transfer.received += out.write(chunk)
            transfer.tell(out.tell())
            if out.tell() > file.size:
                break  # not this file; its hash will tell


def _link(plan: _Plan, file: RemoteFile) -> None:
    """Put a file under its name into the snapshot, as huggingface_hub does."""
    pointer = plan.folder / file.path
    pointer.parent.mkdir(parents=True, exist_ok=True)
    aside = pointer.with_name(f"{pointer.name}.{os.getpid()}")
    aside.symlink_to(os.path.relpath(plan.blob(file), pointer.parent))
    os.replace(aside, pointer)


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


def _headers() -> dict[str, str]:
    from huggingface_hub import get_token

    from mmrag.version import __version__

    token = get_token()
    return {"User-Agent": f"mmrag/{__version__}", **({"Authorization": f"Bearer {token}"} if token else {})}


class _ConnectionLostError(ModelError):
    """The hub could not be reached, or went away."""


@contextmanager
def _hub_errors(repository: str, revision: str) -> Iterator[None]:
    """Turn every error of a request into one clear line."""
    from huggingface_hub import errors

    try:
        yield
    except errors.HfHubHTTPError as error:
        raise _refusal(error, repository, revision) from error
    except errors.HTTPError as error:  # type: ignore[attr-defined]  # httpx's, or httpx2's: whichever it was built on
        reason = str(error) or type(error).__name__
        raise _ConnectionLostError(
            f"{endpoint()} cannot be reached ({reason}); check the network, or the address in HF_ENDPOINT. "
            "What is here already works offline"
        ) from error


def _refusal(error: Any, repository: str, revision: str) -> ModelError:
    """Say what an answer of 400 and more means."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    hub, status = endpoint(), error.response.status_code
    if isinstance(error, GatedRepoError):
        return ModelError(
            f"{repository} is gated: accept its licence on {hub}/{repository}, set HF_TOKEN to a token of yours, and "
            "pull again"
        )
    if isinstance(error, RevisionNotFoundError):
        return ModelError(f"{repository} has no revision {revision!r}; without @{revision} its newest is fetched")
    if isinstance(error, RepositoryNotFoundError) or status == 404:
        return ModelError(
            f"{hub} has no model {repository!r}, or a private one: then set HF_TOKEN to a token that may read it."
            f"{catalogue.did_you_mean(repository)}"
        )
    if status in (401, 403):
        return ModelError(
            f"{hub} refuses {repository} ({status}): set HF_TOKEN to a token that may read it, and look at "
            f"{hub}/{repository} for a licence to accept"
        )
    if status >= 500 or status in (408, 429):
        return _ConnectionLostError(f"{hub} answers {status} for {repository}; try again in a while")
    return ModelError(f"{hub} answers {status} for {repository}: {error.server_message or 'no reason given'}")


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
