"""What the files on disk and the rows of a view ask for: read this, keep that, drop the other."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mmrag.ingest.notes import Notes
from mmrag.ingest.roots import Root, innermost
from mmrag.sources.uri import is_below, to_uri
from mmrag.sources.walk import File, walk
from mmrag.stores.view import View


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
    known : dict of str to Known
        The rows of the files in `read`, and of those that are still failing, by uri.
    """

    read: list[File] = field(default_factory=list)
    unchanged: int = 0
    still_failing: int = 0
    vanished: list[Known] = field(default_factory=list)
    lost: list[Known] = field(default_factory=list)
    known: dict[str, Known] = field(default_factory=dict)


def known_rows(view: View, refs: Iterable[int]) -> dict[str, Known]:
    """Read what the index remembers of the items with these refs, by uri."""
    names = ("stamp", "uri", "id", "content_hash", "size", "mtime_ns", "failure")
    return {
        uri: Known(ref, stamp, uri, own_id, content_hash, size, mtime_ns, failure is not None)
        for ref, stamp, uri, own_id, content_hash, size, mtime_ns, failure in view.scan(names, refs)
    }


def make_plan(
    roots: Sequence[Root],
    others: Sequence[Root],
    view: View,
    home: Path,
    notes: Notes,
    *,
    only: Sequence[str] | None = None,
) -> Plan:
    """Compare the files below `roots` with what is known of them.

    Files below a folder that could not be listed are left as they are: nothing is known of them.

    Parameters
    ----------
    roots : sequence of Root
        What is looked at.
    others : sequence of Root
        What else is indexed, and decides about what lies in it.
    view : View
        What the index remembers.
    home : path
        The folder that uris are relative to.
    notes : Notes
        What lies beside pictures; where that has changed, the picture is read again.
    only : sequence of str or None
        Paths: look at them, and what lies below them, alone.
    """
    if only is not None and any(is_below(str(home), path) for path in only):
        only = None  # uris in the home do not begin with its path
    refs = None if only is None else view.find_below([to_uri(path, home) for path in only])
    rows = view.scan(("uri", "size", "mtime_ns", "failure", "beside"), refs)
    remembered = {row[1]: row for row in rows if row[3] is not None}  # the others live only in memory
    files, unlisted = _find_files(roots, [*others, *roots], home, only)
    settled = {
        uri
        for uri, file in files.items()
        if (row := remembered.get(uri))
        and row[2:5] == (file.size, file.mtime_ns, None)
        and (row[5] or "") == notes.state(file.path, uri)
    }
    doubtful = [file for uri, file in files.items() if uri not in settled]
    plan = Plan(unchanged=len(settled))
    plan.known = known_rows(view, [remembered[file.uri][0] for file in doubtful if file.uri in remembered])
    for file in doubtful:
        _sort_in(plan, file)
    absent = {uri: row[0] for uri, row in remembered.items() if uri not in files}
    vanished, lost = _sort_out(absent, roots, others, unlisted, home)
    plan.vanished += known_rows(view, vanished).values()
    plan.lost += known_rows(view, lost).values()
    return plan


def _find_files(
    roots: Sequence[Root], every: Sequence[Root], home: Path, only: Sequence[str] | None
) -> tuple[dict[str, File], list[str]]:
    """Walk `roots`: the files that are theirs, by uri, and the paths of the folders that could not be listed."""
    files: dict[str, File] = {}
    unlisted: list[str] = []
    for root in roots:
        found = walk(Path(root.path), home=home, exclude=root.exclude, only=_in_root(only, root))
        unlisted += [folder.path for folder in found.unlisted]
        inner = [one.path for one in every if one != root and is_below(one.path, root.path)]
        for file in (*found.files, *found.unlisted):
            if not inner or not any(is_below(file.path, path) for path in inner):
                files.setdefault(file.uri, file)
    return files, unlisted


def _in_root(only: Sequence[str] | None, root: Root) -> list[str] | None:
    """Choose what has to be looked at in one root."""
    if only is None or any(is_below(root.path, path) for path in only):
        return None
    return [path for path in only if is_below(path, root.path)]


def _sort_in(plan: Plan, file: File) -> None:
    before = plan.known.get(file.uri)
    same = before is not None and (before.size, before.mtime_ns) == (file.size, file.mtime_ns)
    if before is None or not same or before.content_hash is None or not before.failed:
        plan.read.append(file)
    else:
        plan.still_failing += 1


def _sort_out(
    absent: Mapping[str, int], roots: Sequence[Root], others: Sequence[Root], unlisted: Sequence[str], home: Path
) -> tuple[list[int], list[int]]:
    """Choose from rows whose file was not found, refs by uri, those that have vanished and those that are lost."""
    every = [*others, *roots]
    gone = [root for root in others if not os.path.lexists(root.path)]
    vanished: list[int] = []
    lost: list[int] = []
    for uri, ref in absent.items():
        path = os.path.join(home, uri)
        owner = innermost(path, every)
        if owner in gone:
            lost.append(ref)
        elif owner in roots and not any(is_below(path, folder) for folder in unlisted):
            vanished.append(ref)
    return vanished, lost
