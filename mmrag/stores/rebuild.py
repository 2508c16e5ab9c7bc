"""Another view for a corpus: built beside the one that serves, which is deleted when the manifest names the new one."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from mmrag.stores.files import disk_errors
from mmrag.stores.registry import open_view, view_class, view_folder
from mmrag.stores.segment import SUFFIXES
from mmrag.stores.table import Table
from mmrag.stores.view import View
from mmrag.stores.view_settings import ViewSettings


def build_beside(old: View, table: Table, store: Path, settings: ViewSettings) -> View:
    """Make another view of what a view shows. Its segments are the same files, so only what is new costs room.

    Parameters
    ----------
    old : View
        What serves; it stays as it is.
    table : Table
        What both are views of.
    store : path
        The folder that holds table and views.
    settings : ViewSettings
        Of the new one.

    Raises
    ------
    MissingExtraError
        If it needs a package that is not installed.
    RecipeError
        If its settings do not suit the vectors.
    StoreError
        If it cannot be written.
    """
    folder, vectors = view_folder(store, settings), old.shape[0] if len(old.shape) == 2 else 1
    view_class(settings.kind).check(settings, old.shape[-1])
    if folder != old.folder:
        with disk_errors(folder):
            shutil.rmtree(folder, ignore_errors=True)  # of a run that was stopped
            folder.mkdir(parents=True)
            for path in _shared_files(old):
                _link(path, folder / path.name)
            old.publish_in(folder)
    return open_view(store, settings, old.shape[-1], vectors=vectors).sync(table).built()


def drop_other_views(store: Path, settings: ViewSettings) -> None:
    """Delete the views that serve no more, each gone from its place in one step."""
    serving = view_folder(store, settings)
    with disk_errors(serving.parent):
        for path in serving.parent.iterdir():
            if path != serving and path.is_dir():
                aside = path.with_name(f"dropped-{uuid.uuid4().hex[:8]}")
                os.replace(path, aside)
                shutil.rmtree(aside, ignore_errors=True)


def _shared_files(view: View) -> Iterator[Path]:
    for segment in view.segments:
        names = [f"{segment.state.name}{suffix}" for suffix in SUFFIXES]
        names += [segment.state.deletions] if segment.state.deletions else []
        yield from (path for name in names if (path := view.folder / name).exists())


def _link(source: Path, target: Path) -> None:
    """Give a file a second name, or, where the disk knows no such thing, copy it."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
