"""What the files on disk and the rows of a view ask for: read this, keep that, drop the other."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mmrag.sources.uri import is_below
from mmrag.sources.walk import File, walk
from mmrag.stores.view import View


@dataclass(frozen=True, slots=True)
class Root:
    """A folder or file that is indexed, absolute, and the globs that are left out of it.

    Where roots lie inside each other, the innermost decides.
    """

    path: str
    exclude: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Known:
    """What the index remembers of an item."""

    ref: int
    stamp: int
    uri: str
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
        New or changed files, which must be opened, and folders that could not be listed.
    unchanged : int
        Files with the size and time that the index remembers.
    still_failing : int
        The same, but their content could not be read when it was tried.
    vanished : list of Known
        Rows whose file is no longer there.
    lost : list of Known
        Rows below an indexed folder that is not there: kept, unless their files turn up elsewhere.
    """

    read: list[File] = field(default_factory=list)
    unchanged: int = 0
    still_failing: int = 0
    vanished: list[Known] = field(default_factory=list)
    lost: list[Known] = field(default_factory=list)


def known_rows(view: View, refs: Iterable[int] | None = None) -> dict[str, Known]:
    """Read what the index remembers of its files, by uri; or of the items with these refs."""
    names = ("stamp", "uri", "id", "content_hash", "size", "mtime_ns", "failure")
    return {
        uri: Known(ref, stamp, uri, own_id, content_hash, size, mtime_ns, failure is not None)
        for ref, stamp, uri, own_id, content_hash, size, mtime_ns, failure in view.scan(names, refs)
        if refs is not None or mtime_ns is not None
    }


def make_plan(roots: Sequence[Root], others: Sequence[Root], known: dict[str, Known], home: Path) -> Plan:
    """Compare the files below `roots` with what is known of them.

    Files below a folder that could not be listed are left as they are: nothing is known of them.

    Parameters
    ----------
    roots : sequence of Root
        What is looked at.
    others : sequence of Root
        What else is indexed, and decides about what lies in it.
    known : dict
        By uri.
    home : path
        The folder that uris are relative to.
    """
    plan = Plan()
    every = [*others, *roots]
    lost = [root for root in others if not os.path.lexists(root.path)]
    present: set[str] = set()
    unlisted: list[str] = []
    for root in roots:
        found = walk(Path(root.path), home=home, exclude=root.exclude)
        unlisted += [folder.path for folder in found.unlisted]
        for file in (*found.files, *found.unlisted):
            if file.uri not in present and _innermost(file.path, every) == root:
                present.add(file.uri)
                _sort_in(plan, file, known.get(file.uri))
    for uri, before in known.items():
        path = str(home / uri)
        owner = _innermost(path, every)
        if owner in lost:
            plan.lost.append(before)
        elif uri not in present and owner in roots and not any(is_below(path, folder) for folder in unlisted):
            plan.vanished.append(before)
    return plan


def _sort_in(plan: Plan, file: File, before: Known | None) -> None:
    same = before is not None and (before.size, before.mtime_ns) == (file.size, file.mtime_ns)
    if before is None or not same or (before.failed and before.content_hash is None):
        plan.read.append(file)
    elif before.failed:
        plan.still_failing += 1
    else:
        plan.unchanged += 1


def _innermost(path: str, roots: Sequence[Root]) -> Root | None:
    around = [root for root in roots if is_below(path, root.path)]
    return max(around, key=lambda root: len(root.path), default=None)
