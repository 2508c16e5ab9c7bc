"""What serves an index in this process: its manifest, its view and its full-text index, opened when first needed."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from mmrag.errors import IndexLockedError, StoreError
from mmrag.stores.files import disk_errors
from mmrag.stores.lock import write_lock
from mmrag.stores.manifest import FOLDER_NAME, Manifest
from mmrag.stores.registry import WORDS_FOLDER, open_view, view_folder

if TYPE_CHECKING:
    from mmrag.stores.table import Table
    from mmrag.stores.view import View
    from mmrag.stores.words import WordsView

logger = logging.getLogger("mmrag")

_WAIT_SECONDS = 10.0
_POLL_SECONDS = 0.05


class Serving:
    """What this process has open of an index; threads may share it.

    Attributes
    ----------
    home : path
        The folder that holds ``.mmrag``.
    folder : path
        Where the index keeps its files.
    manifest : Manifest
        What the index was when it was last looked at.
    """

    def __init__(self, home: Path) -> None:
        self.home = home
        self.folder = home / FOLDER_NAME
        self.manifest = Manifest.read(self.folder)
        self._writing = threading.RLock()
        self._view: View | None = None
        self._full_text: WordsView | None = None

    @property
    def store(self) -> Path:
        """Where table and views lie."""
        return self.folder / self.manifest.store

    @property
    def view(self) -> View:
        """The view that serves."""
        if self._view is None:
            self._view = self._open_view()
        return self._view

    def show(self, view: View | None) -> None:
        """Let a view serve from now on; without one, what the manifest names, when it is next needed."""
        self._view = view

    def place(self, manifest: Manifest) -> Path:
        """Where a manifest says that the view lies."""
        return view_folder(self.folder / manifest.store, manifest.view)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the index for writing, and go by what it is now.

        Raises
        ------
        IndexLockedError
            If another process holds it.
        """
        with self._writing, write_lock(self.folder):
            self.go_by(Manifest.read_to_write(self.folder))
            yield

    def refresh(self) -> None:
        """See what other processes have committed."""
        with self._writing:
            self.go_by(Manifest.read(self.folder))
            self._view = self._open_view()

    def go_by(self, manifest: Manifest) -> None:
        """Go by another manifest; a view that lies elsewhere than it says is let go."""
        if self.place(manifest) != self.place(self.manifest):
            self._view = None
        self.manifest = manifest

    def write(self, manifest: Manifest) -> None:
        """Store another manifest, if it differs, and go by it. Hold the write lock."""
        if manifest != self.manifest:
            self.manifest = manifest
            with disk_errors(self.folder):
                manifest.write(self.folder)

    def open_table(self) -> Table:
        """Open the table as it is now."""
        from mmrag.stores.table import Table  # imports lancedb: a search does without

        identity = self.manifest.identity
        return Table(self.store / "table", identity.dimension, vectors=identity.vectors)

    def published_view(self) -> View:
        """Open the view as it was last published."""
        identity = self.manifest.identity
        return open_view(self.store, self.manifest.view, identity.dimension, vectors=identity.vectors)

    def synced(self, view: View, table: Table) -> View:
        """Bring a view up to date with the table, without what a writer could not finish. Hold the write lock."""
        if view.published and view.table_version != table.version:
            table.withdraw_unreadable(since=view.table_version)
        return view.sync(table)

    def words_of(self, view: View) -> WordsView:
        """Open the full-text index, made or brought up to date if it is behind a view.

        One that is ahead, of another process, serves as it is: rows that the view does not know are not found.
        While another process is writing, one that is behind serves, and one that is not there may soon be.
        """
        from mmrag.stores.words import WordsView

        folder, deadline = view.folder.parent / WORDS_FOLDER, time.monotonic() + _WAIT_SECONDS
        if self._full_text is None or self._full_text.folder != folder:
            self._full_text = WordsView.open(folder)
        while self._full_text.table_version < view.table_version:
            try:
                with self._writing, write_lock(self.folder):
                    self._full_text = WordsView.open(folder).sync(view)  # the newest may lie elsewhere by now
            except IndexLockedError:
                self._full_text = WordsView.open(folder)
                if self._full_text.table_version:
                    break
                if time.monotonic() > deadline:
                    raise
                time.sleep(_POLL_SECONDS)
        return self._full_text

    def keep_words_up(self, view: View) -> None:
        """Bring the full-text index up to date, if there is one; a failure costs the next search that needs it time."""
        folder = view.folder.parent / WORDS_FOLDER
        if not folder.exists():
            return
        from mmrag.stores.words import WordsView

        words = WordsView.open(folder)
        try:
            self._full_text = words.sync(view)
        except StoreError as error:
            words.forget()
            logger.warning("%s; the next search that needs it will try again", error)

    def _open_view(self) -> View:
        """Open the view; one that is not there, or that a writer who died left behind, is made from the table.

        While another process is writing, one that is behind serves, and one that is not there soon will be. One that
        is gone, because the index was written anew by another model or into another view, has a successor that the
        manifest names.
        """
        deadline = time.monotonic() + _WAIT_SECONDS
        while True:
            view: View | None = None
            try:
                view = self.published_view()
                if view.table_version == self.open_table().version:
                    return view
                with self._writing, write_lock(self.folder):
                    if not self._has_moved():  # else a view that serves no more would be made again
                        return self.synced(self.published_view(), self.open_table())
            except StoreError as error:
                if view is not None and view.published:
                    return view
                if self._has_moved():
                    continue
                if not isinstance(error, IndexLockedError) or time.monotonic() > deadline:
                    raise
            time.sleep(_POLL_SECONDS)

    def _has_moved(self) -> bool:
        """Look at the manifest again, and tell whether the view is in another place now."""
        before = self.place(self.manifest)
        self.go_by(Manifest.read(self.folder))
        return self.place(self.manifest) != before
