"""Another model for an index: what it comes to, what it refuses, and that the old one serves until the new one does."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from PIL import Image

import mmrag
from mmrag.errors import IndexLockedError, InputError, Interrupted, ModelError, StoreError
from mmrag.ingest import reindex as reindexing
from mmrag.models import loaded as module
from mmrag.stores.manifest import Manifest
from tests.fresh import assert_like_new
from tests.ingest.test_killed import picture, started
from tests.test_company import MAIN

READER = """
import os, time
import mmrag
from mmrag.models import registry
from tests.toy import open_toy
registry.register("toy", open_toy)
models = set()
while not os.path.exists("enough"):
    index = mmrag.open(".")
    hits = index.search("red", k=1000)
    found = sum(1 + len(hit.duplicates) for hit in hits)
    assert found == len(index) == 150, (found, len(index))
    assert hits[0].item.uri == "images/red.png", hits[0]
    models.add(index.manifest.model)
    time.sleep(0.01)
print(sorted(models))
"""

WRITER = """
import sys, time
import mmrag
from mmrag.ingest.recipe import IndexRecipe, StoreOptions
from mmrag.models import registry
from tests.toy import open_toy
registry.register("toy", open_toy)
import lancedb
index = mmrag.open(".")
print("ready", flush=True)
recipe = IndexRecipe(store=StoreOptions(commit_every=3))
index.reindex(sys.argv[1], recipe=recipe, progress=lambda *_: time.sleep(0.004))
print("done", flush=True)
"""


@pytest.fixture
def index(colours):
    index = mmrag.create(".", model="toy:1")
    index.add("images")
    return index


def best(index, words="red"):
    return index.search(words, k=1)[0].item.uri


def stores(index):
    return sorted(path.name for path in index.folder.iterdir() if path.is_dir() and path.name != "features")


def test_everything_is_embedded_again(index):
    changes = index.reindex("toy:2")
    assert (changes.added, changes.updated, changes.unchanged, changes.failed) == (0, 0, 6, ())
    for same in (index, mmrag.open(".")):
        assert (same.manifest.model, same.encoder.identity.revision) == ("toy:2", "2")
        assert best(same) == "images/red.png"
    assert len(stores(index)) == 1
    assert_like_new(index.home, "images", model="toy:2")


def test_and_back_again_and_again(index, colours):
    for model in ("toy:2", "toy:1", "toy:halves", "toy:1"):
        index.reindex(model)
        picture(colours / f"{model[4:]}-{len(index)}.png", len(index))
        assert index.update().added == 1
        assert best(index) == "images/red.png"
        assert len(stores(index)) == 1
    assert_like_new(index.home, "images", model="toy:1")


def test_by_the_model_that_wrote_it_nothing_is_embedded(index):
    encoder = index.encoder
    before = encoder.embedded
    assert index.reindex("toy:1").unchanged == 6
    assert (encoder.embedded, stores(index)) == (before, ["table", "views"])


def test_ids_words_and_metadata_stay(index):
    index.add(mmrag.Item(uri="images/red.png", id="mine", text="a red one", metadata={"price": 3}))
    index.add(mmrag.Item(uri="note", modality="text", text="blue in words", metadata={"page": 7}))
    index.reindex("toy:2")
    item = index.get("mine")
    facts = {"price": 3, "width": 32, "height": 24, "format": "PNG"}
    assert (item.uri, item.text, item.metadata) == ("images/red.png", "a red one", facts)
    found = {hit.item.uri: hit for hit in index.search("blue", k=7)}
    assert found["note"].item.metadata == {"page": 7}
    assert found["note"].score == pytest.approx(1, abs=1e-6)


def test_what_cannot_be_read_any_more_is_kept_as_a_failure(index, colours):
    (colours / "broken.png").write_bytes(b"no picture")
    index.update()
    (colours / "red.png").unlink()
    Image.new("RGB", (8, 8), (0, 255, 255)).save(colours / "blue.png")
    changes = index.reindex("toy:2")
    assert [failure.uri for failure in changes.failed] == ["images/red.png"]
    assert (changes.updated, changes.unchanged, changes.still_failing) == (1, 4, 1)
    assert {failure.uri for failure in index.failures()} == {"images/red.png", "images/broken.png"}
    assert len(index) == 5
    Image.new("RGB", (8, 8), (255, 0, 0)).save(colours / "red.png")
    assert index.update().added == 1
    assert_like_failures = {failure.uri for failure in index.failures()}
    assert assert_like_failures == {"images/broken.png"}


def test_pictures_of_a_program_are_counted_and_nothing_is_changed(index):
    for n in range(3):
        index.add(mmrag.Item(uri=f"shop/{n}", image=Image.new("RGB", (8, 8), (9 * n, 80, 90))))
    with pytest.raises(
        InputError, match=r"^3 pictures were brought by a program, such as 'shop/\d', and an index keeps"
    ):
        index.reindex("toy:2")
    assert (index.manifest.model, stores(index), len(index)) == ("toy:1", ["table", "views"], 9)
    index.remove([f"shop/{n}" for n in range(3)])
    assert index.reindex("toy:2").unchanged == 6


def test_a_folder_that_is_gone_stops_it_before_it_begins(index, colours):
    colours.rename(colours.parent / "elsewhere")
    for _ in range(2):
        with pytest.raises(InputError, match="images is gone or empty, and its pictures cannot be embedded again"):
            index.reindex("toy:2")
        assert (mmrag.open(".").manifest.model, len(index)) == ("toy:1", 6)
        colours.mkdir(exist_ok=True)  # as where a disk is not mounted


def test_a_model_that_cannot_embed_what_there_is(index):
    with pytest.raises(ModelError):
        index.reindex("toy-reader:1")
    assert stores(index) == ["table", "views"]


def test_too_little_room(index, monkeypatch):
    usage = shutil.disk_usage(".")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=100))
    with pytest.raises(StoreError, match=r"need about 0 MB in .*, beside those of the old one, and 0 MB are free"):
        index.reindex("toy:2")
    assert (mmrag.open(".").manifest.model, stores(index)) == ("toy:1", ["table", "views"])


def test_a_second_writer_is_told(index):
    told = []

    def meanwhile(*_):
        with pytest.raises(IndexLockedError, match="is writing"):
            mmrag.open(".").add("images")
        told.append(best(mmrag.open(".")))

    index.reindex("toy:2", progress=meanwhile)
    assert set(told) == {"images/red.png"}


def test_who_has_it_open_keeps_what_was_opened(index):
    opened, unopened, again = mmrag.open("."), mmrag.open("."), mmrag.open(".")
    assert best(opened) == best(again) == "images/red.png"
    index.reindex("toy:halves")
    assert best(opened) == "images/red.png"
    assert (opened.manifest.model, len(opened)) == ("toy:1", 6)
    assert best(unopened, "blue") == "images/blue.png"  # it had not looked yet: the new one
    assert unopened.manifest.model == "toy:halves"
    again.refresh()
    assert (best(again), again.manifest.model) == ("images/red.png", "toy:halves")
    assert again.update().unchanged == 6


def test_threads_search_while_it_switches(index):
    stop, wrong = threading.Event(), []

    def search():
        while not stop.is_set():
            try:
                wrong.extend(hits for hits in [best(index)] if hits != "images/red.png")
            except Exception as error:  # told below
                wrong.append(error)

    threads = [threading.Thread(target=search) for _ in range(3)]
    for thread in threads:
        thread.start()
    for model in ("toy:halves", "toy:2", "toy:halves", "toy:1"):
        index.reindex(model)
    stop.set()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_model_that_is_loaded_while_another_takes_its_place(index, monkeypatch):
    index.reindex("toy:2")
    reader = mmrag.open(".")
    load, switched = module.load_encoder, Manifest.read(index.folder)
    old = dataclasses.replace(switched, model="toy:1", identity=load("toy:1").identity)
    reader._serving.manifest = old

    def load_and_switch(name, **options):
        encoder = load(name, **options)
        reader._serving.manifest = switched
        return encoder

    monkeypatch.setattr(module, "load_encoder", load_and_switch)
    assert reader.encoder.identity == old.identity  # which whoever searches compares with the manifest, and looks again


def test_check_removes_what_was_begun(index, colours):
    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(
        mmrag.MmragError, match="stopped; 1 of 6 are embedded by the new model, and searches go on with"
    ):
        index.reindex("toy:2", progress=stop)
    assert len(stores(index)) == 3
    (told,) = index.check().mended
    assert told.startswith("removed what an interrupted or finished reindex left: store-")
    assert (stores(index), best(index)) == (["table", "views"], "images/red.png")


@pytest.mark.parametrize(("step", "serves"), [("write", "toy:1"), ("drop_stores", "toy:2")])
def test_killed_around_the_switch(index, monkeypatch, step, serves):
    """Right before the one step the old model serves, right after it the new one; the same call ends it."""

    def die(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Manifest if step == "write" else reindexing, step, die)
        with pytest.raises(Interrupted, match="stopped; searches go on"):
            index.reindex("toy:2")
    again = mmrag.open(".")
    assert (best(again), again.manifest.model) == ("images/red.png", serves)
    again.reindex("toy:2")
    assert len(stores(again)) == 1
    assert_like_new(index.home, "images", model="toy:2")


def test_what_was_done_before_an_interruption_is_not_done_again(index, colours):
    def stop(done, total):
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(mmrag.MmragError, match="stopped; 3 of 6"):
        index.reindex("toy:2", progress=stop)
    (colours / "white.png").unlink()
    picture(colours / "new.png", 5)
    index.update()
    reports = []
    index.reindex("toy:2", progress=lambda *report: reports.append(report))
    assert 3 <= reports[-1][1] <= 4
    assert_like_new(index.home, "images", model="toy:2")


def test_a_store_that_cannot_be_opened_is_made_anew(index):
    with pytest.raises(mmrag.MmragError, match="stopped"):
        index.reindex("toy:2", progress=lambda *_: signal.raise_signal(signal.SIGINT))
    (begun,) = index.folder.glob("store-*")
    shutil.rmtree(begun / "table")
    index.reindex("toy:2")
    assert_like_new(index.home, "images", model="toy:2")


def kill_and_go_on(kills, seed):
    """Kill at any moment; a reader always finds all, by one model or the other, and the last run ends."""
    chance = random.Random(seed)  # noqa: S311
    with started(READER, stderr=subprocess.PIPE) as reader:
        try:
            for n in range(kills):
                with started(WRITER, f"toy:{2 + n % 2}", stderr=subprocess.PIPE) as process:
                    process.stdout.readline()
                    time.sleep(chance.uniform(0, 1.2))
                    process.kill()
                    assert b"Traceback" not in process.communicate()[1]
            with started(WRITER, "toy:halves", stderr=subprocess.PIPE) as process:
                output, errors = process.communicate(timeout=60)
                assert b"done" in output, errors.decode()
        finally:
            open("enough", "w").close()
            output, errors = reader.communicate(timeout=60)
    assert reader.returncode == 0, errors.decode()
    return json.loads(output.decode().replace("'", '"'))


@pytest.fixture
def corpus(tmp_path, monkeypatch):
    (tmp_path / "images").mkdir()
    for n in range(149):
        picture(tmp_path / "images" / f"{n:03}.png", n)
    Image.new("RGB", (8, 8), (255, 0, 0)).save(tmp_path / "images" / "red.png")
    monkeypatch.chdir(tmp_path)
    mmrag.create(".", model="toy:1").add("images")
    return tmp_path


def test_killed_and_continued(corpus):
    kill_and_go_on(3, seed=0)
    assert len(stores(mmrag.open("."))) == 1
    assert_like_new(corpus, "images", model="toy:halves")


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(1, 6))
def test_killed_often(corpus, seed):
    assert len(kill_and_go_on(20, seed=seed)) > 1
    assert_like_new(corpus, "images", model="toy:halves")


def command(*arguments):
    done = subprocess.run([sys.executable, "-c", MAIN, *arguments], capture_output=True, text=True, env=os.environ)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout, done.stderr


def test_the_command(index, colours):
    (colours / "white.png").unlink()
    code, out, told = command("reindex", "--model", "toy:2")
    assert (code, out) == (0, "5 items are by toy:2 now, not by toy:1 · 1 failed\n")
    assert told == "failed  images/white.png: cannot be read: No such file or directory\n"
    code, out, told = command("reindex", "--model", "toy:1", "--json")
    facts = json.loads(out)
    assert (code, facts["model"], facts["items"], facts["unchanged"], facts["still_failing"]) == (0, "toy:1", 5, 5, 1)
    code, out, told = command("reindex", "--model", "toy:1", "--precision", "int8")
    assert (code, out) == (1, "")
    assert "toy runs in fp32 only" in told


def test_vectors_are_the_new_models(index):
    index.reindex("toy:halves")
    view = index._view
    assert view.shape == (2, 4)
    assert np.allclose(np.linalg.norm(np.concatenate([s.vectors for s in view.segments]), axis=-1), 1, atol=1e-6)
