"""Files behind a url, through fsspec: listed, opened and read, within the limits that local ones have.

Nothing here asks whether a connection may be opened: who calls it does.
"""

from __future__ import annotations

import hashlib
import io
import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any, BinaryIO
from urllib.parse import parse_qs, urlsplit

from mmrag.errors import InputError, ItemError, MissingExtraError, TooLargeError
from mmrag.sources.file import Content
from mmrag.sources.kinds import holds_rows, suffix_of
from mmrag.sources.limits import MAX_BYTES
from mmrag.sources.uri import is_remote
from mmrag.sources.walk import File, Walk, is_wanted, is_words, stems_of_pictures

_PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "http": "aiohttp", "https": "aiohttp"}
_SECRETS = ("signature", "sig", "token", "key", "password", "secret", "credential")
_BUFFER = 1 << 16
_NOT_ALLOWED = (
    "is remote, and no connection is opened unless that is allowed: mmrag index --allow-remote (allow_remote=True). "
    "What is indexed of it is kept"
)


def check_urls(paths: Sequence[str], *, allowed: bool) -> None:
    """Check urls before anything is changed.

    Raises
    ------
    InputError
        If no connection may be opened, or a url holds what only its owner may know: it would be stored.
    MissingExtraError
        If what opens them is not installed.
    """
    for path in filter(is_remote, paths):
        parts = urlsplit(path)
        shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
        secrets = [name for name in parse_qs(parts.query) if name.lower().endswith(_SECRETS)]
        if "@" in parts.netloc or secrets:
            raise InputError(
                f"the url {shown} holds a name, password or signature, which the index would keep for all to read; "
                "give it without, and tell the machine (AWS_PROFILE, GOOGLE_APPLICATION_CREDENTIALS, ~/.netrc)"
            )
        if not allowed:
            raise InputError(f"{shown} {_NOT_ALLOWED.partition(' What')[0]}")
        _filesystem(path)


def walk_remote(url: str, *, exclude: Sequence[str], suffixes: Collection[str], allowed: bool) -> Walk:
    """Find the files below a url, as `mmrag.sources.walk.walk` does in a folder, or take the one file that it names.

    What cannot be listed, or must not be, is told as `unlisted`.
    """
    if not allowed:
        return Walk(unlisted=[File(url, url, problem=_NOT_ALLOWED)])
    try:
        files, path = _filesystem(url)
        if files.isfile(path):
            return Walk(files=[_described(url, files.info(path))])
        listed = files.find(path, detail=True)
    except MissingExtraError as error:
        return Walk(unlisted=[File(url, url, problem=str(error))])
    except Exception as error:  # each kind of storage raises its own
        return Walk(unlisted=[File(url, url, problem=f"cannot list it: {_reason(error)}")])
    if not listed:
        return Walk(unlisted=[File(url, url, problem="cannot list it: nothing is there")])
    found = {url.rstrip("/") + name[len(path.rstrip("/")) :]: about for name, about in listed.items()}
    return _chosen(url, found, exclude, suffixes)


def _chosen(
    root: str, found: Mapping[str, Mapping[str, Any]], exclude: Sequence[str], suffixes: Collection[str]
) -> Walk:
    names: dict[str, set[str]] = {}
    for one in found:
        folder, name = os.path.split(one)
        names.setdefault(folder, set()).add(name)
    pictured = {folder: stems_of_pictures(some) for folder, some in names.items()}
    chosen = Walk()
    for one in sorted(found):
        folder, name = os.path.split(one)
        if not is_wanted(one, root, exclude):
            continue
        if suffix_of(name) in suffixes and not is_words(name, pictured[folder]):
            chosen.files.append(_described(one, found[one]))
        elif holds_rows(name):
            chosen.left.append(one)
    return chosen


def describe_remote(url: str) -> File:
    """Look at one file without opening it.

    Raises
    ------
    ItemError
        If it cannot be looked at.
    """
    try:
        files, path = _filesystem(url)
        return _described(url, files.info(path))
    except MissingExtraError:
        raise
    except Exception as error:
        raise ItemError(f"cannot be read: {_reason(error)}") from error


def read_remote(url: str, *, admit: Callable[[int], None] | None = None) -> Content:
    """Read a file whole, unless it is beyond `MAX_BYTES`; parameters and errors as those of `read_file`."""
    about = describe_remote(url)
    if about.size > MAX_BYTES:
        raise TooLargeError(f"larger than the limit of {MAX_BYTES:,} bytes")
    if admit:
        admit(about.size)
    try:
        files, path = _filesystem(url)
        with files.open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except Exception as error:
        raise ItemError(f"cannot be read: {_reason(error)}") from error
    if len(data) > MAX_BYTES:
        raise TooLargeError(f"larger than the limit of {MAX_BYTES:,} bytes")
    return Content(data, about.size, about.mtime_ns)


def open_remote(url: str) -> BinaryIO:
    """Open a file, to be read piece by piece: only what is asked for is fetched.

    Raises
    ------
    ItemError
        With the reason.
    """
    try:
        files, path = _filesystem(url)
        return io.BufferedReader(_Remote(files.open(path, "rb")), _BUFFER)
    except MissingExtraError:
        raise
    except Exception as error:
        raise ItemError(f"cannot be read: {_reason(error)}") from error


class _Remote(io.RawIOBase):
    """A file of fsspec whose errors are those of a file: each kind of storage raises its own."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def readable(self) -> bool:
        """Tell that it can be read."""
        return True

    def seekable(self) -> bool:
        """Tell that any place can be gone to."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read as much as is wanted."""
        view = memoryview(buffer)
        data = self._call(self._file.read, len(view))
        view[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a place."""
        return int(self._call(self._file.seek, offset, whence))

    def tell(self) -> int:
        """Tell the place."""
        return int(self._file.tell())

    def close(self) -> None:
        """Close it."""
        if not self.closed:
            self._file.close()
        super().close()

    def _call(self, method: Callable[..., Any], *arguments: int) -> Any:
        try:
            return method(*arguments)
        except Exception as error:
            raise OSError(_reason(error)) from error


def _filesystem(url: str) -> tuple[Any, str]:
    scheme = url.partition("://")[0]
    try:
        from fsspec.core import url_to_fs

        files, path = url_to_fs(url, use_listings_cache=False)
    except ImportError as error:
        package = "fsspec" if error.name == "fsspec" else _PACKAGES.get(scheme, "fsspec")
        raise MissingExtraError(package, "remote") from error
    return files, path


def _described(url: str, about: Mapping[str, Any]) -> File:
    problem = "" if about.get("type", "file") == "file" else "not a regular file"
    return File(url, url, int(about.get("size") or 0), _time(about), problem)


def _time(about: Mapping[str, Any]) -> int:
    """Give the time of the last change in nanoseconds, or a number that stands for its content; now if none is told."""
    for name in ("LastModified", "mtime", "updated", "last_modified", "created"):
        moment = about.get(name)
        if isinstance(moment, str):
            with suppress(ValueError):
                moment = datetime.fromisoformat(moment)
        if isinstance(moment, datetime):
            return int(moment.timestamp() * 1e6) * 1000
        if isinstance(moment, (int, float)):
            return int(moment * 1e9)
    etag = about.get("ETag") or about.get("etag")
    if etag:
        return int.from_bytes(hashlib.blake2b(str(etag).encode(), digest_size=7).digest(), "big")
    return time.time_ns()


def _reason(error: Exception) -> str:
    if "support range requests" in str(error):
        return "its server gives files only whole; download it, and index the copy"
    return " ".join((getattr(error, "strerror", None) or str(error) or type(error).__name__).split())
