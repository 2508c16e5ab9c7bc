"""What is asked of a model hub over the network, and what its refusals mean."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO
from urllib.parse import quote, urlsplit

from mmrag.errors import ModelError
from mmrag.models import catalogue

_TIMEOUT = (5.0, 10.0, 10.0, 5.0)  # seconds to connect, read, write, and get a connection

_COMMIT = re.compile(r"[0-9a-f]{40}")
_DIGEST = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


class ConnectionLostError(ModelError):
    """The hub could not be reached, or went away; another try may help."""


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
class Listing:
    """The files of a repository at a commit, by their paths."""

    repository: str
    commit: str
    files: dict[str, RemoteFile]


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
    try:
        parts = urlsplit(address)
        valid = (
            parts.scheme in ("http", "https") and parts.hostname and parts.port != 0 and not re.search(r"\s", address)
        )
    except ValueError:  # a port that is no number, …
        valid = False
    if not valid:
        raise ModelError(f"HF_ENDPOINT must be an address such as https://huggingface.co, not {address!r}")
    return address


def list_files(repository: str, revision: str) -> Listing:
    """Ask the hub for a revision's commit and its files.

    Raises
    ------
    ModelError
        If it cannot be reached, refuses, or does not answer as a hub does.
    """
    from huggingface_hub import hf_raise_for_status

    url = f"{endpoint()}/api/models/{repository}/revision/{quote(revision, safe='')}"
    with _hub_errors(repository, revision):
        answer = _session().get(url, params={"blobs": "true"}, headers=_headers(), timeout=_TIMEOUT)
        hf_raise_for_status(answer)
    try:
        return _read_listing(repository, answer.json())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"{endpoint()} does not answer as a model hub does, with the sizes and hashes of {repository}'s files; "
            "nothing was fetched. Check HF_ENDPOINT, and whether the network wants a login"
        ) from error


def _read_listing(repository: str, answer: Any) -> Listing:
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
    return Listing(repository, commit, files)


def append(listing: Listing, file: RemoteFile, out: BinaryIO, tell: Callable[[int], None]) -> None:
    """Append what is missing of a file, in one request.

    Parameters
    ----------
    listing : Listing
        Which repository, at which commit.
    file : RemoteFile
        Which of its files.
    out : binary file
        Open for appending; its position says how much is here. Begun anew if the hub sends all again.
    tell : callable
        Told how many bytes came, after each part of them.

    Raises
    ------
    ConnectionLostError
        If the hub goes away; what came is in `out`.
    ModelError
        If it refuses.
    """
    from huggingface_hub import hf_raise_for_status

    url = f"{endpoint()}/{listing.repository}/resolve/{listing.commit}/{quote(file.path)}"
    start = out.tell()
    headers = {**_headers(), "Accept-Encoding": "identity", **({"Range": f"bytes={start}-"} if start else {})}
    with (
        _hub_errors(listing.repository, listing.commit),
        _session().stream("GET", url, headers=headers, timeout=_TIMEOUT) as answer,
    ):
        hf_raise_for_status(answer)
        _check_length(answer, file, start)
        if start and answer.status_code != 206:  # the whole file, although a part was asked for
            out.truncate(out.seek(0))
        for part in answer.iter_bytes():
            tell(out.write(part))
            if out.tell() > file.size:
                break  # not this file; its hash will tell


def _check_length(answer: Any, file: RemoteFile, start: int) -> None:
    """Refuse another file's bytes before they come: a proxy's page for logging in, a mirror that lags behind."""
    if answer.status_code == 206:
        told = answer.headers.get("Content-Range", "")
        right = bool(re.fullmatch(rf"bytes {start}-\d+/({file.size}|\*)", told))
    else:
        told = answer.headers.get("Content-Length", str(file.size))
        right = told == str(file.size) or "Content-Encoding" in answer.headers
    if not right:
        raise ModelError(
            f"{endpoint()} lists {file.path} with {file.size} bytes and answers with others ({told or 'no range'}); "
            "nothing of that was kept. Check HF_ENDPOINT, and whether the network wants a login"
        )


def _session() -> Any:
    """Give huggingface_hub's client, which takes proxies and certificates from the environment when it is made."""
    from huggingface_hub import get_session

    try:
        return get_session()
    except Exception as error:  # a wrong address, a kind of proxy that needs another package, a file that is not there
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise ModelError(
            f"no connection can be made with the proxies or certificates of the environment ({reason}); correct "
            "HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, NO_PROXY or SSL_CERT_FILE"
        ) from error


def _headers() -> dict[str, str]:
    from huggingface_hub import get_token

    from mmrag.version import __version__

    token = get_token()
    if token and not (token.isascii() and token.isprintable()):
        raise ModelError("HF_TOKEN, or the token that `hf auth login` stored, is none: it has characters that none has")
    return {"User-Agent": f"mmrag/{__version__}", **({"Authorization": f"Bearer {token}"} if token else {})}


@contextmanager
def _hub_errors(repository: str, revision: str) -> Iterator[None]:
    """Turn every error of a request into one clear line."""
    from huggingface_hub import errors

    try:
        yield
    except errors.HfHubHTTPError as error:
        raise _refusal(error, repository, revision) from error
    except (errors.HTTPError, errors.OfflineModeIsEnabled) as error:  # type: ignore[attr-defined]  # httpx's, or httpx2's
        reason = str(error) or type(error).__name__
        raise ConnectionLostError(
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
        return ConnectionLostError(f"{hub} answers {status} for {repository}; try again in a while")
    return ModelError(f"{hub} answers {status} for {repository}: {error.server_message or 'no reason given'}")
