"""Probabilities of hits by a model's card, and what a search says when nothing is likely to match."""

from __future__ import annotations

import json
import math

import pytest
from typer.testing import CliRunner

import mmrag
from mmrag.cli.main import app
from mmrag.errors import RecipeError
from mmrag.models.cards import Calibration, read_card
from mmrag.models.export import write_card
from mmrag.search.likelihood import nothing_likely, probability
from tests.toy import CalibratedEncoder

CARD = CalibratedEncoder().card.calibration


@pytest.fixture
def index(colours):
    """All colours but green, whose nearest ones have a cosine of .71 with it."""
    (colours / "green.png").unlink()
    index = mmrag.create(".", model="toy:calibrated")
    index.add("images")
    return index


def search(*arguments):
    done = CliRunner().invoke(app, ["search", *arguments])
    assert done.exit_code == 0, done.output
    return done.stdout, done.stderr


def test_it_is_the_logistic_function_of_cosine_and_words():
    calibration = Calibration(bias=-3, cosine=10, words=-2, least=0.1)
    for cosine, words in ((0.4, 1), (0.4, 7), (-1, 3), (1, 3)):
        expected = 1 / (1 + math.exp(-(-3 + 10 * cosine - 2 * math.log(words))))
        assert probability(calibration, cosine, words) == pytest.approx(expected, rel=1e-9)
    assert probability(Calibration(0, 1e9, 0, 0.1), -1, 1) == 0


def test_hits_of_words_have_a_probability_and_those_of_a_picture_none(index, colours):
    hits = index.search("red", k=5)
    assert [hit.parts["probability"] for hit in hits] == [
        pytest.approx(probability(CARD, hit.score, 1)) for hit in hits
    ]
    assert hits[0].parts["probability"] > 0.99
    assert not nothing_likely(hits, CARD)
    assert "probability" not in index.search(colours / "red.png")[0].parts
    assert nothing_likely(index.search("green"), CARD)
    assert not nothing_likely(index.search("green"), None)
    assert not nothing_likely([], CARD)


def test_what_has_the_words_is_never_held_back(index):
    assert nothing_likely(index.search("green", pipeline="hybrid"), CARD)
    for query in ("green red", mmrag.Query("green", phrases=("red",))):
        hits = index.search(query, pipeline="hybrid")
        assert not nothing_likely(hits, CARD)
        (named,) = [hit for hit in hits if hit.matched]
        assert (named.item.uri, named.matched) == ("images/red.png", ("names",))
        assert "probability" not in named.parts


def test_a_matcher_has_its_own_and_nothing_is_held_back_that_it_judged(index):
    first, *others = index.search("green", k=5, rerank="judge:1", top=2)
    assert first.kind == "match"
    assert first.parts["probability"] == pytest.approx(1 / (1 + math.exp(-first.parts["logit"])), abs=1e-6)
    assert others[-1].kind == "cosine"
    assert others[-1].parts["probability"] == pytest.approx(probability(CARD, others[-1].score, 1))
    assert not nothing_likely([first, *others], CARD)


def test_chinese_words_have_no_probability(index):
    hits = index.search("green 绿", k=5)
    assert {*hits[0].parts} == {"cosine"}
    assert not nothing_likely(hits, CARD)


def test_texts_are_not_judged(index):
    index.add(mmrag.Item(uri="note", modality="text", text="black"))
    hits = index.search("green", k=9)
    assert {hit.item.modality: "probability" in hit.parts for hit in hits} == {"image": True, "text": False}
    assert not nothing_likely(hits, CARD)


def test_a_search_says_so_and_shows_the_best_guesses_when_asked(index):
    told = "mmrag: nothing here is likely to match; the best guesses: --all\n"
    assert search("green") == search("green", "--json") == search("green", "--paths") == ("", told)
    out, errors = search("green", "--all", "-k", "2")
    assert (len(out.splitlines()), errors) == (2, "")
    assert "cosine 0.708 (p .09)  images/yellow.png" in out
    hits = [json.loads(line) for line in search("green", "--all", "--json")[0].splitlines()]
    assert [hit["parts"]["probability"] for hit in hits] == sorted(
        (h["parts"]["probability"] for h in hits), reverse=True
    )
    assert search("red", "-k", "1")[0].startswith("  1  cosine 1.000 (p .99)")
    assert len(search("--image", "images/red.png")[0].splitlines()) == 5


def test_a_page_of_nothing(index, tmp_path):
    search("green", "--html", str(tmp_path / "page.html"))
    assert "nothing found" in (tmp_path / "page.html").read_text()


def test_without_a_calibration_all_is_as_it_was(colours):
    index = mmrag.create(".", model="toy:1")
    index.add("images")
    (colours / "green.png").unlink()
    index.update()
    assert set(index.search("green", k=1)[0].parts) == {"cosine"}
    out, errors = search("green", "-k", "1")
    assert (out.count("cosine 0.708  "), errors) == (1, "")


def test_the_card_keeps_it(tmp_path):
    card = CalibratedEncoder().card
    write_card(card, tmp_path)
    assert read_card(tmp_path) == card


@pytest.mark.parametrize(("cosine", "least"), [(0, 0.5), (-3, 0.5), (10, 1.5), (10, -0.1), (math.inf, 0.5)])
def test_what_cannot_be_a_calibration(cosine, least):
    with pytest.raises(RecipeError, match="least is a probability, from 0 to 1, and cosine a weight above 0"):
        Calibration(bias=0, cosine=cosine, words=0, least=least)
