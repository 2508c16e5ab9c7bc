"""What the files on disk and the rows of a view ask for: read this, keep that, drop the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from mmrag.sources.uri import is_under
from mmrag.sources.walk import File, Walk
from mmrag.stores.view import View


@dataclass(frozen=True, slots=True)
class Known:
    """What the index remembers of an item."""

    ref: int
    stamp: int
    id: str
    content_hash: str | None
    size: int | None
    mtime_ns: int | None
    failed: bool


@dataclass
class Plan:
    """What has to be done.

    Attributes
    ----------
    read : list of File
        New or changed files, which must be opened.
    unchanged : int
        Files with the size and time that the index remembers.
    still_failing : int
        The same, but they could not be read when they were tried.
    vanished : list of Known
        Rows whose file is no longer there.
    """

    read: list[File] = field(default_factory=list)
    unchanged: int = 0
    still_failing: int = 0
    vanished: list[Known] = field(default_factory=list)


def known_rows(view: View, *, files_only: bool = False) -> dict[str, Known]:
    """Read what the index remembers of its items, by uri; items in memory have no size and time."""
    names = ("uri", "stamp", "id", "content_hash", "size", "mtime_ns", "failure")
    return {
        uri: Known(ref, stamp, own_id, content_hash, size, mtime_ns, failure is not None)
        for ref, uri, stamp, own_id, content_hash, size, mtime_ns, failure in view.scan(names)
        if mtime_ns is not None or not files_only
    }


def make_plan(found: Walk, known: dict[str, Known], root_uri: str) -> Plan:
    """Compare a walk of `root_uri` with what is known of it.

    Files below a folder that could not be listed are left as they are: nothing is known of them.
    """
    plan = Plan()
    for file in found.files:
        before = known.get(file.uri)
        if before is None or (before.size, before.mtime_ns) != (file.size, file.mtime_ns):
            plan.read.append(file)
        elif before.failed:
            plan.still_failing += 1
        else:
            plan.unchanged += 1
    present = {file.uri for file in found.files}
    hidden = [folder.uri for folder in found.unreadable]
    plan.vanished = [
        before
        for uri, before in known.items()
        if uri not in present and is_under(uri, root_uri) and not _below_any(uri, hidden)
    ]
    return plan


def _below_any(uri: str, folders: Sequence[str]) -> bool:
    return any(is_under(uri, folder) for folder in folders)
