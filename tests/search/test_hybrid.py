from __future__ import annotations

import unicodedata

import numpy as np
import pytest

from mmrag.errors import QueryError
from mmrag.search.hybrid import Hybrid, content_words
from mmrag.search.phrases import rows_with, with_matched
from mmrag.search.recall import find
from mmrag.stores.exact import ExactView
from mmrag.stores.rows import Row
from mmrag.stores.table import Table
from mmrag.stores.words import WordsView

VOCABULARY = ["dog", "cat", "beach", "harbour", "snow", "red", "blue", "street", "child", "boat", "tree", "car"]


def made(folder, rows, *, at_once=40):
    """A view of vectors and one of words, of several segments."""
    table = Table(folder / "table", 2, create=True)
    view, words = ExactView.open(folder / "view", 2), WordsView.open(folder / "words")
    for start in range(0, len(rows), at_once):
        table.upsert(rows[start : start + at_once])
        view = view.sync(table)
        words = words.sync(view)
    return view, words


def row(name, *, angle=0.0, modality="image", **columns):
    vector = np.array([np.cos(angle), np.sin(angle)], np.float32)
    uri = columns.pop("uri", f"{name}.jpg")
    return Row(id=name, uri=uri, modality=modality, vector=vector, **columns)


QUERY = np.array([[1, 0]], np.float32)


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """Two hundred rows, by two and two of the same content, with words at random; some are deleted."""
    random = np.random.default_rng(0)
    angles = np.repeat(random.uniform(0, np.pi, 100), 2)
    rows = [
        row(
            f"i{n:03}",
            angle=angle,
            content_hash=f"c{n // 2}",
            text=" ".join(random.choice(VOCABULARY, 4)) if n % 3 else None,
            ocr=" ".join(random.choice(VOCABULARY, 2)) if n % 5 == 0 else None,
        )
        for n, angle in enumerate(angles)
    ]
    folder = tmp_path_factory.mktemp("stores")
    view, words = made(folder, rows)
    table = Table(folder / "table", 2)
    table.delete(view.segments[0].stamps[:7].tolist())
    view = view.sync(table)
    return view, words.sync(view)


def plain_fusion(view, full_text, words, allowed, *, depth, fold):
    """Filter, rank every row both ways, fold, cut, and sum up reciprocal ranks; every step over everything."""
    may = {
        int(segment.stamps[n])
        for segment, mask in zip(view.segments, allowed, strict=True)
        for n in np.flatnonzero(mask & segment.alive)
    }
    records = {record["stamp"]: record for record in view.records([ref for ref, _ in view.scan(("id",))])}
    by_vector = [record["stamp"] for record in view.records(view.search(QUERY, 10**6).refs[0])]
    by_words = full_text.search(words, 10**6)[1].tolist()

    def contents(stamps):
        key = "content_hash" if fold else "id"
        return list(dict.fromkeys(records[stamp][key] for stamp in stamps if stamp in may))[:depth]

    scores: dict[str, float] = {}
    for ranking in (contents(by_vector), contents(by_words)):
        for rank, content in enumerate(ranking, start=1):
            scores[content] = scores.get(content, 0) + 1 / (60 + rank)
    return scores


@pytest.mark.parametrize("share", [1.0, 0.5, 0.03, 0.0])
@pytest.mark.parametrize("fold", [True, False])
def test_fusing_equals_filtering_and_ranking_everything(stores, share, fold):
    view, full_text = stores
    random = np.random.default_rng(1)
    allowed = [random.random(len(segment.alive)) < share for segment in view.segments]
    hybrid = Hybrid(view, full_text, 12, "rrf", 0.5, fold)
    found = hybrid.find(QUERY, "dog harbour", k=10, allowed=allowed)
    expected = plain_fusion(view, full_text, "dog harbour", allowed, depth=12, fold=fold)
    assert [one.score for one in found] == pytest.approx(sorted(expected.values(), reverse=True)[:10])
    for one in found:
        content = one.record["content_hash" if fold else "id"]
        assert one.score == pytest.approx(expected[content])
        assert one.kind == "rrf"
    assert bool(found) == (share > 0)


def test_each_cosine_is_that_of_its_row(stores):
    view, full_text = stores
    cosines = {one.record["id"]: one.cosine for one in find(view, QUERY, k=1000, fold_duplicates=False)[0]}
    found = Hybrid(view, full_text, 5, "rrf", 0.5, fold_duplicates=False).find(QUERY, "boat", k=10)
    assert any("cosine_rank" not in one.parts for one in found)
    assert [one.cosine for one in found] == pytest.approx([cosines[one.record["id"]] for one in found])


def test_what_words_find_alone_comes_with_its_copies(tmp_path):
    rows = [row(f"near{n}", angle=n / 100) for n in range(5)]
    rows += [row("b", angle=3.0, content_hash="far", text="a harbour"), row("a", angle=3.0, content_hash="far")]
    view, full_text = made(tmp_path, rows)
    (found,) = [one for one in Hybrid(view, full_text, 3, "rrf", 0.5, True).find(QUERY, "harbour", k=3) if one.matched]
    assert (found.record["id"], [other["id"] for other in found.others], found.matched) == ("b", ["a"], ("text",))
    mask = [segment.columns["id"].to_numpy() != "a" for segment in view.segments]
    found = Hybrid(view, full_text, 3, "rrf", 0.5, True).find(QUERY, "harbour", k=9, allowed=mask)
    assert [one.others for one in found if one.matched] == [()]


def test_reciprocal_ranks_by_hand(tmp_path):
    rows = [
        row("first", angle=0.0),
        row("second", angle=0.1, text="a harbour"),
        row("third", angle=0.2, text="the harbour and the harbour master in the harbour of a town"),
    ]
    view, full_text = made(tmp_path, rows)
    found = Hybrid(view, full_text, 100, "rrf", 0.5, True).find(QUERY, "the harbour", k=3)
    by_words = {one.record["id"]: one.parts.get("bm25_rank") for one in found}
    assert {*by_words.values()} == {None, 1.0, 2.0}
    ranks = {"first": 1, "second": 2, "third": 3}
    expected = {name: 1 / (60 + rank) + (1 / (60 + r) if (r := by_words[name]) else 0) for name, rank in ranks.items()}
    assert {one.record["id"]: one.score for one in found} == pytest.approx(expected)
    assert [one.record["id"] for one in found] == sorted(expected, key=lambda name: -expected[name])
    assert [one.matched for one in found if one.record["id"] == "first"] == [()]


@pytest.mark.parametrize(("weight", "best"), [(0.0, "near"), (1.0, "says"), (0.5, "both")])
def test_weights_say_what_counts(tmp_path, weight, best):
    rows = [
        row("near", angle=0.0),
        row("both", angle=0.3, text="harbour or not"),
        row("says", angle=1.5, text="harbour"),
        *(row(f"other{n}", angle=1.0, text="some street in snow") for n in range(5)),
    ]
    view, full_text = made(tmp_path, rows)
    found = Hybrid(view, full_text, 100, "weights", weight, True).find(QUERY, "harbour", k=8)
    assert found[0].record["id"] == best
    assert found[0].kind == "weighted"
    assert all(0 <= one.score <= 1 for one in found)
    nothing = [np.zeros(len(segment.alive), bool) for segment in view.segments]
    assert Hybrid(view, full_text, 100, "weights", weight, True).find(QUERY, "harbour", k=8, allowed=nothing) == []


def test_weighted_scores_by_hand(tmp_path):
    rows = [row("a", angle=0.0, text="boat"), row("b", angle=np.pi / 3, text="boat boat"), row("c", angle=np.pi / 2)]
    view, full_text = made(tmp_path, rows)
    found = Hybrid(view, full_text, 100, "weights", 0.25, True).find(QUERY, "boat", k=3)
    bm25 = {one.record["id"]: one.parts.get("bm25", 0.0) for one in found}
    assert (bm25["c"], max(bm25.values())) == (0, bm25["b"])
    expected = {"a": 0.75 + 0.25 * bm25["a"] / bm25["b"], "b": 0.75 * 0.5 + 0.25, "c": 0.0}
    assert {one.record["id"]: one.score for one in found} == pytest.approx(expected, abs=1e-6)


def test_a_lowest_score_is_one_of_the_fused(stores):
    view, full_text = stores
    hybrid = Hybrid(view, full_text, 50, "rrf", 0.5, True)
    everything = hybrid.find(QUERY, "dog", k=20)
    least = everything[4].score
    assert hybrid.find(QUERY, "dog", k=20, min_score=least) == [one for one in everything if one.score >= least]


def test_words_that_stand_everywhere_find_nothing():
    assert content_words("A dog on the beach") == "dog beach"
    assert content_words("to be or not to be") == "to be or not to be"


PHRASES = {
    "one": row("one", text="Shot on a Fujifilm   X100V."),
    "two": row("two", tags="X100VX, fujifilm"),
    "three": row("three", generated="富士X100V相机在桌子上"),
    "four": row("four", ocr="FUJI FILMX100V"),
    "five": row("five", uri="2019_Paris-trip/IMG_0042.jpg", text="C++ (and 5.00 $)"),
    "six": row("six", text="a start is no art, l’été"),
    "seven": row("seven", ocr="START HERE"),
    "eight": row("eight", uri="notes.md", part="7", modality="text", text="हिन्दी में"),
    "nine": row("nine", uri="all.tar", part="harbour/dog.png"),
}


@pytest.fixture(scope="module")
def phrased(tmp_path_factory):
    return made(tmp_path_factory.mktemp("phrased"), list(PHRASES.values()), at_once=4)[0]


@pytest.mark.parametrize(
    ("phrase", "names"),
    [
        ("x100v", {"one": "text", "three": "generated", "four": "ocr"}),
        ("Fujifilm X100V", {"one": "text", "four": "ocr"}),
        ("X100V.", {"one": "text"}),
        ("相机", {"three": "generated"}),
        ("士X100V相", {"three": "generated"}),
        ("C++", {"five": "text"}),
        (".*", {}),
        ("5.00 $", {"five": "text"}),
        ("art", {"six": "text"}),  # not inside START: three letters
        ("star", {"seven": "ocr"}),
        ("HERE", {"seven": "ocr"}),
        ("ÉTÉ", {"six": "text"}),
        ("paris trip", {"five": "names"}),
        ("IMG_0042.jpg", {"five": "names"}),
        ("jpg", {}),
        ("7", {}),
        ("हिन्दी", {"eight": "text"}),
        ("हिन", {}),
        ("harbour dog", {"nine": "names"}),
        ("zebra", {}),
    ],
)
def test_a_phrase_stands_exactly_so(phrased, phrase, names):
    masks = rows_with(phrased, [phrase])
    found = {
        segment.columns["id"][int(n)].as_py()
        for segment, mask in zip(phrased.segments, masks, strict=True)
        for n in np.flatnonzero(mask)
    }
    assert found == set(names)
    every = find(phrased, QUERY, k=20)[0]
    matched = {one.record["id"]: one.matched for one in with_matched(every, [phrase]) if one.matched}
    assert matched == {name: (kind,) for name, kind in names.items()}


def test_white_space_of_any_kind_is_white_space(tmp_path):
    view, _ = made(tmp_path, [row("a", text="Fujifilm\u00a0X100V", ocr="北京\u3000大学")])
    for phrase in ("Fujifilm X100V", " fujifilm\tx100v ", "北京大学"):
        assert rows_with(view, [phrase])[0].tolist() == [True]


@pytest.mark.parametrize("written", ["NFC", "NFD"])
@pytest.mark.parametrize("asked", ["NFC", "NFD"])
def test_accents_are_the_same_in_either_form(tmp_path, written, asked):
    words = {"text": "un café été", "ocr": "CAFÉ", "uri": "Español_ガイド/한국.jpg"}
    view, _ = made(tmp_path, [row("a", **{name: unicodedata.normalize(written, word) for name, word in words.items()})])
    for phrase, stands in {
        "café": 1,
        "cafe": 0,
        "CAFÉ été": 1,
        "caf": 0,
        "español ガイド": 1,
        "한국": 1,
        "カ": 0,
    }.items():
        assert rows_with(view, [unicodedata.normalize(asked, phrase)])[0].tolist() == [bool(stands)], phrase


def test_a_phrase_may_be_long_but_not_endless(phrased):
    assert not any(mask.any() for mask in rows_with(phrased, ["ÄB" * 150, " "]))
    with pytest.raises(QueryError, match="at most 300 characters, and this one has 301"):
        rows_with(phrased, ["x" * 301])


def test_every_phrase_must_stand_somewhere(phrased):
    masks = rows_with(phrased, ["c++", "paris"])
    assert sum(int(mask.sum()) for mask in masks) == 1
    assert not any(mask.any() for mask in rows_with(phrased, ["c++", "zebra"]))
