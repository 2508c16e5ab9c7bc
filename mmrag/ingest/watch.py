"""Folders that change → the paths to look at again, or that all has to be looked at."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, TypeAlias

from mmrag.errors import IndexLockedError, WatchError
from mmrag.ingest.plan import Known, known_rows
from mmrag.ingest.roots import Root, innermost
from mmrag.sources.kinds import DOCUMENTS, suffix_of
from mmrag.sources.sidecar import pictures_beside
from mmrag.sources.uri import is_below, shown_name
from mmrag.sources.walk import has_suffix, is_wanted
from mmrag.stores.view import View
from mmrag.types import Changes, Failure

if TYPE_CHECKING:
    from watchfiles.main import FileChange

_log = logging.getLogger(__name__)

_QUIET_SECONDS = 0.5
"""So long nothing may have changed: most files are written in less, and a file and its new name come together."""

_PATIENT_SECONDS = 5.0
"""What changes on and on is looked at every so often."""

_MANY = 1000
"""So many paths at once: the system's queue of events, of 16,384 by default, may have run over. It drops what
does not fit, and watchfiles does not say so (samuelcolvin/watchfiles#348)."""

_TICK_MILLISECONDS = 250
_STEP_MILLISECONDS = 50
_LOCKED_SECONDS = 0.5
_DENIED = "Permission denied"

Told: TypeAlias = tuple[str, str, object]
"""A reason, a uri, and what tells its content from another."""


def changed_paths(roots: Callable[[], Sequence[Root]], stop: Event) -> Generator[list[str] | None]:
    """Tell what has to be looked at: everything at first, then what changes, as it does.

    Parameters
    ----------
    roots : callable
        Gives the folders and files to watch; asked again whenever something has happened.
    stop : Event
        Ends it.

    Yields
    ------
    list of str or None
        Paths that have changed, are new or are gone, none in another. None: look at everything. That is
        so at the start, when a root comes, goes or is replaced, when events may have been lost, and
        when something changes behind a link to a folder, where only a whole walk knows what its name is.

    Raises
    ------
    WatchError
        If the system cannot watch that much.
    """
    while not stop.is_set():
        places = {root.path: _place(root.path) for root in roots()}
        with closing(_events([path for path, place in places.items() if place], stop)) as events:
            if next(events, None) is None:  # from here on, nothing that happens is missed
                stop.wait(_QUIET_SECONDS)
                continue
            yield None
            yield from _until_unsure(events, roots, places)


def untold(failures: Sequence[Failure], told: set[Told], view: View) -> tuple[tuple[Failure, ...], set[Told]]:
    """Choose the failures that were not `told` of the same content; give what is told by now of all."""
    known = known_rows(view, view.find_parts([one.uri for one in failures], [one.part for one in failures]))
    rows = {(row.uri, row.part): row for row in known}
    names = [shown_name(failure.uri, failure.part) for failure in failures]
    contents = [_content(rows.get((failure.uri, failure.part))) for failure in failures]
    states = [(one.reason, name, content) for one, name, content in zip(failures, names, contents, strict=True)]
    fresh = [failure for failure, state in zip(failures, states, strict=True) if state not in told]
    return tuple(fresh), set(states)


def when_free(look: Callable[[], Changes], stop: Event) -> Changes:
    """Change an index as soon as no other process does; nothing if it is stopped before."""
    waiting = False
    while not stop.is_set():
        try:
            return look()
        except IndexLockedError as error:
            if not waiting:
                _log.warning("%s. Changes wait until then", error)
            waiting = True
        stop.wait(_LOCKED_SECONDS)
    return Changes()


def _until_unsure(
    events: Iterable[set[FileChange]], roots: Callable[[], Sequence[Root]], places: Mapping[str, object]
) -> Generator[list[str]]:
    """Gather what has changed until it is quiet. Ends when everything has to be looked at."""
    pending: set[str] = set()
    unsure = False
    first = last = 0.0
    for changes in events:
        now, current = time.monotonic(), roots()
        if any(_place(path) != place for path, place in places.items()):
            return
        named = ((change.name, one) for change, path in changes for one in (path, *pictures_beside(path)))
        fresh = {path for change, path in named if _matters(change, path, current)}
        first, last = first if pending else now, now if fresh else last
        pending |= fresh
        unsure = unsure or len(pending) > _MANY or any(_is_behind_link(path, current) for path in fresh)
        if pending and (now - last >= _QUIET_SECONDS or now - first >= _PATIENT_SECONDS):
            if unsure:
                return
            yield _outermost(pending)
            pending.clear()


def _events(paths: Sequence[str], stop: Event) -> Generator[set[FileChange]]:
    """Watch some paths. Gives nothing for a while, and ends when it is stopped or can no longer be relied on."""
    from watchfiles import watch

    try:
        yield from watch(
            *_outermost(paths),
            watch_filter=None,
            step=_STEP_MILLISECONDS,
            rust_timeout=_TICK_MILLISECONDS,
            yield_on_timeout=True,
            stop_event=stop,
        )
    except FileNotFoundError:  # it has just gone
        return
    except (OSError, RuntimeError) as error:
        if (
            isinstance(error, RuntimeError)
            and not str(error).startswith("Error creating")
            and _DENIED not in str(error)
        ):
            _log.info("everything is looked at again: %s", error)  # a name that is not UTF-8, for one
            return
        raise WatchError(f"cannot watch {', '.join(paths)}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    reason = str(error).partition(" (Error {")[0]
    if _DENIED in reason:
        return f"{reason}; folders are watched where this user may list all that is in them"
    return (
        f"{reason}; raise the system's limits (sysctl fs.inotify.max_user_watches and max_user_instances), or have the "
        "files compared instead: WATCHFILES_FORCE_POLLING=1"
    )


def _matters(change: str, path: str, roots: Sequence[Root]) -> bool:
    """Tell whether a walk would come to a path, or would have come to one that is gone."""
    root = innermost(path, roots)
    if root is None or not is_wanted(path, root.path, root.exclude):
        return False
    may_be_one = has_suffix(path) or suffix_of(path) in (*DOCUMENTS, ".json")
    return path == root.path or change == "deleted" or may_be_one or not os.path.isfile(path)


def _is_behind_link(path: str, roots: Sequence[Root]) -> bool:
    root = innermost(path, roots)
    if root is None or path == root.path:
        return False
    if Path(path).is_symlink() and os.path.isdir(path):
        return True
    folder = os.path.dirname(path)
    return os.path.realpath(folder) != os.path.realpath(root.path) + folder.removeprefix(root.path.rstrip("/"))


def _outermost(paths: Iterable[str]) -> list[str]:
    """Leave out what lies in another."""
    kept: list[str] = []
    for path in sorted(paths, key=lambda path: path.split("/")):
        if not kept or not is_below(path, kept[-1]):
            kept.append(path)
    return kept


def _place(path: str) -> tuple[int, int] | None:
    """Tell one folder or file from another of the same name; None where there is none."""
    try:
        about = os.stat(path)
    except OSError:
        return None
    return about.st_dev, about.st_ino


def _content(row: Known | None) -> object:
    return row and (row.content_hash or (row.size, row.mtime_ns))
