from __future__ import annotations

import copy
import logging
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import mmrag
from mmrag.errors import ModelError, QueryError, RecipeError
from mmrag.ingest.recipe import SourceOptions
from mmrag.models import registry
from mmrag.roles import Judgement
from mmrag.search.pipeline import Pipeline, Rerank
from mmrag.sources import rooms
from tests.toy import COLOURS, ToyEncoder, ToyJudge, ToyReader

SHARES = {"red": 40, "blue": 20, "green": 4}
"""Of 64 pixels, in the picture `mixed.png`."""


def paint(path, shares):
    """A picture of 64 pixels, so many of each colour."""
    pixels = [COLOURS[colour] for colour, count in shares.items() for _ in range(count)]
    Image.fromarray(np.array(pixels, np.uint8).reshape(8, 8, 3)).save(path)


@pytest.fixture
def index(tmp_path, monkeypatch):
    """Pictures that the toy encoder, which sees mean colours, puts into another order than the toy judge."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "p"
    folder.mkdir()
    paint(folder / "mixed.png", SHARES)
    paint(folder / "dots.png", {"red": 24, "white": 40})
    paint(folder / "pure.png", {"red": 64})
    paint(folder / "blue.png", {"blue": 64})
    Image.new("RGB", (8, 8), (200, 30, 30)).save(folder / "brick.png")  # near red, and nowhere it
    index = mmrag.create(".", model="toy:1")
    index.add("p")
    return index


def names(hits):
    return [Path(hit.item.uri).stem for hit in hits]


def pipeline(**options):
    return Pipeline(rerank=Rerank("judge:1", **options))


def test_the_order_is_the_matchers_and_the_score_its_logit_plus_cosine(index):
    recalled = {hit.item.uri: hit.score for hit in index.search("red", k=9)}
    hits = index.search("red", k=9, rerank="judge:1")
    assert names(index.search("red", k=9)) == ["pure", "brick", "mixed", "dots", "blue"]
    assert names(hits) == ["pure", "mixed", "dots", "brick", "blue"]
    assert [hit.rank for hit in hits] == [1, 2, 3, 4, 5]
    for hit, pixels in zip(hits, (64, 40, 24, 0, 0), strict=True):
        logit, cosine = 8 * pixels / 64 - 4, recalled[hit.item.uri]
        assert hit.kind == "match"
        assert hit.score == pytest.approx(logit + cosine, abs=1e-5)
        assert hit.parts == pytest.approx(
            {"cosine": cosine, "itc": cosine, "logit": logit, "probability": 1 / (1 + np.exp(-logit))}, abs=1e-5
        )


def test_the_cosine_of_another_model_is_its_own_and_reported_apart(index):
    matcher = ToyJudge("other")
    (hit,) = index.search("red", k=1, rerank=matcher)
    assert matcher.compared
    assert hit.score == pytest.approx(4 + hit.parts["itc"], abs=1e-5)
    own = ToyJudge("1")
    assert index.search("red", k=1, rerank=own)[0].parts["itc"] == hit.parts["cosine"]
    assert not own.compared  # its cosine is what recall has found


def test_what_is_beyond_top_keeps_its_order_behind(index):
    hits = index.search("red", k=4, rerank="judge:1", top=2)
    assert names(hits) == ["pure", "brick", "mixed", "dots"]
    assert [hit.kind for hit in hits] == ["match", "match", "cosine", "cosine"]
    assert names(index.search("red", k=2, rerank="judge:1", top=4)) == ["pure", "mixed"]


def test_several_queries_share_a_look_and_judge_only_their_own_candidates(index):
    matcher = ToyJudge()
    asked = ["red", "blue", "a red thing"]
    together = index.search(asked, k=2, rerank=matcher, top=3)
    found = [{hit.item.uri for hit in index.search(query, k=3)} for query in asked]
    assert matcher.looked == len(set.union(*found)) < 9
    assert matcher.judged == 9
    for query, hits in zip(asked, together, strict=True):
        (alone,) = index.search([query], k=2, rerank=ToyJudge(), top=3)
        assert names(hits) == names(alone)
        assert [hit.score for hit in hits] == pytest.approx([hit.score for hit in alone])


def test_equal_contents_are_judged_once_folded_or_not(index):
    Path("p/copy.png").write_bytes(Path("p/pure.png").read_bytes())
    index.update()
    matcher = ToyJudge()
    (hit, *_) = index.search("red", rerank=matcher, pipeline=pipeline(cache_mb=0))
    assert (hit.item.uri, hit.duplicates) == ("p/copy.png", ("p/pure.png",))
    assert matcher.looked == 5
    apart = Pipeline(recall=mmrag.search.pipeline.Recall(fold_duplicates=False), rerank=Rerank("judge:1", cache_mb=0))
    hits = index.search("red", rerank=matcher, pipeline=apart)
    assert names(hits)[:3] == ["pure", "copy", "mixed"]
    assert matcher.looked == 10


def test_blocks_of_any_size_judge_the_same(index, monkeypatch):
    expected = index.search("red", rerank=ToyJudge())
    monkeypatch.setattr("mmrag.search.judge._FEATURE_BYTES_AT_ONCE", 2 * 4 * 64 * 3)
    monkeypatch.setattr("mmrag.search.judge.PIXELS_AT_ONCE", 1)
    told = []
    hits = index.search(
        "red", rerank="judge:1", pipeline=pipeline(cache_mb=0), progress=lambda done, total: told.append((done, total))
    )
    assert hits == expected
    assert told == [(2, 5), (4, 5), (5, 5)]


def test_what_cannot_be_read_stays_behind_in_its_order_with_a_warning(index, caplog):
    Path("p/pure.png").unlink()
    Path("p/brick.png").write_bytes(b"no picture")
    paint(Path("p/mixed.png"), {"white": 64})  # not what was indexed: its features would be another's
    index.add(mmrag.Item(uri="memory", image=Image.new("RGB", (8, 8), "red")))
    with caplog.at_level(logging.WARNING, "mmrag"):
        hits = index.search("red", rerank="judge:1")
    assert names(hits) == ["dots", "blue", "pure", "memory", "brick", "mixed"]
    assert [hit.kind for hit in hits] == ["match"] * 2 + ["cosine"] * 4
    (message,) = caplog.messages
    assert "4 of 6 candidates cannot be judged" in message


def test_another_file_of_the_same_content_serves(index, caplog):
    Path("p/copy.png").write_bytes(Path("p/pure.png").read_bytes())
    index.update()
    Path("p/copy.png").unlink()
    assert index.search("red", k=1, rerank="judge:1")[0].kind == "match"
    assert not caplog.messages


def test_lowest_scores(index):
    assert names(index.search("red", rerank="judge:1", min_score=-0.9)) == ["pure", "mixed", "dots"]
    assert names(index.search("red", rerank="judge:1", top=1, min_score=-99)) == ["pure"]  # others have no such score
    candidates = Pipeline(recall=mmrag.search.pipeline.Recall(min_score=0.97), rerank=Rerank("judge:1"))
    assert names(index.search("red", pipeline=candidates)) == ["pure", "brick"]


def test_a_second_search_looks_at_nothing_and_finds_the_same(index):
    first, second = ToyJudge(), ToyJudge()
    expected = index.search("red", rerank=first)
    for path in Path("p").iterdir():
        path.unlink()
    assert index.search("red", rerank=second) == expected
    assert (first.looked, second.looked) == (5, 0)
    assert index.search("red", rerank=ToyJudge("other"))[0].kind == "cosine"  # another model's features are not these


def test_without_a_cache_nothing_is_kept(index):
    index.search("red", pipeline=pipeline(cache_mb=0))
    assert not (index.folder / "features").exists()
    index.search("red", pipeline=pipeline())
    assert (index.folder / "features").exists()


def test_a_model_that_wrote_the_index_is_loaded_once(index):
    fresh = mmrag.open(".")
    fresh.search("red", rerank="judge:1")
    assert fresh.encoder is fresh.matcher("judge:1")
    made = mmrag.create("other", model="judge:1")
    assert made.encoder is made.matcher("judge:1")
    assert made.encoder is not made.matcher("judge:2")


class Movable:
    """A toy's network that says where and in what it computes."""

    device, precision = "cpu", "fp32"

    def on_device(self, device):
        return self._changed(device="cpu" if device == "auto" else device)

    def at_precision(self, precision):
        return self._changed(precision=precision)

    def _changed(self, **options):
        other = copy.copy(self)
        other.__dict__.update(options)
        return other


class MovableEncoder(Movable, ToyEncoder):
    pass


class MovableJudge(Movable, ToyJudge):
    pass


def how(model):
    return model.device, model.precision


def test_a_matcher_by_name_computes_as_the_index_was_opened_to(index, monkeypatch):
    monkeypatch.setitem(registry._FAMILIES, "toy", lambda _: MovableEncoder())
    monkeypatch.setitem(registry._FAMILIES, "judge", MovableJudge)
    opened = mmrag.open(".", device="cuda", precision="bf16")
    assert how(opened.matcher("judge:1")) == how(opened.matcher("judge:2")) == ("cuda", "bf16")
    assert opened.encoder is opened.matcher("judge:1")


def test_a_matcher_that_computes_otherwise_does_not_become_the_encoder(index, monkeypatch):
    monkeypatch.setitem(registry._FAMILIES, "toy", lambda _: MovableEncoder())
    for matcher in (MovableJudge().at_precision("bf16"), MovableJudge().on_device("cuda")):
        opened = mmrag.open(".")
        hits = opened.search("red", rerank=matcher)
        assert how(opened.encoder) == ("cpu", "fp32")
        assert hits[0].kind == "match"
        assert matcher.looked
    same = MovableJudge().at_precision("bf16")
    opened = mmrag.open(".", precision="bf16")
    opened.search("red", rerank=same)
    assert opened.encoder is same


def test_a_picture_is_judged_against_texts(index, tmp_path):
    for colour in ("red", "blue", "green", "white"):
        index.add(mmrag.Item(uri=f"note {colour}", modality="text", text=f"something {colour}"))
    only_texts = Pipeline(recall=mmrag.search.pipeline.Recall(), rerank=Rerank("judge:1"))
    paint(tmp_path / "query.png", SHARES)
    matcher = ToyJudge()
    hits = index.search(tmp_path / "query.png", k=9, rerank=matcher, pipeline=only_texts)
    matches = {hit.item.uri: hit.parts["logit"] for hit in hits if hit.kind == "match"}
    assert list(matches)[:3] == ["note red", "note blue", "note green"]
    assert matches == pytest.approx({"note red": 1, "note blue": -1.5, "note green": -3.5, "note white": -4}, abs=1e-5)
    assert matcher.looked == 1
    assert [hit.kind for hit in hits[4:]] == ["cosine"] * 5
    words = index.search("red", k=9, rerank="judge:1")
    assert [hit.item.modality for hit in words] == ["image"] * 5 + ["text"] * 4
    both = index.search(["red", tmp_path / "query.png"], k=9, rerank="judge:1")
    assert [[hit.item.uri for hit in one] for one in both] == [[hit.item.uri for hit in one] for one in (words, hits)]


def test_a_reader_judges_texts(index):
    for text in ("red white", "blue red sky", "a red white blue flag"):
        index.add(mmrag.Item(uri=text, modality="text", text=text))
    hits = index.search("a white blue flag", k=9, rerank=ToyReader())
    assert [hit.item.uri for hit in hits[:3]] == ["a red white blue flag", "red white", "blue red sky"]
    assert [hit.parts["logit"] for hit in hits[:3]] == [4, 1, 1]
    assert "itc" not in hits[0].parts
    assert hits[0].score == 4
    assert {hit.kind for hit in hits[3:]} == {"cosine"}
    assert not (index.folder / "features").exists()


def test_what_no_matcher_can_judge_is_said(index):
    with pytest.raises(
        QueryError, match=r"for a picture, toy can judge items of the modality 'text' only, and none of"
    ):
        index.search(Path("p/pure.png"), rerank="judge:1")
    with pytest.raises(QueryError, match="toy-reader reads texts only and cannot judge for a picture; ask in words"):
        index.search(Path("p/pure.png"), rerank="reader:1")
    with pytest.raises(QueryError, match="for words, toy-reader can judge items of the modality 'text' only"):
        index.search("red", rerank="reader:1")
    assert mmrag.create("empty", model="toy:1").search("red", rerank="judge:1") == []


def test_a_matcher_that_gives_no_numbers_is_told(index, monkeypatch):
    matcher = ToyJudge()
    monkeypatch.setattr(matcher, "match", lambda *_, **__: Judgement(*(np.full((1, 5), np.nan, np.float32),) * 3))
    with pytest.raises(ModelError, match="toy gave logits that are not finite numbers, in fp32"):
        index.search("red", rerank=matcher)


def test_mistakes_are_told(index):
    with pytest.raises(QueryError, match="--rerank NAME"):
        index.search("red", top=3)
    with pytest.raises(RecipeError, match="top is a whole number of at least 1, not 0"):
        index.search("red", rerank="judge:1", top=0)
    with pytest.raises(ModelError, match="is no matcher: it plays the role of encoder"):
        index.search("red", rerank="toy:1")


def test_a_recipe_reranks(index, tmp_path):
    recipe = tmp_path / "mine.toml"
    recipe.write_text('[rerank]\nmodel = "judge:1"\ntop = 3\ncache_precision = "int8"\n')
    hits = index.search("red", pipeline=str(recipe))
    assert [hit.kind for hit in hits] == ["match"] * 3 + ["cosine"] * 2
    assert [hit.kind for hit in index.search("red", pipeline=str(recipe), top=1)][:2] == ["match", "cosine"]
    recipe.write_text('[rerank]\nmodel = "judge:1"\ncache_precision = "fp8"\n')
    with pytest.raises(RecipeError, match="'fp16', 'int8'"):
        index.search("red", pipeline=str(recipe))


def test_a_file_that_hangs_is_left_out_in_time(index, monkeypatch, caplog):
    real = rooms.read_file

    def read_file(path, **options):
        if path.endswith("brick.png"):
            time.sleep(3)
        return real(path, **options)

    monkeypatch.setattr("mmrag.sources.parts.read_file", read_file)
    monkeypatch.setattr("mmrag.ingest.recipe.SourceOptions", partial(SourceOptions, max_seconds=0.3))
    start = time.perf_counter()
    hits = index.search("red", rerank="judge:1")
    assert time.perf_counter() - start < 2.5
    assert [hit.kind for hit in hits] == ["match"] * 4 + ["cosine"]
    assert "p/brick.png: took longer than 0.3 seconds" in caplog.text


def test_large_pictures_are_shrunk_while_they_wait_but_not_for_a_matcher_that_wants_them_whole(index, monkeypatch):
    Image.new("RGB", (640, 480), "red").save("p/large.png")
    index.update()
    sizes = []
    real = ToyJudge.features
    noted = lambda self, items: sizes.extend(one.size for one in items) or real(self, items)  # noqa: E731
    monkeypatch.setattr(ToyJudge, "features", noted)
    index.search("red", rerank=ToyJudge(), pipeline=pipeline(cache_mb=0))
    assert max(sizes) == (32, 24)  # three times the 8 that it needs
    sizes.clear()
    monkeypatch.setattr(ToyJudge, "decode_at_least", None)
    index.search("red", rerank=ToyJudge(), pipeline=pipeline(cache_mb=0))
    assert max(sizes) == (640, 480)
