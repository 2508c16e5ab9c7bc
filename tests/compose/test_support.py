"""Sentences are scored against sources by words, meaning and a look; what claims nothing is told apart."""

from __future__ import annotations

import pytest
from PIL import Image

import mmrag
from mmrag.compose.answer import Source
from mmrag.compose.comparison import Comparison
from mmrag.compose.odds import fitted_odds
from mmrag.compose.passages import passages
from mmrag.compose.support import Grounding, claims
from mmrag.models.registry import load_encoder, load_matcher
from mmrag.types import Item
from tests.compose.sources import document, picture
from tests.toy import COLOURS

DOGS = picture(1, "Two brown dogs play in the snow .\nTwo dogs are running through deep snow")
ENGINE = document(2, "The engine has four cylinders. Oil is changed every year.")
SOURCES = (DOGS, ENGINE)


@pytest.fixture(scope="module")
def encoder():
    return load_encoder("builtin")


@pytest.fixture
def index(tmp_path):
    """Pictures of one colour, by their names, as the toy model sees them."""
    index = mmrag.create(tmp_path, model="toy:1")
    for name, rgb in COLOURS.items():
        Image.new("RGB", (16, 16), rgb).save(tmp_path / f"{name}.png")
    index.add(tmp_path)
    return index


def coloured(index, number, name, text=""):
    item = next(hit.item for hit in index.search(name, k=len(COLOURS)) if hit.item.uri == f"{name}.png")
    return Source(number, item, text)


def by_words(comparison, sentence):
    return comparison.supports(sentence, SOURCES)


@pytest.mark.parametrize("with_encoder", [True, False])
def test_what_the_source_says_is_likelier_than_what_it_does_not(encoder, with_encoder):
    comparison = Comparison(encoder if with_encoder else None)
    said = by_words(comparison, "Two dogs play in snow.")[1].probability
    for wrong in ("Three dogs play in snow.", "Two white dogs play in snow.", "No dogs play in snow.", "A ship sails."):
        assert by_words(comparison, wrong)[1].probability < said
    assert said > 0.5


def test_the_span_is_that_of_the_likest_sentence(encoder):
    for comparison in (Comparison(encoder), Comparison(None)):
        start, end = by_words(comparison, "The oil is changed each year.")[2].span
        assert ENGINE.text[start:end] == "Oil is changed every year."


def test_sentences_of_a_text_speak_for_themselves_and_captions_together():
    comparison = Comparison(None)
    other = document(2, "Two brown dogs play in the snow .\nTwo dogs are running through deep snow")
    sentence = "Two dogs play in deep snow."
    found = comparison.supports(sentence, [DOGS, other])
    assert dict(found[1].parts)["overlap"] == 1
    assert dict(found[2].parts)["overlap"] == 0.8


def test_evidence_has_a_support_for_each_source_that_is_cited_the_best_first(index):
    evidence = Grounding(index, None).check("The engine has four cylinders.", (3, 37), (1, 2), SOURCES)
    assert [one.number for one in evidence.supports] == [2, 1]
    assert evidence.span == (3, 37)
    assert evidence.citations == (1, 2)
    assert evidence.supported


def test_a_sentence_without_citations_is_not_supported_and_one_without_a_claim_is_neither(index):
    grounding = Grounding(index, None)
    assert grounding.check("The engine has four cylinders.", (0, 30), (), SOURCES).supported is False
    assert grounding.check("The engine has nine wheels.", (0, 27), (1,), SOURCES).supported is False
    assert grounding.check("Here is what I found:", (0, 21), (1,), SOURCES).supported is None


def test_an_uncited_sentence_is_attributed_to_the_best_source_or_to_none(index):
    grounding = Grounding(index, None)
    assert grounding.best("Its engine has four cylinders.", SOURCES).number == 2
    assert grounding.best("A ship sails at dawn.", SOURCES) is None
    assert grounding.best("What now?", SOURCES) is None


def test_a_matcher_looks_at_pictures_and_the_better_counts(index):
    judge = load_matcher("judge:1")
    grounding = Grounding(index, judge)
    red, blue = coloured(index, 1, "red"), coloured(index, 2, "blue", "two horses in a field")
    found = {one.number: one for one in grounding.check("a red square", (0, 12), (1, 2), [red, blue]).supports}
    assert found[1].kind == "match"
    assert found[1].span is None
    assert found[1].probability == pytest.approx(1 / (1 + 2.718281828**-4), abs=1e-4)  # all pixels: a logit of 4
    assert found[2].probability < 0.5
    told = grounding.check("Two horses stand in a field.", (0, 28), (2,), [red, blue]).supports[0]
    assert told.kind == "words"


def test_a_picture_is_looked_at_once_for_a_sentence(index):
    judge = load_matcher("judge:1")
    sources = [coloured(index, number, name) for number, name in enumerate(("red", "blue"), start=1)]
    grounding = Grounding(index, judge)
    best = grounding.best("A red wall.", sources)
    judged = judge.judged
    assert grounding.check("A red wall.", (0, 11), [1], sources).supports == (best,)
    assert judge.judged == judged == 2


def test_no_look_mends_what_the_words_contradict(index):
    grounding = Grounding(index, load_matcher("judge:1"))
    red = coloured(index, 1, "red", "two squares that are red")
    sentences = {"three red squares": "words", "a thing in red": "match"}
    for sentence, kind in sentences.items():
        assert grounding.check(sentence, (0, len(sentence)), (1,), [red]).supports[0].kind == kind


def test_a_picture_that_is_not_in_the_index_is_judged_by_its_words_alone(index):
    grounding = Grounding(index, load_matcher("judge:1"))
    assert [one.kind for one in grounding.check("Two dogs.", (0, 9), (1,), SOURCES).supports] == ["words"]
    assert grounding.check("Two dogs.", (0, 9), (1,), [picture(1)]).supports == ()


def test_sources_that_may_answer_are_kept_by_their_words(index):
    grounding = Grounding(index, None)
    assert grounding.likely("How many cylinders has the engine?", SOURCES) == (ENGINE,)
    assert grounding.likely("Who wrote the opera?", [*SOURCES, picture(3)]) == ()


@pytest.mark.parametrize("question", ["Where do dogs swim?", "What colour is the dog?"])
def test_a_short_question_is_answered_by_what_has_all_its_words_and_the_colour_it_asks_for(encoder, question):
    black = picture(3, "A black dog carries an orange tennis ball in his mouth as he swims .")
    dull = picture(4, "A dog that nobody knows sleeps beneath an old table in the kitchen .")
    comparison = Comparison(encoder)
    answering = comparison.answering(question, [black, dull])
    assert [one.source.number for one in answering if comparison.is_likely(one)] == [3]
    assert max(one.probability for one in answering) < fitted_odds().least_answer


def test_a_picture_that_cannot_be_read_is_warned_of_once(index, tmp_path, caplog):
    red, blue = coloured(index, 1, "red"), coloured(index, 2, "blue")
    (tmp_path / "red.png").unlink()
    grounding = Grounding(index, load_matcher("judge:1"))
    for _ in range(3):
        kinds = [one.number for one in grounding.check("a blue square", (0, 13), (1, 2), [red, blue]).supports]
        assert kinds == [2]
    assert caplog.text.count("red.png") == 1


def test_facts_and_captions_by_models_are_no_sentences_of_a_text():
    shot = picture(1, "Caption by a model: a dog\ntaken_at: 2009-02-09T09:11:30\nTags: sea")
    assert [(one.text, one.kind) for one in passages(shot)] == [
        ("a dog", "generated"),
        ("2009-02-09T09:11:30", "fact"),
        ("sea", "said"),
    ]
    note = Source(
        2, Item("a.md", modality="text", text="-", metadata={"headings": ["Sea", "Cork"]}), "Sea › Cork\nRain."
    )
    assert [(one.text, one.kind) for one in passages(note)] == [("Sea › Cork", "heading"), ("Rain.", "said")]


@pytest.mark.parametrize(
    "sentence", ["", "…", "The picture itself.", "I do not know.", "Is it a dog?", "The sources say the following:"]
)
def test_what_asks_announces_or_knows_nothing_claims_nothing(sentence):
    assert not claims(sentence)
    assert claims(f"{sentence} A dog runs.")


def test_the_matchers_judgement_of_items_by_their_ids(index):
    red, blue = coloured(index, 1, "red").item.id, coloured(index, 2, "blue").item.id
    judged = index.match(["red", "blue"], [blue, "nothing", red, blue], matcher="judge:1")
    assert judged.logits[:, [0, 2, 3]].tolist() == [[-4, 4, -4], [4, -4, 4]]
    assert judged.cosines.shape == (2, 4)
    assert not (judged.logits[:, 1] == judged.logits[:, 1]).any()  # not a number
