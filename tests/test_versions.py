"""Going back to earlier versions, opening while others write, and moving house."""

from __future__ import annotations

import json
import shutil
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import mmrag
from mmrag.errors import IndexFormatError, IndexLockedError, InputError, Interrupted, RecipeError
from mmrag.ingest.recipe import IndexRecipe, StoreOptions
from mmrag.stores.lock import write_lock
from mmrag.stores.table import Table
from mmrag.stores.view import FORMAT


@pytest.fixture
def index(colours):
    index = mmrag.create(".", model="toy:1")
    index.add("images")
    return index


def picture(colours, name, colour="orange"):
    Image.new("RGB", (8, 8), colour).save(colours / f"{name}.png")


def contents(index):
    names = ("id", "uri", "content_hash", "size", "mtime_ns", "text", "metadata", "failure")
    rows = index._view.scan(names)
    return {row[1]: (*row[2:], None if row[-1] else index._view.vector(row[0]).tobytes()) for row in rows}


def described(index):
    return [(one.items, one.failed) for one in index.versions()]


def test_every_run_that_changes_something_leaves_one_version(index, colours):
    assert described(index) == [(6, 0)]
    index.add("images")
    (colours / "bad.png").write_text("hello")
    index.update()
    index.remove("images/red.png")
    index.add(mmrag.Item(uri="note", modality="text", text="red"), recipe=IndexRecipe(store=StoreOptions(1)))
    assert described(index) == [(6, 0), (6, 1), (5, 1), (6, 1)]
    numbers = [one.number for one in index.versions()]
    assert numbers == sorted(set(numbers))
    assert datetime.now(UTC) - index.versions()[-1].created < timedelta(minutes=1)


def test_commits_on_the_way_are_no_versions(colours):
    index = mmrag.create(".", model="toy:1")
    index.add("images", recipe=IndexRecipe(store=StoreOptions(commit_every=2)))
    assert described(index) == [(6, 0)]


def test_what_an_interrupted_run_has_kept_is_a_version(colours):
    index = mmrag.create(".", model="toy:1")

    def stop(done, total):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted):
        index.add("images", progress=stop)
    assert described(index) == [(2, 0)]


def test_restoring_brings_back_exactly_what_was_there(index, colours):
    (colours / "bad.png").write_text("hello")
    index.add("images")
    index.add(mmrag.Item(uri="note", id="n", modality="text", text="red", metadata={"a": 1}))
    before, version = contents(index), index.versions()[-1].number
    (colours / "red.png").unlink()
    picture(colours, "blue", "white")
    shutil.move(colours / "green.png", colours / "grass.png")
    index.update()
    index.remove("n")
    assert contents(index) != before
    index.restore(version)
    assert contents(index) == before == contents(mmrag.open("."))
    assert index.get("n").metadata == {"a": 1}
    assert index.check().mended == index.check().wrong == ()
    changes = index.update()
    assert (changes.added, changes.updated, changes.moved, changes.removed, changes.unchanged) == (0, 1, 1, 1, 3)


def test_going_back_can_be_undone(index):
    newest = index.versions()[-1].number
    index.remove("images")
    removed = index.versions()[-1].number
    index.restore(newest)
    assert len(index) == 6
    index.restore(removed)
    assert len(index) == 0
    index.restore(index.versions()[-1].number)  # the newest: nothing to do, and no harm
    assert len(index) == 0
    assert [items for items, _ in described(index)][:4] == [6, 0, 6, 0]


def test_what_is_added_after_going_back_never_looks_like_what_was_there(index, colours):
    """Numbers of rows that were used before would let the view keep rows that are gone."""
    version = index.versions()[-1].number
    for n, colour in enumerate(("red", "blue", "white")):
        picture(colours, "new", colour)
        index.add("images")
        index.restore(version)
        index.add(mmrag.Item(uri=f"note {n}", modality="text", text=colour))
        assert index.check() == mmrag.Checkup(items=7)
        version = index.versions()[-2].number
        index.restore(version)


def test_an_unknown_version_is_refused_with_those_that_there_are(index):
    index.remove("images/red.png")
    numbers = [one.number for one in index.versions()]
    with pytest.raises(InputError, match=f"no version 77 to go back to; there are: {numbers[0]}, {numbers[1]}$"):
        index.restore(77)
    with pytest.raises(InputError, match="no version 1 "):  # it is in the table, and nobody kept it
        index.restore(1)
    assert len(index) == 5
    with pytest.raises(InputError, match="there are: none yet"):
        mmrag.create("new", model="toy:1").restore(1)


def test_as_many_as_the_recipe_says_are_kept(colours):
    with pytest.raises(RecipeError, match="at least 1"):
        IndexRecipe(store=StoreOptions(keep_versions=0))
    index = mmrag.create(".", model="toy:1", recipe=IndexRecipe(store=StoreOptions(keep_versions=3)))
    for n in range(5):
        index.add(mmrag.Item(uri=f"note {n}", modality="text", text="red"))
    assert described(index) == [(3, 0), (4, 0), (5, 0)]
    assert mmrag.open(".").info()["keep_versions"] == 3


def test_old_versions_are_pruned_in_the_end(index, colours, monkeypatch):
    monkeypatch.setattr("mmrag.stores.table._RETENTION", timedelta(0))
    monkeypatch.setattr("mmrag.stores.table._MARGIN", timedelta(milliseconds=250))
    monkeypatch.setattr("mmrag.stores.table._MANY_VERSIONS", 4)
    for n in range(20):
        picture(colours, "red", (n, 0, 0))
        index.add("images")
        time.sleep(0.03)
    stored = [one["version"] for one in Table(index.folder / "table", 4)._table.list_versions()]
    assert min(stored) > 4
    assert [items for items, _ in described(index)] == [6] * 10
    for version in index.versions():
        index.restore(version.number)
        assert index.check().mended == index.check().wrong == ()


@pytest.mark.parametrize("opens_first", [True, False])
def test_killed_between_restoring_and_showing_it(index, opens_first):
    version = index.versions()[-1].number
    index.remove("images/red.png")
    Table(index.folder / "table", 4).restore(version)  # the process ends here
    if opens_first:
        assert len(mmrag.open(".")) == 6
    else:
        assert index.update().unchanged == 6
    assert mmrag.open(".").search("red", k=1)[0].item.uri == "images/red.png"
    assert index.check().mended == ()


def test_a_view_that_is_behind_serves_while_somebody_writes(index):
    version = index.versions()[-1].number
    index.remove("images/red.png")
    with write_lock(index.folder):
        Table(index.folder / "table", 4).restore(version)
        assert len(mmrag.open(".")) == 5
    assert len(mmrag.open(".")) == 6


def test_a_reader_waits_for_the_view_of_a_writer(index):
    view = index._view
    shutil.rmtree(index.folder / "views")

    def write():
        time.sleep(0.3)
        type(view)(view.folder, view.shape, table_version=0, segments=()).sync(Table(index.folder / "table", 4))

    writer = threading.Thread(target=write)
    with write_lock(index.folder):
        writer.start()
        assert len(mmrag.open(".")) == 6
        writer.join()


def test_a_reader_does_not_wait_for_ever(index, monkeypatch):
    monkeypatch.setattr("mmrag.stores.serving._WAIT_SECONDS", 0.2)
    shutil.rmtree(index.folder / "views")
    with write_lock(index.folder), pytest.raises(IndexLockedError, match="is writing"):
        mmrag.open(".").search("red")


@pytest.mark.parametrize("number", [0, 1, 99])
def test_a_view_of_another_format_is_made_again(index, number):
    path = index.folder / "views" / "exact" / "view.json"
    for come_by in (lambda: mmrag.open(".").search("red"), index.update):
        path.write_text(json.dumps({"format": number, "what": "nobody knows"}))
        come_by()
        assert json.loads(path.read_text())["format"] == FORMAT
        assert index.check().mended == ()


def test_a_damaged_view_does_not_keep_an_index_from_being_opened(index):
    (index.folder / "views" / "exact" / "view.json").write_text("{")
    broken = mmrag.open(".")
    for use in (lambda: broken.search("red"), lambda: len(broken), broken.info, broken.update):
        with pytest.raises(IndexFormatError, match="mmrag check mends it"):
            use()
    broken.check()
    assert len(broken) == 6


@pytest.mark.parametrize("way", [shutil.move, shutil.copytree])
def test_moving_house(index, colours, tmp_path, monkeypatch, way):
    index.remove("images/red.png")
    old, new = colours.parent, tmp_path / "elsewhere" / "new"
    before = contents(index)
    new.parent.mkdir()
    way(old, new)
    monkeypatch.chdir(new)
    for path in Path(".mmrag").rglob("*"):
        if path.is_file():
            assert str(old).encode() not in path.read_bytes(), path
    moved = mmrag.open(".")
    assert contents(moved) == before
    assert moved.search("blue", k=1)[0].item.uri == "images/blue.png"
    assert (moved.update().added, moved.update().unchanged) == (1, 6)
    moved.restore(moved.versions()[0].number)
    assert np.allclose([len(moved), moved.search("red", k=1)[0].score], [6, 1])
    assert moved.check() == mmrag.Checkup(items=6)
