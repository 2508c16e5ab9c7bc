"""Words that say the same are one; numbers, colours, sexes and negations that exclude each other are found."""

from __future__ import annotations

import pytest

from mmrag.compose.wording import asked, stem, wording


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("running", "runs"),
        ("ladies", "lady"),
        ("beaches", "beach"),
        ("riding", "rides"),
        ("two", "2"),
        ("gray", "grey"),
    ],
)
def test_words_with_other_endings_are_one(one, other):
    assert stem(one) == stem(other)


@pytest.mark.parametrize(("one", "other"), [("king", "kin"), ("bus", "bu"), ("grass", "gras"), ("dog", "dig")])
def test_short_words_keep_what_looks_like_an_ending(one, other):
    assert stem(one) != stem(other)


def test_overlap_counts_content_words_of_the_sentence_alone():
    claim, said = wording("A dog is running."), wording("Two brown dogs run on the wet beach.")
    assert claim.overlap(said) == 1
    assert said.overlap(claim) == 2 / 6  # of 2, brown, dog, run, wet, beach


@pytest.mark.parametrize(
    ("sentence", "source", "ways"),
    [
        ("Two dogs play.", "Three dogs play.", 1),
        ("2 dogs play.", "Two dogs play.", 0),
        ("A red ball.", "A blue ball.", 1),
        ("A red ball.", "A red ball on a blue mat.", 0),
        ("A man runs.", "A woman runs.", 1),
        ("A dog runs.", "A dog does not run.", 1),
        ("No dog runs.", "A dog isn’t running.", 0),
        ("Two men in red.", "Three women in blue.", 3),
        ("A dog.", "Two red cats.", 0),
    ],
)
def test_what_excludes_each_other_is_counted(sentence, source, ways):
    assert wording(sentence).contradictions(wording(source)) == ways


def test_a_number_that_nobody_said_is_unsaid():
    assert wording("Three dogs and 7 cats.").unsaid(wording("Dogs and seven cats.")) == 1


def test_chinese_is_compared_by_pairs_of_characters():
    assert wording("一只狗在沙滩上").overlap(wording("沙滩上有一只狗")) > 0.3
    assert wording("一只狗").overlap(wording("两匹马")) == 0


def test_what_only_asks_is_left_out_of_a_question():
    assert asked("How many dogs are there on the beach?").stems == wording("dogs beach").stems
