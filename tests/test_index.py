from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import mmrag
from mmrag.errors import (
    IndexExistsError,
    IndexFormatError,
    IndexLockedError,
    IndexModelError,
    IndexNotFoundError,
    InputError,
    Interrupted,
    QueryError,
    StoreError,
)
from mmrag.ingest.recipe import IndexRecipe, SourceOptions, StoreOptions
from mmrag.models.registry import load_encoder
from mmrag.sources.uri import item_id
from mmrag.stores.lock import write_lock


def counts(changes):
    return (changes.added, changes.updated, changes.moved, changes.removed, changes.unchanged, len(changes.failed))


def first(index, query):
    return index.search(query, k=1)[0].item.uri


@pytest.fixture
def index(colours):
    index = mmrag.create(".", model="toy:1")
    index.add("images")
    return index


def test_words_find_pictures(colours):
    index = mmrag.create(".", model="toy:1")
    assert counts(index.add("./images")) == (6, 0, 0, 0, 0, 0)
    for colour in ("red", "green", "blue", "yellow"):
        hits = index.search(f"something {colour}", k=3)
        assert hits[0].item.uri == f"images/{colour}.png"
        assert hits[0].score == pytest.approx(1, abs=1e-5)
        assert [hit.rank for hit in hits] == [1, 2, 3]
        assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)


def test_several_queries_are_answered_in_order(index):
    words, picture = index.search(["red", Path("images/blue.png")], k=1)
    assert [words[0].item.uri, picture[0].item.uri] == ["images/red.png", "images/blue.png"]
    with pytest.raises(QueryError, match="no query"):
        index.search([])


def test_every_kind_of_picture_query(index):
    path = Path("images/yellow.png")
    for query in (path, path.read_bytes(), Image.open(path), mmrag.Query(image=str(path))):
        assert first(index, query) == "images/yellow.png"
    with pytest.raises(QueryError, match=r"query picture 'none\.png' cannot be used: cannot be read"):
        index.search(Path("none.png"))
    with pytest.raises(QueryError, match="not a picture"):
        index.search(b"hello")
    with pytest.raises(QueryError, match="not int"):
        index.search(3)


def test_what_is_unchanged_is_not_opened(index, colours):
    for path in colours.iterdir():
        about = path.stat()
        path.write_bytes(b"x" * about.st_size)  # unreadable now, but of the same size and time
        os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))
    assert counts(index.add("images")) == (0, 0, 0, 0, 6, 0)


def test_a_changed_picture_is_embedded_again_under_its_old_id(index, colours):
    before = index.search("red", k=1)[0].item.id
    Image.new("RGB", (8, 8), "blue").save(colours / "red.png")
    assert counts(index.add("images")) == (0, 1, 0, 0, 5, 0)
    assert index.get(before).uri == "images/red.png"
    assert {hit.item.uri for hit in index.search("blue", k=2)} == {"images/blue.png", "images/red.png"}


def test_a_moved_picture_keeps_its_vector(index, colours):
    (colours / "warm").mkdir()
    shutil.move(colours / "red.png", colours / "warm" / "rouge.png")
    before = index.encoder.embedded
    assert counts(index.add("images")) == (0, 0, 1, 0, 5, 0)
    assert index.encoder.embedded == before
    assert first(index, "red") == "images/warm/rouge.png"
    assert len(index) == 6


def test_a_touched_picture_is_unchanged(index, colours):
    os.utime(colours / "red.png", (1, 1))
    before = index.encoder.embedded
    assert counts(index.add("images")) == (0, 0, 0, 0, 6, 0)
    assert index.encoder.embedded == before


def test_a_copy_keeps_the_vector_and_folds_into_one_hit(index, colours):
    shutil.copy(colours / "red.png", colours / "rouge.png")
    before = index.encoder.embedded
    assert counts(index.add("images")) == (1, 0, 0, 0, 6, 0)
    assert index.encoder.embedded == before
    hit, other = index.search("red", k=2)
    assert (hit.item.uri, hit.duplicates) == ("images/red.png", ("images/rouge.png",))
    assert other.duplicates == ()


def test_a_vanished_picture_leaves(index, colours):
    (colours / "red.png").unlink()
    assert counts(index.add("images")) == (0, 0, 0, 1, 5, 0)
    assert first(index, "red") != "images/red.png"


def test_only_the_folder_that_is_looked_at_loses_pictures(index, colours):
    (colours / "sub").mkdir()
    Image.new("RGB", (8, 8), "orange").save(colours / "sub" / "orange.png")
    (colours / "red.png").unlink()
    assert counts(index.add("images/sub")) == (1, 0, 0, 0, 0, 0)
    assert len(index) == 7
    assert counts(index.update()) == (0, 0, 0, 1, 6, 0)


def test_a_folder_that_is_gone_altogether_changes_nothing(index, colours):
    shutil.rmtree(colours)
    with pytest.raises(InputError, match="nothing was changed"):
        index.add("images")
    assert len(index) == 6


def test_failures_are_kept_until_the_file_changes(index, colours):
    (colours / "bad.jpg").write_bytes(b"hello")
    changes = index.add("images")
    assert counts(changes) == (0, 0, 0, 0, 6, 1)
    assert changes.failed[0].uri == "images/bad.jpg"
    again = index.add("images")
    assert (counts(again), again.still_failing) == ((0, 0, 0, 0, 6, 0), 1)
    assert [failure.uri for failure in mmrag.open(".").failures()] == ["images/bad.jpg"]
    Image.new("RGB", (8, 8), "purple").save(colours / "bad.png")
    shutil.move(colours / "bad.png", colours / "bad.jpg")
    assert counts(index.add("images")) == (1, 0, 0, 0, 6, 0)
    assert index.failures() == []
    assert len(index) == 7


def test_failures_that_are_not_of_the_content_are_tried_again(index, colours):
    Image.new("RGB", (99, 99), "red").save(colours / "large.png")
    small = IndexRecipe(source=SourceOptions(max_pixels=5000))
    assert "limit of 5,000" in index.add("images", recipe=small).failed[0].reason
    assert counts(index.add("images")) == (1, 0, 0, 0, 6, 0)


def test_nested_folders_keep_their_own_globs(index, colours):
    (colours / "sub").mkdir()
    for name in ("a.png", "b.png"):
        Image.new("RGB", (8, 8), (len(name), 100, ord(name[0]))).save(colours / "sub" / name)
    index.add("images", exclude=["sub"])
    index.add("images/sub", exclude=["b.png"])
    assert len(index) == 7
    before = index.encoder.embedded
    for _ in range(2):
        assert counts(index.update()) == (0, 0, 0, 0, 7, 0)
        assert counts(index.add("images", exclude=["sub"])) == (0, 0, 0, 0, 7, 0)
    assert index.encoder.embedded == before


def test_a_picture_moves_between_folders(index, colours):
    other = colours.parent / "other"
    other.mkdir()
    index.add("other")
    index.add(mmrag.Item(uri="images/red.png", id="mine"))
    shutil.move(colours / "red.png", other / "red.png")
    assert counts(index.update()) == (0, 0, 1, 0, 5, 0)
    assert index.get("mine").uri == "other/red.png"


def test_equal_files_move_together(index, colours):
    shutil.copy(colours / "red.png", colours / "rouge.png")
    index.add("images")
    shutil.move(colours, colours.parent / "moved")
    colours.mkdir()
    index.add("moved")
    assert counts(index.add("images"))[3] == 7
    assert len(index) == 7


def test_a_lost_folder_is_reported_and_its_pictures_are_kept(index, colours):
    (colours / "one.png").write_bytes((colours / "red.png").read_bytes())
    index.add("images/one.png")
    (colours / "one.png").unlink()
    shutil.move(colours, colours.parent / "unmounted")
    (failure,) = index.update().failed
    assert (failure.uri, "kept" in failure.reason) == ("images", True)
    assert len(index) == 6
    shutil.move(colours.parent / "unmounted", colours)
    assert counts(index.update()) == (0, 0, 0, 0, 6, 0)


def test_a_renamed_folder_keeps_its_vectors(index, colours):
    shutil.move(colours, colours.parent / "pictures")
    before = index.encoder.embedded
    assert counts(index.add("pictures")) == (0, 0, 6, 0, 0, 0)
    assert index.encoder.embedded == before
    assert len(index) == 6
    assert [folder.uri for folder in index.manifest.folders] == ["pictures"]
    assert counts(index.update()) == (0, 0, 0, 0, 6, 0)


def test_a_vanished_file_leaves_although_another_folder_was_looked_at_first(colours):
    (colours.parent / "other").mkdir()
    index = mmrag.create(".", model="toy:1")
    index.add("images/red.png")
    (colours / "red.png").unlink()
    index.add("other")
    assert counts(index.update()) == (0, 0, 0, 1, 0, 0)
    assert len(index) == 0


def test_a_removed_folder_is_forgotten(index, colours):
    assert index.remove("images") == 6
    shutil.rmtree(colours)
    with pytest.raises(InputError, match="no folder was ever added"):
        index.update()


def test_a_home_below_what_is_indexed(colours, monkeypatch):
    inner = colours / "inner"
    inner.mkdir()
    Image.new("RGB", (8, 8), "orange").save(inner / "orange.png")
    monkeypatch.chdir(inner)
    index = mmrag.create(".", model="toy:1")
    assert counts(index.add("..")) == (7, 0, 0, 0, 0, 0)
    (inner / "orange.png").unlink()
    assert counts(index.update()) == (0, 0, 0, 1, 6, 0)
    assert index.remove("..") == 6


def test_globs_and_paths_that_would_surprise_are_refused(index):
    with pytest.raises(InputError, match="list of globs"):
        index.add("images", exclude="*.png")
    for call in (index.add, index.remove):
        with pytest.raises(InputError, match="empty"):
            call("")
    for wrong in ({"k": 2.5}, {"k": "3"}, {"min_score": "a"}):
        with pytest.raises(InputError):
            index.search("red", **wrong)
    with pytest.raises(QueryError, match="not valid text"):
        index.search("\udcff")
    assert len(index) == 6


def test_excluded_pictures_leave_and_stay_out(index, colours):
    assert counts(index.add("images", exclude=["red*"])) == (0, 0, 0, 1, 5, 0)
    assert counts(index.update()) == (0, 0, 0, 0, 5, 0)
    assert counts(index.add("images")) == (1, 0, 0, 0, 5, 0)


def test_items_of_the_callers_own(index):
    red = Image.new("RGB", (5, 5), "red")
    item = mmrag.Item(uri="paint/red", id="r-1", image=red, text="paint", metadata={"price": 3, "tags": ["ü"]})
    assert counts(index.add([item, red])) == (2, 0, 0, 0, 0, 0)
    found = index.get("r-1")
    assert (found.uri, found.text, found.metadata) == (
        "paint/red",
        "paint",
        {"price": 3, "tags": ["ü"], "width": 5, "height": 5},
    )
    assert counts(index.add([replace(item, text="dye", metadata={}), red])) == (0, 1, 0, 0, 1, 0)
    assert counts(index.add([replace(item, text="dye", metadata={}), red])) == (0, 0, 0, 0, 2, 0)
    assert (index.get("r-1").text, index.get("r-1").metadata) == ("dye", {"width": 5, "height": 5})
    assert len(index) == 8
    with pytest.raises(InputError, match="cannot be written as JSON"):
        index.add(mmrag.Item(uri="x", image=red, metadata={"a": {1, 2}}))
    with pytest.raises(InputError, match="not int"):
        index.add([3])


def test_a_new_id_for_the_same_uri_replaces_the_old_item(index):
    picture = Image.new("RGB", (5, 5), "red")
    index.add(mmrag.Item(uri="u", id="old", image=picture))
    index.add(mmrag.Item(uri="u", id="new", image=picture))
    assert index.get("new").uri == "u"
    with pytest.raises(InputError, match="'old'"):
        index.get("old")


def test_a_file_keeps_what_its_item_said_when_it_changes_or_moves(index, colours):
    index.add(mmrag.Item(uri="images/red.png", id="mine", text="a wall", metadata={"a": 1}))
    assert len(index) == 6
    Image.new("RGB", (9, 9), "red").save(colours / "red.png")
    assert counts(index.add("images")) == (0, 1, 0, 0, 5, 0)
    shutil.move(colours / "red.png", colours / "wall.png")
    assert counts(index.add("images")) == (0, 0, 1, 0, 5, 0)
    item = index.get("mine")
    assert (item.uri, item.text, item.metadata) == (
        "images/wall.png",
        "a wall",
        {"a": 1, "width": 9, "height": 9, "format": "PNG"},
    )
    assert len(index) == 6


def test_texts_can_be_found_too(index):
    index.add(mmrag.Item(uri="note", modality="text", text="my yellow bicycle"))
    hits = index.search("yellow", k=2)
    assert {hit.item.uri for hit in hits} == {"note", "images/yellow.png"}
    assert index.info()["texts"] == 1


def test_memory_items_survive_looking_at_folders(index):
    index.add(Image.new("RGB", (5, 5), "red"))
    index.update()
    index.add(".")
    assert len(index) == 7


def test_two_items_of_one_name_in_one_call_are_a_mistake(index):
    red, blue = (Image.new("RGB", (5, 5), colour) for colour in ("red", "blue"))
    for names in ({"id": "x"}, {"uri": "a"}):
        items = [mmrag.Item(**{"uri": f"{n}", **names}, image=image) for n, image in enumerate((red, blue))]
        with pytest.raises(InputError, match="nothing was changed"):
            index.add(items)
    assert len(index) == 6
    assert counts(index.add([red, red.copy()])) == (1, 0, 0, 0, 0, 0)


def test_a_known_id_at_a_new_uri_is_an_update(index):
    red, blue = (Image.new("RGB", (5, 5), colour) for colour in ("red", "blue"))
    index.add(mmrag.Item(uri="a", id="x", image=red))
    assert counts(index.add(mmrag.Item(uri="b", id="x", image=blue))) == (0, 1, 0, 0, 0, 0)
    assert index.get("x").uri == "b"
    assert len(index) == 7


def test_one_uri_names_one_item_whoever_brings_it(index):
    index.add(mmrag.Item(uri="./images/../images/red.png", id="mine"))
    assert len(index) == 6
    index.add(mmrag.Item(uri="images/red.png", image=Image.new("RGB", (5, 5), "red")))
    assert len(index) == 6
    assert counts(index.update())[3:5] == (0, 5)
    assert len(index) == 6


def test_a_damaged_picture_in_memory_is_a_failure(index, colours):
    (colours / "half.png").write_bytes((colours / "red.png").read_bytes()[:60])
    with Image.open(colours / "half.png") as lazy:
        changes = index.add([lazy, Image.new("RGB", (5, 5), "red")])
    assert (changes.added, len(changes.failed)) == (1, 1)


def test_remove_by_folder_file_id_and_uri(index, colours):
    (colours / "sub").mkdir()
    for name in ("a", "b"):
        Image.new("RGB", (8, 8), "orange").save(colours / "sub" / f"{name}.png")
    index.add("images")
    assert index.remove("./images/sub") == 2
    assert index.remove(["images/red.png", item_id("images/blue.png")]) == 2
    assert len(index) == 4
    with pytest.raises(InputError, match="nothing was removed"):
        index.remove(["images/green.png", "images/none.png"])
    assert len(index) == 4
    assert (colours / "red.png").exists()


def test_create_open_and_find(colours, monkeypatch):
    with pytest.raises(IndexNotFoundError, match="mmrag index FOLDER"):
        mmrag.open(".")
    mmrag.create(".", model="toy:1")
    with pytest.raises(IndexExistsError, match="already"):
        mmrag.create(".", model="toy:1")
    monkeypatch.chdir(colours)
    assert mmrag.open(".").home == colours.parent
    assert mmrag.open("../.mmrag").home == colours.parent


def test_an_empty_index_finds_nothing(colours):
    index = mmrag.create("elsewhere/new", model="toy:1")
    assert index.search("red") == []
    assert len(index) == 0
    assert "0 items" in repr(index)


def test_another_model_is_refused(index):
    with pytest.raises(IndexModelError, match=r"revision '1' against '2'.*--index"):
        mmrag.open(".", model="toy:2")
    with pytest.raises(IndexModelError, match="builtin"):
        mmrag.open(".", model="builtin")
    assert mmrag.open(".", model="toy:1").home == index.home


def test_another_index_in_the_same_place_is_noticed(index, colours):
    assert index.encoder.card.revision == "1"
    shutil.rmtree(index.folder)
    mmrag.create(".", model="toy:2")
    index.add("images")
    assert index.encoder.card.revision == "2"
    assert mmrag.open(".", model="toy:2").search("red", k=1)[0].item.uri == "images/red.png"


def test_an_index_made_meanwhile_is_not_wiped(colours, monkeypatch):
    import mmrag.home

    def slow_load(name, *, precision, device):
        monkeypatch.undo()
        monkeypatch.chdir(colours.parent)
        mmrag.create(".", model="toy:1").add("images")
        return load_encoder(name, precision=precision, device=device)

    monkeypatch.setattr(mmrag.home, "load_encoder", slow_load)
    with pytest.raises(IndexExistsError, match="another process"):
        mmrag.create(".", model="toy:1")
    assert len(mmrag.open(".")) == 6


def test_an_index_moves_with_its_folder(index, colours, tmp_path, monkeypatch):
    moved = tmp_path / "moved"
    shutil.move(colours.parent, moved)
    monkeypatch.chdir(moved)
    index = mmrag.open(".")
    assert first(index, "red") == "images/red.png"
    assert counts(index.update()) == (0, 0, 0, 0, 6, 0)


def test_a_newer_or_damaged_manifest_is_refused(index):
    path = index.folder / "manifest.json"
    good = path.read_text()
    path.write_text(good.replace('"format": 5', '"format": 99'))
    with pytest.raises(IndexFormatError, match="format 99"):
        mmrag.open(".")
    path.write_text(good.replace('"view"', '"veiw"'))
    with pytest.raises(IndexFormatError, match="did you mean 'view'"):
        mmrag.open(".")
    path.write_text("{")
    with pytest.raises(IndexFormatError, match="damaged"):
        mmrag.open(".")


def test_the_view_can_be_deleted(index):
    shutil.rmtree(index.folder / "views")
    assert first(mmrag.open("."), "red") == "images/red.png"
    shutil.rmtree(index.folder / "views")
    assert counts(index.update()) == (0, 0, 0, 0, 6, 0)
    assert first(index, "red") == "images/red.png"


def test_a_second_writer_is_told_who_holds_the_lock(index):
    other = mmrag.open(".")
    with write_lock(index.folder), pytest.raises(IndexLockedError, match=rf"process {os.getpid()} on"):
        other.add("images")
    assert counts(other.add("images")) == (0, 0, 0, 0, 6, 0)


def test_others_see_changes_after_refresh(index, colours):
    reader = mmrag.open(".")
    assert len(reader) == 6
    Image.new("RGB", (8, 8), "orange").save(colours / "orange.png")
    index.add("images")
    assert len(reader) == 6
    reader.refresh()
    assert len(reader) == 7


def test_ctrl_c_keeps_what_was_done(colours):
    index = mmrag.create(".", model="toy:1")

    def stop_after_two(done, total):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted, match="2 of 6 are kept"):
        index.add("images", progress=stop_after_two)
    assert len(mmrag.open(".")) == 2
    assert counts(index.add("images")) == (4, 0, 0, 0, 2, 0)


def test_commits_on_the_way(colours):
    index = mmrag.create(".", model="toy:1")
    seen = []
    recipe = IndexRecipe(store=StoreOptions(commit_every=2))
    index.add("images", recipe=recipe, progress=lambda done, total: seen.append((done, len(mmrag.open(".")))))
    assert seen == [(1, 0), (2, 0), (3, 2), (4, 2), (5, 4), (6, 4)]


def test_many_commits_are_compacted_and_nothing_is_lost(colours):
    for n in range(40):
        Image.new("RGB", (4, 4), (n, n, 255)).save(colours / f"{n:02}.png")
    index = mmrag.create(".", model="toy:1")
    index.add("images", recipe=IndexRecipe(store=StoreOptions(commit_every=4)))
    assert len(index) == 46
    assert len(mmrag.open(".")) == 46
    assert counts(index.update()) == (0, 0, 0, 0, 46, 0)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written(index, colours):
    Image.new("RGB", (8, 8), "orange").save(colours / "orange.png")
    parts = [index.folder, *index.folder.rglob("*")]
    for part in parts:
        part.chmod(0o500 if part.is_dir() else 0o400)
    try:
        with pytest.raises(StoreError, match=r"cannot write to|the table in .* failed"):
            index.add("images")
        assert first(mmrag.open("."), "red") == "images/red.png"
    finally:
        for part in parts:
            part.chmod(0o700)


def test_threads_share_an_index(index, colours):
    errors = []
    stop = threading.Event()

    def search():
        while not stop.is_set():
            hits = index.search("red", k=3)
            if hits[0].item.uri != "images/red.png" or len(hits) != 3:
                errors.append(hits)

    readers = [threading.Thread(target=search) for _ in range(4)]
    for reader in readers:
        reader.start()
    with ThreadPoolExecutor(4) as writers:
        for n in range(12):
            picture = Image.new("RGB", (4, 4), (0, n, 255 - n))
            writers.submit(index.add, mmrag.Item(uri=f"p{n}", image=picture)).add_done_callback(
                lambda done: done.exception() and errors.append(done.exception())
            )
    stop.set()
    for reader in readers:
        reader.join()
    assert errors == []
    assert len(index) == 18


def test_a_foreign_query_warns(index, caplog):
    with caplog.at_level(logging.WARNING, "mmrag"):
        index.search("ein Hund am Strand")
    assert "German" in caplog.text


def test_pipelines(index, tmp_path):
    path = tmp_path / "two.toml"
    path.write_text("[recall]\nk = 2\nmin_score = 0.5\n")
    assert len(index.search("red", pipeline=str(path))) == 2
    assert len(index.search("red", pipeline=str(path), k=1)) == 1
    with pytest.raises(InputError, match="k is a whole number of at least 1, not 0"):
        index.search("red", k=0)
    with pytest.raises(InputError, match="from -1 to 1"):
        index.search("red", min_score=7)


def test_vectors_equal_those_of_the_encoder(index, colours):
    names = ("red", "green", "blue")
    expected = index.encoder.encode_image([Image.open(colours / f"{name}.png") for name in names])
    found = {uri: index._view.vector(ref) for ref, uri in index._view.scan(("uri",))}
    assert np.allclose([found[f"images/{name}.png"] for name in names], expected, atol=1e-6)


def test_an_unchanged_folder_is_looked_at_without_anything_heavy(index):
    code = (
        "import sys\n"
        "from mmrag.models import registry\n"
        "from tests.toy import open_toy\n"
        "registry.register('toy', open_toy)\n"
        "sys.argv = ['mmrag', 'index', 'images']\n"
        "from mmrag.cli.main import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'lancedb', 'onnxruntime', 'torch', 'PIL', 'rich', 'tokenizers', 'pandas'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    root = Path(mmrag.__path__[0]).parent
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("0 added")
    assert " 6 unchanged" in done.stdout
