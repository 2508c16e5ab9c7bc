from __future__ import annotations

import pytest

from mmrag.compose.answer import Answer, Evidence, Source, Step
from mmrag.compose.followup import content_words, named_source, needs_context, rewrite, rewrite_by_model
from mmrag.roles import Piece
from mmrag.types import Item

SOURCES = tuple(Source(n, Item(f"{n}.png", id=str(n)), text) for n, text in enumerate(("red", "a blue car", "sky"), 1))
BEFORE = Answer(
    "What is the dog on the beach doing?",
    "A brown dog runs [1][3].",
    sources=SOURCES,
    evidence=(Evidence("A brown dog runs.", (0, 24), (1, 3)),),
)


class Says:
    """A generator that says one thing, and remembers what it was asked."""

    def __init__(self, says):
        self.says = says
        self.turns = []

    def generate(self, turns, sampling=None, *, cancel=None):
        self.turns.append(turns)
        yield Piece(self.says, None, "stop")


@pytest.mark.parametrize(
    "question",
    [
        *("And what colour is it?", "and the cat?", "Who else?", "the second one", "Where are they?", "Why?"),
        *(
            "In winter?",
            "What about blue ones?",
            "What is that?",
            "more like that",
            "What did we eat there?",
            "How old?",
        ),
        *("and then", "Is it a cat?", "它是什么颜色？", "那只猫呢？"),
    ],
)
def test_follow_ups_need_what_was_said(question):
    assert needs_context(question)


@pytest.mark.parametrize(
    "question",
    [
        *(
            "Is there a dog on a beach?",
            "a red car",
            "Which house has a door that is open?",
            "What time is it in Tokyo?",
        ),
        *("sunset at the sea", "Does anyone in this corpus wear glasses?", "Who plays football?", "海边的狗在做什么？"),
    ],
)
def test_complete_questions_do_not(question):
    assert not needs_context(question)
    assert rewrite(question, BEFORE) == question


def test_what_a_follow_up_leaves_out_is_added():
    assert rewrite("And what colour is it?", BEFORE) == "And what colour is it? (dog beach brown runs)"
    assert rewrite("Is the dog alone, or are there others?", BEFORE).endswith("(beach brown runs)")
    assert rewrite("And what colour is it?", None) == "And what colour is it?"
    assert rewrite("它是什么颜色？", Answer("狗在做什么？", "")) == "狗在做什么？ 它是什么颜色？"


def test_of_another_thing_only_the_question_is_taken():
    assert rewrite("And the cat?", BEFORE) == "And the cat? (dog beach)"


def test_a_refusal_adds_nothing_of_its_own():
    refused = Answer("Where is the zebra?", "Nothing here is likely to answer this.", refused=True)
    assert rewrite("Why not?", refused) == "Why not? (zebra)"


def test_topics_go_on_through_follow_ups_and_stay_short():
    words = " ".join(f"word{n}" for n in range(12))
    before = Answer("and there?", "Yes.", steps=(Step("rewrite", f"and there? ({words})"),))
    assert rewrite("who else?", before) == f"who else? ({' '.join(words.split()[:10])})"


@pytest.mark.parametrize(
    ("question", "number"),
    [
        *(("[2]", 2), ("What is in picture 3?", 3), ("and number 1?", 1), ("the first one", 1)),
        *(("what colour is the second one?", 3), ("the last picture", 3), ("tell me about the second", 3)),
        *(("[9]", None), ("the third one", None), ("who was the first man on the moon?", None), ("two dogs", None)),
    ],
)
def test_sources_are_named_by_number_or_by_place_among_those_cited(question, number):
    found = named_source(question, BEFORE)
    assert (found and found.number) == number
    assert named_source(question, None) is None


def test_words_of_a_named_source_are_added_in_place_of_all_else():
    assert rewrite("What colour is [2]?", BEFORE, SOURCES[1]) == "What colour is [2]? (blue car)"
    assert rewrite("the second one", BEFORE, Source(2, SOURCES[0].item, "")) == "the second one"


@pytest.mark.parametrize(
    ("says", "taken"),
    [
        ('"What colour is the dog on the beach?"', "What colour is the dog on the beach?"),
        ("Question: What colours are the brown dogs?", "What colours are the brown dogs?"),
        ("What is the dog doing?", None),  # loses the colour
        ("What colour is the zebra on the beach?", None),  # invents
        ("What colour is it?", None),  # adds nothing
        ("The dog is brown.", None),  # answers
        ("What colour is the dog on the beach.", None),
        ("Where is the dog of this colour on the beach?", None),  # asks for something else
        ("what colour " + "dog " * 99, None),
        ("", None),
    ],
)
def test_what_a_model_rewrites_is_taken_if_it_loses_and_invents_nothing(says, taken):
    generator = Says(says)
    assert rewrite_by_model("And what colour is it?", [BEFORE], generator) == taken
    system, user = generator.turns[0]
    assert (system.who, user.who) == ("system", "user")
    assert user.text == (
        "Question: What is the dog on the beach doing?\nAnswer: A brown dog runs.\n"
        "Last question: And what colour is it?"
    )


def test_content_words():
    assert content_words("What's the DOG's colour, and the dog's size [3]?") == ["dog", "colour", "size"]
