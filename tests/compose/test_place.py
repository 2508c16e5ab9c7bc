from __future__ import annotations

import itertools
import time

import numpy as np
import pytest

from mmrag.compose import place
from mmrag.compose.place import Option, assign
from mmrag.errors import InputError


def is_allowed(chosen, distance):
    ordered = sorted(chosen, key=lambda one: one.sentence)
    pictures = {one.picture for one in ordered}
    pairs = list(itertools.pairwise(ordered))
    return (
        len(pictures) == len(ordered)
        and all(after.sentence - before.sentence >= distance for before, after in pairs)
        and all(after.when >= before.when for before, after in pairs)
    )


def brute_force(options, budget, distance):
    """The highest sum of all allowed subsets."""
    subsets = (some for size in range(budget + 1) for some in itertools.combinations(options, size))
    return max(sum(one.score for one in some) for some in subsets if is_allowed(some, distance))


@pytest.mark.parametrize("seed", range(60))
def test_the_best_of_all_assignments(seed):
    chance = np.random.default_rng(seed)
    moments = int(chance.choice([1, 3, 8]))
    options = [
        Option(int(chance.integers(6)), int(chance.integers(4)), chance.uniform(0.01, 1), int(chance.integers(moments)))
        for _ in range(chance.integers(13))
    ]
    budget, distance = int(chance.integers(6)), int(chance.integers(1, 4))
    chosen = [options[number] for number in assign(options, budget=budget, distance=distance)]
    assert is_allowed(chosen, distance)
    assert len(chosen) <= budget
    assert [one.sentence for one in chosen] == sorted(one.sentence for one in chosen)
    assert sum(one.score for one in chosen) == pytest.approx(brute_force(options, budget, distance))


def test_a_picture_goes_where_the_whole_gains_most():
    options = [Option(0, 7, 0.9), Option(0, 8, 0.85), Option(1, 7, 0.8)]
    assert assign(options, budget=2) == [1, 2]


def test_pictures_keep_their_own_order():
    options = [Option(0, 1, 0.6, when=2020), Option(1, 2, 0.5, when=2010), Option(2, 3, 0.4, when=2021)]
    assert assign(options, budget=3) == [0, 2]


def test_nothing_is_placed_without_options_or_budget():
    assert assign([], budget=3) == []
    assert assign([Option(0, 1, 0.5)], budget=0) == []


@pytest.mark.parametrize(("score", "budget", "distance"), [(0, 1, 1), (-0.1, 1, 1), (0.5, -1, 1), (0.5, 1, 0)])
def test_what_is_none_is_refused(score, budget, distance):
    with pytest.raises(InputError):
        assign([Option(0, 1, score)], budget=budget, distance=distance)


def test_two_thousand_sentences_that_want_the_same_pictures_take_seconds():
    chance = np.random.default_rng(0)
    options = [Option(n // 4, int(chance.integers(300)), chance.uniform(0.01, 1)) for n in range(8000)]
    start = time.process_time()
    chosen = [options[number] for number in assign(options, budget=100, distance=2)]
    assert time.process_time() - start < 20
    assert is_allowed(chosen, 2)
    assert len(chosen) == 100


def test_where_branches_run_out_the_best_so_far_is_taken(monkeypatch):
    monkeypatch.setattr(place, "MOST_STEPS", 0)
    options = [Option(0, 7, 0.9), Option(0, 8, 0.85), Option(1, 7, 0.8)]
    assert is_allowed([options[number] for number in assign(options, budget=2)], 1)
    assert assign(options, budget=2) == [0]
