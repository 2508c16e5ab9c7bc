"""Beam search against the search of all texts there are, and sampling against the probabilities."""

from __future__ import annotations

from collections import Counter
from functools import cache
from itertools import product

import numpy as np
import pytest

from mmrag.errors import InputError, RecipeError
from mmrag.models.miniature_files import Writing
from mmrag.models.writing import beam_search, check_writing, sample, without

END = 0
VOCABULARY = 4
LONGEST = 4
START = [3, 1]


def language(seed, sharpness=1.5):
    """Log-probabilities that depend on all tokens so far."""

    @cache
    def after(*text):
        logits = sharpness * np.random.default_rng([seed, *text]).normal(size=VOCABULARY)
        return logits - np.log(np.exp(logits).sum())

    return lambda ids: np.array([after(*text) for text in ids.tolist()], dtype=np.float32)


def all_texts(next_scores, power):
    """Every text of at most LONGEST tokens, its end counted, by its score."""
    scores = {}
    for length in range(LONGEST + 1):
        for text in product(range(1, VOCABULARY), repeat=length):
            tokens = [*text, END][:LONGEST]
            total = sum(
                float(next_scores(np.array([[*START, *tokens[:place]]]))[0][token])
                for place, token in enumerate(tokens)
            )
            scores[text] = total / len(tokens) ** power
    return scores


@pytest.mark.parametrize("power", [0, 0.7, 1, 2])
@pytest.mark.parametrize("seed", range(6))
def test_with_enough_beams_the_best_of_all_texts_is_found(seed, power):
    next_scores, writing = language(seed), Writing(length_power=power)
    scores = all_texts(next_scores, power)
    found = beam_search(next_scores, START, end=END, max_tokens=LONGEST, beams=200, writing=writing)
    assert scores[tuple(found)] == pytest.approx(max(scores.values()), abs=1e-5)


def test_more_beams_find_better_texts():
    totals = []
    for beams in (1, 2, 4, 200):
        found = []
        for seed in range(20):
            next_scores = language(seed)
            text = beam_search(
                next_scores, START, end=END, max_tokens=LONGEST, beams=beams, writing=Writing(length_power=0)
            )
            found.append(all_texts(next_scores, 0)[tuple(text)])
        totals.append(sum(found))
    assert totals == sorted(totals)
    assert totals[0] < totals[-1]


def test_one_beam_takes_the_likeliest_token_each_time():
    for seed in range(10):
        next_scores, text = language(seed), list(START)
        while len(text) < len(START) + 6 and (token := int(next_scores(np.array([text]))[0].argmax())) != END:
            text.append(token)
        found = beam_search(next_scores, START, end=END, max_tokens=6, beams=1, writing=Writing(length_power=0))
        assert found == text[len(START) :]


def test_longer_texts_are_preferred_by_a_higher_power():
    lengths = [
        sum(
            len(beam_search(language(seed), START, end=END, max_tokens=8, beams=4, writing=Writing(length_power=power)))
            for seed in range(30)
        )
        for power in (0, 1, 3)
    ]
    assert lengths == sorted(lengths)
    assert lengths[0] < lengths[-1]


def test_nothing_is_said_twice():
    def again(ids):
        return np.tile(np.log([0.05, 0.6, 0.25, 0.1]), (len(ids), 1))

    def write(size):
        return beam_search(again, [1, 2], end=END, max_tokens=9, beams=2, writing=Writing(3, no_repeat=size))

    assert write(0) == [1] * 9
    for size in (1, 2, 3):
        grams = Counter(tuple(write(size)[n : n + size]) for n in range(len(write(size)) - size + 1))
        assert set(grams.values()) == {1}
    assert len(write(1)) == VOCABULARY - 1


def test_some_tokens_are_never_written():
    next_scores = without(language(1), [2, 3])
    assert set(beam_search(next_scores, START, end=END, max_tokens=12, beams=3)) <= {1}
    random = np.random.default_rng(0)
    texts = [sample(next_scores, START, end=END, max_tokens=5, nucleus=1, random=random) for _ in range(50)]
    assert {token for text in texts for token in text} == {1}


def test_a_text_that_cannot_go_on_ends():
    nothing = without(language(1), range(VOCABULARY))
    assert beam_search(nothing, START, end=END, max_tokens=5, beams=3) == []


def test_tokens_are_sampled_as_often_as_they_are_likely():
    chances = np.array([0.5, 0.3, 0.15, 0.05])
    random = np.random.default_rng(0)

    def write(nucleus):
        texts = [
            sample(lambda _: np.log(chances)[None], [1], end=END, max_tokens=1, nucleus=nucleus, random=random)
            for _ in range(4000)
        ]
        return np.bincount([text[0] if text else END for text in texts], minlength=VOCABULARY) / 4000

    assert write(1) == pytest.approx(chances, abs=0.03)
    assert write(0.7) == pytest.approx([0.625, 0.375, 0, 0], abs=0.03)  # .5 is less than .7, and .5 + .3 is not
    assert write(0.1).tolist() == [1, 0, 0, 0]


@pytest.mark.parametrize(("beams", "max_tokens", "nucleus"), [(0, 5, None), (3, 0, None), (3, 5, 0.0), (3, 5, 1.5)])
def test_what_cannot_be_written_is_said(beams, max_tokens, nucleus):
    with pytest.raises(InputError, match=r"at least 1|is a probability"):
        check_writing(beams, max_tokens, nucleus)
    check_writing(1, 1, 1.0)


def test_settings_that_make_no_sense():
    with pytest.raises(RecipeError, match="at least 0"):
        Writing(length_power=-1)
    with pytest.raises(RecipeError, match="at least 0"):
        Writing(no_repeat=-1)
