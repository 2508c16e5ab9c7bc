"""Changing and tuning the view of an index, and what mmrag chooses by itself."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import mmrag
from mmrag.cli.main import app
from mmrag.errors import InputError, MissingExtraError, RecipeError
from mmrag.search.tune import choose_queries
from mmrag.stores import auto
from mmrag.stores.faiss import load_faiss
from mmrag.stores.view_settings import ViewSettings

RECIPE = """
[view]
kind = "faiss"
factory = "{factory}"
build_at = 50
"""


@pytest.fixture
def index(tmp_path, monkeypatch):
    """An index of 300 pictures of one colour each."""
    monkeypatch.chdir(tmp_path)
    colours = np.random.default_rng(0).integers(0, 256, size=(300, 3))
    pictures = [
        mmrag.Item(id=f"c{n}", uri=f"c{n}.png", image=Image.new("RGB", (8, 8), tuple(map(int, one))))
        for n, one in enumerate(colours)
    ]
    index = mmrag.create(".", model="toy:1", recipe="exact")
    index.add(pictures)
    return index


def recipe(tmp_path, factory):
    path = tmp_path / "mine.toml"
    path.write_text(RECIPE.format(factory=factory))
    return str(path)


def found(index):
    return [hit.item.id for hit in index.search("red", k=8)]


def test_another_view_serves_and_the_old_one_is_gone(index, tmp_path):
    before, other = found(index), mmrag.open(".")
    assert found(other) == before
    index.change_view(recipe(tmp_path, "IVF8,SQ8"))
    (folder,) = (index.folder / "views").iterdir()
    assert folder.name.startswith("faiss-")
    assert len(list(folder.glob("*.faiss"))) == 1
    assert found(index) == before
    assert found(other) == before  # what it has opened stays
    other.refresh()
    assert found(other) == found(mmrag.open(".")) == before
    assert index.info()["tuning"]["recall"] >= 0.95
    index.change_view("exact")
    assert [path.name for path in (index.folder / "views").iterdir()] == ["exact"]
    assert index.info()["tuning"] is None
    assert found(index) == before


def test_a_process_that_opens_late_follows_the_manifest(index, tmp_path):
    other = mmrag.open(".")  # has read the manifest, and no view yet
    before = found(index)
    index.change_view(recipe(tmp_path, "SQ8"))
    assert found(other) == before
    assert not (index.folder / "views" / "exact").exists()


def test_additions_and_removals_after_the_change(index, tmp_path):
    index.change_view(recipe(tmp_path, "HNSW8"))
    index.add(mmrag.Item(id="new", uri="new.png", image=Image.new("RGB", (8, 8), (255, 0, 0))))
    assert found(index)[0] == "new"
    index.remove("new")
    assert "new" not in found(index)
    assert index.check().mended == ()


def test_check_makes_a_damaged_view_again(index, tmp_path):
    index.change_view(recipe(tmp_path, "SQ8"))
    before = found(index)
    (path,) = index.folder.rglob("*.faiss")
    path.unlink()
    (arrow,) = path.parent.glob("*.arrow")
    arrow.write_bytes(b"")
    assert "made the view again" in index.check().mended[0]
    assert len(list(index.folder.rglob("*.faiss"))) == 1
    assert found(mmrag.open(".")) == before


def test_tuning_is_kept_and_told(index, tmp_path):
    index.change_view(recipe(tmp_path, "IVF8,PQ2x4fs"))
    log = tmp_path / "asked.txt"
    log.write_text("red\n\nblue\nyellow\n")
    result = CliRunner().invoke(app, ["tune", "--queries", str(log), "--target", "0.9", "--json"])
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["tuning"]["queries"] == 3
    assert told["tuning"]["source"] == "a query log"
    assert told["tuning"]["rows"] == 300
    assert told["tuning"]["recall"] >= 0.9
    assert told["view"] == mmrag.open(".").info()["view"]
    assert told["view"]["target"] == 0.9
    info = CliRunner().invoke(app, ["info"]).stdout
    assert "view     faiss IVF8,PQ2x4fs, of table version" in info
    assert "of the ten best found, target 90 %, by 3 queries (a query log) over 300 items" in info


def test_there_is_nothing_to_tune_in_the_exact_view(index):
    with pytest.raises(InputError, match="there is nothing to tune"):
        index.tune()
    index_file = CliRunner().invoke(app, ["tune", "--queries", "none.txt"])
    assert index_file.exit_code == 1


def test_what_is_asked_is_a_log_or_texts_or_everyday_things(index):
    view = index._view
    assert choose_queries(view, [" a ", "", "b"]) == (["a", "b"], "a query log")
    with pytest.raises(InputError, match="no query to tune by"):
        choose_queries(view, ["", " "])
    queries, source = choose_queries(view, None)
    assert source == "everyday things"
    assert len(queries) == len(set(queries)) > 200
    index.add([mmrag.Item(id=f"t{n}", uri=f"t{n}", text=f"the colour red, {n}", modality="text") for n in range(60)])
    queries, source = choose_queries(index._view, None)
    assert source == "the corpus's own texts"
    assert sorted(queries) == sorted(f"the colour red, {n}" for n in range(60))


def test_auto_changes_the_view_when_the_corpus_has_grown(index, monkeypatch):
    before = found(index)
    index.change_view("default")
    assert index.info()["choice"] == {"auto": True, "why": "300 × 4: comparing all takes about 1 ms"}
    monkeypatch.setattr(auto, "_PATIENCE_MS", 0)
    index.add(mmrag.Item(id="new", uri="new.png", image=Image.new("RGB", (8, 8), (0, 0, 255))))
    assert index.manifest.view.factory == "HNSW32,SQ8"
    assert index.info()["choice"]["why"].startswith("301 × 4: comparing all takes about 0 ms, and HNSW in")
    assert found(index) == before


def test_a_view_that_cannot_be_built_changes_nothing(index, tmp_path, monkeypatch):
    with pytest.raises(RecipeError, match="divides vectors into 3 parts"):
        index.change_view(recipe(tmp_path, "IVF8,PQ3x4fs"))
    load_faiss.cache_clear()
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(MissingExtraError):
        index.change_view("hnsw")
    with pytest.raises(MissingExtraError):
        mmrag.create(tmp_path / "other", model="toy:1", recipe="hnsw")
    assert not (tmp_path / "other" / ".mmrag" / "manifest.json").exists()
    assert index.manifest.view == ViewSettings()
    assert found(index)
