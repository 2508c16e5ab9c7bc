"""Captions, tags and names of pictures, from a folder and from items to hits that say which of them matched."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time

import pytest
from PIL import Image

import mmrag
from mmrag import Item, Query
from mmrag.errors import IndexLockedError
from mmrag.ingest.recipe import IndexRecipe
from mmrag.search.pipeline import Pipeline, Recall
from mmrag.stores.lock import write_lock
from mmrag.stores.view_settings import ViewSettings

RED, BLUE, GREEN = (Image.new("RGB", (16, 16), name) for name in ("red", "blue", "green"))


def items():
    return [
        Item("a", id="a", image=RED, text="the harbour at night", metadata={"year": 2019}),
        Item("b", id="b", image=BLUE, words={"tags": "harbour, Lisbon", "ocr": "NO PARKING"}),
        Item("c", id="c", image=GREEN, words={"generated": "two dogs"}),
        Item("d", id="d", modality="text", text="A red note about Lisbon."),
    ]


@pytest.fixture
def index(tmp_path):
    index = mmrag.create(tmp_path, model="toy:1")
    index.add(items())
    return index


def found(hits):
    return [(hit.item.id, hit.matched) for hit in hits]


def test_words_bring_up_what_colours_do_not(index):
    assert index.search("red harbour lisbon", k=1)[0].item.id in ("a", "d")
    hits = index.search("red harbour lisbon", pipeline="hybrid", k=10)
    assert sorted(found(hits)) == [("a", ("text",)), ("b", ("tags",)), ("c", ()), ("d", ("text",))]
    assert {hit.kind for hit in hits} == {"rrf"}
    assert [hit.rank for hit in hits] == [1, 2, 3, 4]
    assert all(hit.parts["cosine"] <= 1 for hit in hits)


def test_a_picture_as_the_query_is_answered_by_vectors_alone(index):
    both = index.search([RED, "red harbour"], pipeline="hybrid")
    assert [hit.kind for hit in both[0]] == ["cosine"] * 4
    assert both[0] == index.search(RED)
    assert both[1] == index.search("red harbour", pipeline="hybrid")
    assert both[1][0].kind == "rrf"


def test_the_full_text_index_is_made_by_the_first_that_needs_it_and_kept_up_from_then_on(index, tmp_path):
    folder = tmp_path / ".mmrag" / "views" / "words"
    index.search("red")
    index.search(Query("red", phrases=("harbour",)))
    assert index.info()["full_text_bytes"] == 0
    assert not folder.exists()
    index.search("harbour", pipeline="hybrid")
    assert index.info()["full_text_bytes"] > 1000
    index.add(Item("e", id="e", image=Image.new("RGB", (16, 16)), text="a zeppelin"))
    state = json.loads((folder / "words.json").read_text())
    assert state["table_version"] == index.info()["table_version"]
    other = mmrag.open(tmp_path)
    for one in (index, other):
        assert ("e", ("text",)) in found(one.search("zeppelin", pipeline="hybrid"))
    index.remove("e")
    index.add(Item("a", id="a", image=RED, text="an orchard"))
    assert found(index.search("zeppelin orchard", pipeline="hybrid"))[0] == ("a", ("text",))
    assert all(hit.item.id != "e" for hit in index.search("zeppelin", pipeline="hybrid"))
    assert len(other.search("zeppelin", pipeline="hybrid")) == 5  # what it had opened


def test_an_index_that_was_opened_before_sees_no_newer_words_but_goes_on(index, tmp_path):
    index.search("harbour", pipeline="hybrid")
    other = mmrag.open(tmp_path)
    other.search("harbour")
    index.add(Item("e", id="e", image=RED, text="a harbour"))
    assert {hit.item.id for hit in other.search("harbour", pipeline="hybrid")} == {"a", "b", "c", "d"}


def test_while_another_process_writes_what_is_behind_serves(index, tmp_path, monkeypatch):
    monkeypatch.setattr("mmrag.stores.serving._WAIT_SECONDS", 0.1)
    with write_lock(tmp_path / ".mmrag"), pytest.raises(IndexLockedError, match="process"):
        mmrag.open(tmp_path).search("harbour", pipeline="hybrid")
    index.search("harbour", pipeline="hybrid")
    state = tmp_path / ".mmrag" / "views" / "words" / "words.json"
    state.write_text(json.dumps({**json.loads(state.read_text()), "table_version": 1}))
    with write_lock(tmp_path / ".mmrag"):
        assert ("a", ("text",)) in found(mmrag.open(tmp_path).search("harbour", pipeline="hybrid"))


def test_check_mends_it(index, tmp_path):
    assert index.check().mended == ()
    index.search("harbour", pipeline="hybrid")
    assert index.check().mended == ()
    shutil.rmtree(tmp_path / ".mmrag" / "views" / "words" / "words.lance" / "data")
    (told,) = index.check().mended
    assert told.startswith("made the full-text index again: ")
    assert ("a", ("text",)) in found(mmrag.open(tmp_path).search("harbour", pipeline="hybrid"))


def test_a_process_killed_while_it_makes_it_leaves_no_harm(tmp_path):
    index = mmrag.create(tmp_path, model="toy:1")
    index.add([Item(f"i{n}", id=f"i{n}", modality="text", text=f"harbour number {n}") for n in range(300)])
    expected = index.search("harbour", pipeline="hybrid", k=50)
    folder = tmp_path / ".mmrag" / "views" / "words"
    script = "import sys, mmrag, tests.conftest; mmrag.open(sys.argv[1]).search('harbour', pipeline='hybrid')"
    shutil.rmtree(folder)
    process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)])
    while not (folder / "words.lance" / "_indices").exists() and process.poll() is None:
        time.sleep(0.0005)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    again = mmrag.open(tmp_path).search("harbour", pipeline="hybrid", k=50)
    assert [(hit.item.id, hit.score) for hit in again] == [(hit.item.id, hit.score) for hit in expected]


def test_quoted_words_are_had_by_every_hit_and_ranked_by_the_rest(index):
    query = Query("red", phrases=("Harbour",))
    assert found(index.search(query)) == [("a", ("text",)), ("b", ("tags",))]
    assert found(index.search(query, pipeline="hybrid")) == [("a", ("text",)), ("b", ("tags",))]
    assert found(index.search(Query("blue", phrases=("lisbon",)), k=1)) == [("b", ("tags",))]
    assert found(index.search(Query(phrases=("no parking",)))) == [("b", ("ocr",))]
    assert index.search(Query("red", phrases=("harbour", "zebra"))) == []
    assert found(index.search(Query(image=BLUE, phrases=("harbour",))))[0] == ("b", ("tags",))


def test_chinese_captions_are_found_by_words_inside_them(tmp_path):
    captions = {"a": "一只狗在沙滩上奔跑", "b": "两个孩子在公园里踢足球", "c": "一个女人在厨房做饭"}
    index = mmrag.create(tmp_path, model="toy:1")
    index.add([Item(name, id=name, modality="text", text=text) for name, text in captions.items()])
    asked = {"沙滩上的狗": "a", "孩子踢足球": "b", "厨房": "c"}
    for words, name in asked.items():
        assert found(index.search(words, pipeline="hybrid", k=1)) == [(name, ("text",))]
    assert found(index.search(Query(phrases=("沙滩",)))) == [("a", ("text",))]


def test_other_models_find_words_again_after_a_reindex(index, tmp_path):
    index.search("harbour", pipeline="hybrid")
    index.remove(["a", "b", "c"])
    index.reindex("toy:2")
    assert found(index.search("lisbon", pipeline="hybrid")) == [("d", ("text",))]
    assert not (tmp_path / ".mmrag" / "views").exists()


@pytest.mark.parametrize("change", ["reindex", "view"])
def test_words_of_what_was_opened_are_found_though_another_has_replaced_it(index, tmp_path, change):
    assert len(index.search("red")) == 4
    other = mmrag.open(tmp_path)
    if change == "reindex":
        other.remove(["a", "b", "c"])
        other.reindex("toy:2")
    else:
        other.compact(view=IndexRecipe(view=ViewSettings(kind="lance", factory="IVF_PQ")))
    assert len(index.search("dogs", pipeline="hybrid")) == 4
    assert index.search("dogs", pipeline="hybrid", k=4)[0].matched == ("generated",)
    index.refresh()
    assert len(index.search("dogs", pipeline="hybrid")) == (1 if change == "reindex" else 4)


def test_a_matcher_judges_what_both_have_found(colours):
    index = mmrag.create(".", model="judge:1")
    index.add([Item(f"images/{name}.png", text=f"the harbour in {name}") for name in ("red", "blue")])
    hits = index.search("red harbour", pipeline="hybrid", rerank="judge:1", k=4)
    assert [hit.item.uri for hit in hits] == ["images/red.png", "images/blue.png"]
    assert {hit.kind for hit in hits} == {"match"}
    assert {"logit", "cosine", "bm25", "bm25_rank", "cosine_rank"} <= set(hits[0].parts)
    assert hits[0].matched == ("text", "names")


def test_weights_and_a_lowest_score(index):
    pipeline = Pipeline(recall=Recall(words="weights", words_weight=1.0))
    hits = index.search("harbour", pipeline=pipeline, min_score=0.1)
    assert sorted(found(hits)) == [("a", ("text",)), ("b", ("tags",))]
    assert {hit.kind for hit in hits} == {"weighted"}


def test_a_lowest_score_that_no_rank_reaches_is_refused(index):
    best = index.search("red harbour", pipeline=Pipeline(recall=Recall(words="rrf", min_score=0.03)))
    assert best
    with pytest.raises(
        mmrag.errors.RecipeError, match=r"min_score is at most 0.0328 where ranks .* are fused, not 0.2"
    ):
        index.search("harbour", pipeline="hybrid", min_score=0.2)
    by_cosine = Pipeline(recall=Recall(min_score=0.2))
    assert by_cosine.changed(hybrid=True, min_score=0.01).recall == Recall(words="rrf", min_score=0.01)


@pytest.mark.parametrize("bad", [{"words": "bm25"}, {"words_weight": 2}, {"depth": 0}])
def test_settings_that_mean_nothing_are_refused(bad):
    with pytest.raises(mmrag.errors.RecipeError, match=next(iter(bad))):
        Recall(**bad)


def test_the_command_tells_which_words_matched(index, tmp_path, command):
    code, out, _ = command("search", "red harbour dogs lisbon", "--hybrid", "--index", tmp_path)
    assert code == 0
    lines = {line.split()[3]: line for line in out.splitlines()}
    assert "rrf" in out
    assert any(line.endswith("(caption)") for line in lines.values())
    assert any(line.endswith("(tags)") for line in lines.values())
    code, out, _ = command("search", "red harbour", "--hybrid", "--json", "--index", tmp_path)
    assert {one["id"]: one["matched"] for one in map(json.loads, out.splitlines())}["b"] == ["tags"]


def test_a_plain_search_beside_a_full_text_index_stays_light(index, tmp_path):
    index.search("harbour", pipeline="hybrid")
    script = """if True:
        import sys, mmrag, tests.conftest
        index = mmrag.open(sys.argv[1])
        assert index.search("red")
        assert index.search(mmrag.Query("red", phrases=("harbour",)))
        print(sorted({"lancedb", "torch", "transformers"} & set(sys.modules)))
    """
    ran = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
