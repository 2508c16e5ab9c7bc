"""The folders and files that an index looks at again: which there are, and what becomes of those that are gone."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from mmrag.errors import InputError
from mmrag.sources.uri import is_below, is_remote, locate, path_of, to_uri
from mmrag.stores.manifest import IndexedFolder, Manifest
from mmrag.types import Changes, Failure

if TYPE_CHECKING:
    from mmrag.ingest.write import Ingest
    from mmrag.stores.view import View

_NAMED = ("stamp", "id", "uri")
_LOST = "the folder is gone; its pictures are kept. Bring it back, or take it out of the index: mmrag remove"


@dataclass(frozen=True, slots=True)
class Root:
    """A folder or file that is indexed, absolute, and the globs that are left out of it.

    Where roots lie inside each other, the innermost decides.
    """

    path: str
    exclude: tuple[str, ...] = ()


def is_there(root: Root) -> bool:
    """Tell whether there is something at a root; of a url, only its listing tells."""
    return is_remote(root.path) or os.path.lexists(root.path)


def roots_of(manifest: Manifest, home: Path) -> list[Root]:
    """Read the roots that a manifest names."""
    return [Root(path_of(one.uri, home), one.exclude) for one in manifest.folders]


def with_roots(manifest: Manifest, roots: Sequence[Root], home: Path) -> Manifest:
    """Give a manifest other roots."""
    return replace(manifest, folders=tuple(IndexedFolder(to_uri(root.path, home), root.exclude) for root in roots))


def joined(roots: Sequence[Root], new: Sequence[Root]) -> list[Root]:
    """Add roots; one that is there already gets the new one's globs."""
    paths = {root.path for root in new}
    return [*(root for root in roots if root.path not in paths), *dict.fromkeys(new)]


def inside(roots: Sequence[Root], outer: Sequence[Root]) -> list[Root]:
    """Choose the roots that are one of `outer`, or lie in it."""
    return [root for root in roots if any(is_below(root.path, one.path) for one in outer)]


def innermost(path: str, roots: Sequence[Root]) -> Root | None:
    """Choose the root that decides about a path."""
    around = [root for root in roots if is_below(path, root.path)]
    return max(around, key=lambda root: len(root.path), default=None)


def look_at(
    ingest: Ingest, roots: Sequence[Root], every: Sequence[Root], *, only: Sequence[str] | None = None
) -> tuple[Changes, list[Root]]:
    """Bring an index up to date with some of its roots.

    A file that is gone is forgotten. A folder that is gone is reported and kept, with its pictures, until they
    have all turned up elsewhere.

    Parameters
    ----------
    ingest : Ingest
        Of the index.
    roots : sequence of Root
        What is looked at.
    every : sequence of Root
        All that the index has.
    only : sequence of str or None
        Look at these paths alone.

    Returns
    -------
    changes : Changes
        What it came to.
    kept : list of Root
        What is to be looked at from now on.
    """
    home = ingest.home
    gone = [root for root in every if not is_there(root)]
    lost = [root for root in gone if not ingest.view.find("uri", [to_uri(root.path, home)])]
    present = [root for root in roots if root not in lost]
    changes = ingest.add_files(present, [root for root in every if root not in present], only=only)
    still_lost = [root for root in lost if ingest.view.find_below([to_uri(root.path, home)])]
    forgotten = [root for root in gone if root in present or (root in lost and root not in still_lost)]
    failed = [Failure(to_uri(root.path, home), f"{_LOST} {root.path}") for root in still_lost]
    return changes + Changes(failed=tuple(failed)), [root for root in every if root not in forgotten]


def find_targets(
    view: View, home: Path, roots: Sequence[Root], targets: Sequence[str | Path] | None, *, where: str | None = None
) -> tuple[list[int], list[Root]]:
    """Find what goes by the given ids, uris and paths, or everything, and passes a filter.

    Returns
    -------
    stamps : list of int
        Of the rows, ascending.
    kept : list of Root
        The roots that do not lie in a target; all of them, where there is a filter.

    Raises
    ------
    InputError
        If a target matches nothing.
    QueryError
        If the filter is wrong.
    """
    if where is None:
        return _named_by(view, home, roots, targets or ())
    from mmrag.search.where import stamps_passing  # imports pyarrow.compute

    stamps = stamps_passing(view, where)
    if targets is not None:
        stamps = sorted({*stamps} & {*_named_by(view, home, roots, targets)[0]})
    return stamps, list(roots)


def _named_by(
    view: View, home: Path, roots: Sequence[Root], targets: Sequence[str | Path]
) -> tuple[list[int], list[Root]]:
    rows = [(stamp, own, uri, path_of(uri, home)) for _, stamp, own, uri in view.scan(_NAMED)]
    kept = list(roots)
    stamps: set[int] = set()
    for target in targets:
        path = locate(target, home)
        found = {s for s, own, uri, at in rows if str(target) in (own, uri) or is_below(at, path)}
        if not found and not any(is_below(root.path, path) for root in kept):
            raise InputError(f"nothing in the index goes by {str(target)!r}; nothing was removed")
        kept = [root for root in kept if not is_below(root.path, path)]
        stamps |= found
    return sorted(stamps), kept
