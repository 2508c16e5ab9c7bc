"""Another model for a whole index: its rows are embedded again beside the old ones, which serve until all is done."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import uuid
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmrag.errors import InputError, Interrupted, ItemError, StoreError
from mmrag.ingest.members import Member
from mmrag.ingest.roots import roots_of
from mmrag.ingest.words import ENRICHED, given_of
from mmrag.ingest.write import Ingest
from mmrag.sources.parts import pictures_in
from mmrag.sources.uri import is_remote, path_of, to_uri
from mmrag.sources.walk import File, describe
from mmrag.stores.files import disk_errors, size_on_disk
from mmrag.stores.records import to_item
from mmrag.stores.registry import open_view
from mmrag.stores.rows import COLUMNS, Row
from mmrag.stores.table import Table
from mmrag.types import Changes

if TYPE_CHECKING:
    from mmrag.ingest.load import Source
    from mmrag.roles import Identity
    from mmrag.stores.manifest import Manifest
    from mmrag.stores.view import View
    from mmrag.stores.view_settings import ViewSettings

_PREFIX = "store-"
_PLAIN = ("table", "views")  # of an index that was never embedded again
_COPIES = 4
"""Table and view, and each once more while small parts of it are joined."""

_ABOUT = tuple(name for name in COLUMNS.names if name != "stamp")
_OF_PICTURES = ("uri", "part", "content_hash", "size", "mtime_ns", "failure", *ENRICHED)


def store_name(identity: Identity) -> str:
    """Name the store of a model's vectors: a run that was stopped finds what it has done by this."""
    key = json.dumps(dataclasses.asdict(identity), sort_keys=True)
    return f"{_PREFIX}{hashlib.blake2b(key.encode(), digest_size=6).hexdigest()}"


def check_sources(old: View, manifest: Manifest, home: Path, *, allow_remote: bool) -> None:
    """Check that what is to be seen again can be: pictures whose pixels lived only in memory cannot.

    Raises
    ------
    InputError
        If there are such, or an indexed folder is gone or empty, as where a disk is not mounted, with what to do. A
        single file that is gone is no error here.
    """
    gone = [root for root in roots_of(manifest, home) if _is_gone(root.path)]
    lost = next((root for root in gone if old.find_below([to_uri(root.path, home)])), None)
    if lost is not None:
        raise InputError(
            f"the folder {lost.path} is gone or empty, and its pictures cannot be embedded again. Bring it back, or "
            f"take it out of the index: mmrag remove {lost.path}; nothing was changed"
        )
    about = list(old.scan(("uri", "modality", "size", "failure")))
    remote = next((uri for _, uri, modality, *_ in about if modality == "image" and is_remote(uri)), None)
    if remote is not None and not allow_remote:
        raise InputError(
            f"pictures behind urls, such as {remote!r}, would have to be read again, and no connection is opened "
            "unless that is allowed: mmrag reindex --allow-remote (allow_remote=True); nothing was changed"
        )
    unseen = [uri for _, uri, modality, size, failure in about if modality == "image" and size is None and not failure]
    if unseen:
        count = "1 picture was" if len(unseen) == 1 else f"{len(unseen):,} pictures were"
        raise InputError(
            f"{count} brought by a program, such as {unseen[0]!r}, and an index keeps no pixels: no other model can "
            "see them. Take them out (mmrag remove URI …, Index.remove) and add them again when this is done; "
            "nothing was changed"
        )


def _is_gone(path: str) -> bool:
    if is_remote(path):
        return False
    if not os.path.isdir(path):
        return not os.path.lexists(path)
    with suppress(OSError), os.scandir(path) as entries:
        return next(entries, None) is None
    return True


def check_space(old: View, shape: Sequence[int], store: Path) -> None:
    """Check that there is room for a second table and view.

    Raises
    ------
    StoreError
        If there is not, with how much is needed.
    """
    each = 4
    for size in shape:
        each *= size
    columns = sum(int(segment.columns.nbytes) for segment in old.segments)
    needed = _COPIES * (len(old) * each + columns) - size_on_disk(store)
    free = shutil.disk_usage(store.parent).free
    if needed > free:
        raise StoreError(
            f"the vectors of the new model need about {needed / 1e6:,.0f} MB in {store.parent}, beside those of the "
            f"old one, and {free / 1e6:,.0f} MB are free. Make room, and run it again; nothing was changed"
        )


def open_store(store: Path, settings: ViewSettings, identity: Identity) -> tuple[Table, View]:
    """Open a store that an earlier run has begun; what cannot be opened, or is not there, is made anew.

    Raises
    ------
    StoreError
        If it cannot be written.
    """
    opened = partial(open_view, store, settings, identity.dimension, vectors=identity.vectors)
    with suppress(StoreError):
        table = Table(store / "table", identity.dimension, vectors=identity.vectors)
        table.withdraw_unreadable(since=0)
        return table, opened().sync(table)
    with disk_errors(store):
        shutil.rmtree(store, ignore_errors=True)
        store.mkdir()
    table = Table(store / "table", identity.dimension, vectors=identity.vectors, create=True)
    return table, opened().sync(table)


def embed_again(old: View, ingest: Ingest, *, keep_versions: int) -> Changes:
    """Bring a store to hold what an old view holds, embedded by another model.

    What the store has already, unchanged since, is not read again. What had failed stays as it is; what cannot be
    read now fails with its reason.

    Parameters
    ----------
    old : View
        What serves.
    ingest : Ingest
        Of the new store.
    keep_versions : int
        How many versions of the new store can be restored some day.

    Raises
    ------
    Interrupted
        On Ctrl-C, after what was done is committed.
    """
    done = {row["id"]: row for row in _rows(ingest.view)}
    wanted = {row["id"]: row for row in _rows(old)}
    ingest.remove([row["stamp"] for one, row in done.items() if one not in wanted])
    todo = [row for one, row in wanted.items() if one not in done or not _same(row, done[one])]
    ingest.copy([Row(**_about(row)) for row in todo if row["failure"] is not None])
    todo = [row for row in todo if row["failure"] is None]
    try:
        changes = ingest.write_again(old, _sources(todo, ingest.home), len(todo))
    except Interrupted as error:
        raise Interrupted(
            f"stopped; {len(ingest.view):,} of {len(old):,} are embedded by the new model, and searches go on with the "
            "old one. Run the same command to go on"
        ) from error
    ingest.finish(since=0, keep_versions=keep_versions)
    return changes + Changes(
        unchanged=sum(row["failure"] is None for row in wanted.values()) - len(todo),
        still_failing=sum(row["failure"] is not None for row in wanted.values()),
    )


def other_stores(folder: Path, current: str) -> list[Path]:
    """List what is left of stores that serve no more, or do not yet, in the index in `folder`."""
    plain = [folder / name for name in _PLAIN if current]
    return sorted(path for path in (*plain, *folder.glob(f"{_PREFIX}*")) if path.name != current and path.is_dir())


def drop_stores(folder: Path, current: str) -> list[str]:
    """Delete the other stores, each gone from its place in one step; gives their names."""
    found = other_stores(folder, current)
    with disk_errors(folder):
        for path in found:
            aside = folder / f"{_PREFIX}dropped-{uuid.uuid4().hex[:8]}"
            os.replace(path, aside)
            shutil.rmtree(aside, ignore_errors=True)
    return [path.name for path in found]


def _rows(view: View) -> Iterator[dict[str, Any]]:
    names = ("ref", "stamp", *_ABOUT)
    return (dict(zip(names, row, strict=True)) for row in view.scan(names[1:]))


def _about(row: dict[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in _ABOUT}


def _same(row: dict[str, Any], other: dict[str, Any]) -> bool:
    """Tell whether what was embedded is still what it was; words that stand in files are read with them."""
    if row["modality"] == "text":
        return all(row[name] == other[name] for name in _ABOUT if name != "fingerprint")  # an older row has none
    kept = all(row[name] == other[name] for name in _OF_PICTURES)
    return kept and given_of(row) == given_of(other)


def _sources(rows: Iterable[dict[str, Any]], home: Path) -> Iterator[Source]:
    """Say where to take items from: a text from the table itself, a picture from its file, or from a part of one."""
    files: dict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
    for row in rows:
        if row["modality"] == "text":
            yield to_item(row) if row["size"] is None else _member(row, home)
        elif row["part"] is not None:
            files[row["uri"]][row["part"]] = row
        elif is_remote(row["uri"]):
            yield File(row["uri"], row["uri"], row["size"], row["mtime_ns"])
        else:
            yield describe(str(home / row["uri"]), home)
    for parts in files.values():
        yield from _members(parts, home)


def _members(rows: dict[str, dict[str, Any]], home: Path) -> Iterator[Member]:
    """Go through a file, and give its rows of these parts; last those that are not in it any more."""
    uri = next(iter(rows.values()))["uri"]
    left, problem = dict(rows), ""
    try:
        for part, picture in pictures_in(path_of(uri, home), rows):
            yield replace(_member(left.pop(part), home), picture=picture)
    except ItemError as error:
        problem = str(error)
    for part, row in left.items():
        yield replace(_member(row, home), problem=problem or f"there is no part {part!r} in it any more")


def _member(row: dict[str, Any], home: Path) -> Member:
    file = File(path_of(row["uri"], home), row["uri"], row["size"], row["mtime_ns"] or 0)
    return Member(file, to_item(row), last=row["mtime_ns"] is not None)
