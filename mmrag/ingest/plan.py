"""What the files on disk and the rows of a view ask for: read this, keep that, drop the other."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mmrag.ingest.notes import Notes
from mmrag.ingest.roots import Root, innermost, is_there
from mmrag.sources.kinds import suffixes_for
from mmrag.sources.uri import is_below, is_remote, path_of, to_uri
from mmrag.sources.walk import File, Walk, companions, walk
from mmrag.stores.view import View
from mmrag.types import Modality


@dataclass(frozen=True, slots=True)
class Known:
    """What the index remembers of an item."""

    ref: int
    stamp: int
    uri: str
    part: str | None
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
        Items of files with the size and time that the index remembers.
    still_failing : int
        The same, but their content could not be read when it was tried.
    vanished : list of Known
        Rows whose file is no longer there.
    lost : list of Known
        Rows below an indexed folder that is not there: kept, unless their files turn up elsewhere.
    changed : dict of str to list of int
        Of the files in `read` whose rows may not all be written again, as parts may be gone: their uris, and the refs
        of their rows that have the file's time.
    unreachable : list of File
        Files and datasets that are roots themselves and could not be looked at, so that their rows are kept.
    left : int
        Files of rows that lie in the folders, and are not opened.
    """

    read: list[File] = field(default_factory=list)
    unchanged: int = 0
    still_failing: int = 0
    vanished: list[Known] = field(default_factory=list)
    lost: list[Known] = field(default_factory=list)
    changed: dict[str, list[int]] = field(default_factory=dict)
    unreachable: list[File] = field(default_factory=list)
    left: int = 0


@dataclass(slots=True)
class _Rows:
    """What the index remembers of the rows of one file.

    Attributes
    ----------
    refs : list of int
        Of all.
    state : tuple of int
        Size and time of the file when it was read to its end, if it was.
    beside : str
        What lay beside it then.
    marked : list of int
        Refs of the rows that say so.
    failed : int
        How many of them failed.
    broken : int or None
        Ref of the row that says why the file itself could not be read.
    has_parts : bool
        Whether one of them is a part of the file.
    """

    refs: list[int] = field(default_factory=list)
    state: tuple[int, int] | None = None
    beside: str = ""
    marked: list[int] = field(default_factory=list)
    failed: int = 0
    broken: int | None = None
    has_parts: bool = False

    @property
    def sound(self) -> int:
        """How many of them did not fail."""
        return len(self.refs) - self.failed


def known_rows(view: View, refs: Iterable[int]) -> Iterator[Known]:
    """Read what the index remembers of the items with these refs."""
    names = ("stamp", "uri", "part", "id", "content_hash", "size", "mtime_ns", "failure")
    for ref, stamp, uri, part, own_id, content_hash, size, mtime_ns, failure in view.scan(names, refs):
        yield Known(ref, stamp, uri, part, own_id, content_hash, size, mtime_ns, failure is not None)


def make_plan(
    roots: Sequence[Root],
    others: Sequence[Root],
    view: View,
    home: Path,
    notes: Notes,
    *,
    only: Sequence[str] | None = None,
    modalities: Collection[Modality] = ("image", "text"),
    allow_remote: bool = False,
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
    modalities : collection of str
        Which of pictures and documents are looked for.
    allow_remote : bool
        Whether a connection may be opened to look at roots that are urls.
    """
    if only is not None and any(is_below(str(home), path) for path in only):
        only = None  # uris in the home do not begin with its path
    if only is not None:
        only = list(dict.fromkeys(one for path in only for one in (path, *companions(path))))
    remembered = _remembered(view, None if only is None else view.find_below([to_uri(path, home) for path in only]))
    every = [*others, *roots]
    files, found = _find_files(roots, every, home, only, modalities, allow_remote=allow_remote)
    left = {to_uri(path, home) for path in found.left} - {*notes.captions}
    plan = Plan(left=len(left))
    plan.unreachable = [one for one in found.unlisted if one.uri in remembered and remembered[one.uri].sound]
    for file in plan.unreachable:
        del files[file.uri]
    _sort_in(plan, files, remembered, view, notes)
    absent = {uri: rows.refs for uri, rows in remembered.items() if uri not in files and uri not in left}
    vanished, lost = _sort_out(absent, roots, others, [folder.path for folder in found.unlisted], home)
    plan.vanished += known_rows(view, vanished)
    plan.lost += known_rows(view, lost)
    return plan


def _remembered(view: View, refs: Sequence[int] | None) -> dict[str, _Rows]:
    """Gather rows by their files; those that live only in memory have none."""
    files: dict[str, _Rows] = {}
    names = ("uri", "part", "size", "mtime_ns", "failure", "beside")
    for ref, uri, part, size, mtime_ns, failure, beside in view.scan(names, refs):
        if size is None:
            continue
        rows = files.setdefault(uri, _Rows())
        rows.refs.append(ref)
        rows.failed += failure is not None
        if mtime_ns is not None:
            rows.state, rows.beside = (size, mtime_ns), beside or ""
            rows.marked.append(ref)
        if part is not None:
            rows.has_parts = True
        elif failure is not None:
            rows.broken = ref
    return files


def _sort_in(plan: Plan, files: Mapping[str, File], remembered: Mapping[str, _Rows], view: View, notes: Notes) -> None:
    """Choose which of the files that were found have to be read."""
    same = {uri: rows for uri, rows in remembered.items() if uri in files and _is_same(files[uri], rows, notes)}
    broken = {rows.broken: uri for uri, rows in same.items() if rows.broken is not None}
    for known in known_rows(view, broken):
        if known.content_hash is None:  # it is not the content that is wrong
            del same[known.uri]
    for uri, file in files.items():
        rows = remembered.get(uri)
        if rows is not None and uri in same:
            plan.still_failing += rows.failed
            plan.unchanged += rows.sound
            continue
        plan.read.append(file)
        if rows is not None and (rows.has_parts or rows.broken is not None):
            plan.changed[uri] = rows.marked


def _is_same(file: File, rows: _Rows, notes: Notes) -> bool:
    if file.problem or rows.state != (file.size, file.mtime_ns):
        return False
    return rows.broken is not None or rows.beside == notes.state(file.path, file.uri)


def _find_files(
    roots: Sequence[Root],
    every: Sequence[Root],
    home: Path,
    only: Sequence[str] | None,
    modalities: Collection[Modality],
    *,
    allow_remote: bool,
) -> tuple[dict[str, File], Walk]:
    """Walk `roots`: the files that are theirs, by uri, and all else that was found."""
    files: dict[str, File] = {}
    all_found, suffixes = Walk(), suffixes_for(modalities)
    for root in roots:
        if is_remote(root.path):
            if only is not None:  # none of these paths is a url
                continue
            from mmrag.sources.remote import walk_remote  # most runs do without

            found = walk_remote(root.path, exclude=root.exclude, suffixes=suffixes, allowed=allow_remote)
        else:
            found = walk(Path(root.path), home=home, exclude=root.exclude, only=_in_root(only, root), suffixes=suffixes)
        inner = [one.path for one in every if one != root and is_below(one.path, root.path)]
        all_found.unlisted += found.unlisted
        all_found.left += [path for path in found.left if not _is_inside(path, inner)]
        for file in (*found.files, *found.unlisted):
            if not _is_inside(file.path, inner):
                files.setdefault(file.uri, file)
    return files, all_found


def _is_inside(path: str, folders: Sequence[str]) -> bool:
    return any(is_below(path, folder) for folder in folders)


def _in_root(only: Sequence[str] | None, root: Root) -> list[str] | None:
    """Choose what has to be looked at in one root."""
    if only is None or any(is_below(root.path, path) for path in only):
        return None
    return [path for path in only if is_below(path, root.path)]


def _sort_out(
    absent: Mapping[str, Sequence[int]],
    roots: Sequence[Root],
    others: Sequence[Root],
    unlisted: Sequence[str],
    home: Path,
) -> tuple[list[int], list[int]]:
    """Choose from rows whose file was not found, refs by uri, those that have vanished and those that are lost."""
    every = [*others, *roots]
    gone = [root for root in others if not is_there(root)]
    vanished: list[int] = []
    lost: list[int] = []
    for uri, refs in absent.items():
        path = path_of(uri, home)
        owner = innermost(path, every)
        if owner in gone:
            lost += refs
        elif owner in roots and not _is_inside(path, unlisted):
            vanished += refs
    return vanished, lost
