"""Questions made from captions ask for a word of these, and half of them cannot be answered."""

from __future__ import annotations

import pytest

from benchmarks.questions import ask, make_questions
from mmrag.compose.wording import wording
from mmrag.models.registry import load_encoder
from mmrag.sources.pairs import Pair

THINGS = "beach field forest street river kitchen stadium desert harbour bridge".split()  # noqa: SIM905


@pytest.mark.parametrize(
    ("caption", "made"),
    [
        ("Three dogs play in the snow .", []),
        ("Three dogs are playing in the snow .", [("how many", "How many dogs are playing in the snow?", "3")]),
        (
            "A boy in a blue shirt is jumping off a wall .",
            [("colour", "What colour is the shirt of the boy jumping off a wall?", "blu")],
        ),
        (
            "A man riding a bike on the beach .",
            [
                ("who", "Who is riding a bike on the beach?", "man"),
                ("doing", "What is the man doing on the beach?", "rid"),
                ("where", "Where is the man riding a bike?", "beach"),
            ],
        ),
    ],
)
def test_what_is_asked_for_is_left_out_of_the_question(caption, made):
    assert list(ask(caption)) == made
    for kind, question, expected in made:
        assert expected in wording(caption).stems
        assert expected not in wording(question).stems, kind


@pytest.fixture(scope="module")
def questions():
    pairs = [
        Pair(thing, b"", tuple(f"A {who} is running through the {thing} ." for who in ("dog", "brown dog", "big dog")))
        for thing in THINGS
    ]
    return make_questions(pairs, load_encoder("builtin"), captions=2)


def test_half_of_the_questions_are_about_pictures_that_are_not_in_the_index(questions):
    indexed = {pair.id for pair, _ in questions.pictures}
    assert indexed == set(THINGS[::2])
    assert all(one.answerable == (one.picture in indexed) for one in questions.questions)
    assert sum(one.answerable for one in questions.questions) * 2 == len(questions.questions) > 0


def test_the_words_of_a_picture_have_the_answer_and_not_the_caption_that_asks(questions):
    words = {pair.id: text for pair, text in questions.pictures}
    for one in questions.questions:
        if one.answerable:
            assert one.expected <= wording(words[one.picture]).stems
            assert len(words[one.picture].splitlines()) == 2
            assert one.picture in questions.alike[one.text]
        else:
            assert not questions.alike[one.text]
