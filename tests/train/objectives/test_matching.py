from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch", reason="needs the train extra")

from mmrag.train.objectives.matching import NONE, hard_negatives, itm  # noqa: E402


def test_the_likelier_the_more_similar():
    """Drawn often enough, the shares are the softmax over the columns of other groups."""
    scores = torch.tensor([[9.0, 2.0, 1.0, 9.0, 0.0]])
    groups = torch.tensor([3, 1, 2, 3, 4])
    generator = torch.Generator().manual_seed(0)
    drawn = hard_negatives(scores.expand(40_000, 5), torch.full((40_000,), 3), groups, generator=generator)
    shares = torch.bincount(drawn, minlength=5) / len(drawn)
    weights = [1e-4 + math.exp(value) / sum(map(math.exp, scores[0].tolist())) for value in (2.0, 1.0, 0.0)]
    expected = [0, weights[0] / sum(weights), weights[1] / sum(weights), 0, weights[2] / sum(weights)]
    assert shares.tolist() == pytest.approx(expected, abs=0.01)


def test_an_own_caption_is_never_a_negative_however_similar():
    scores = torch.tensor([[900.0, 0.0, 890.0], [0.0, 900.0, 0.0], [900.0, -50.0, 890.0]])
    groups = torch.tensor([7, 8, 7])
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        drawn = hard_negatives(scores, groups, groups, generator=generator)
        assert (groups[drawn] != groups).all()


def test_a_batch_of_one_group_has_no_negatives():
    groups = torch.tensor([1, 1])
    assert hard_negatives(torch.zeros(2, 2), groups, groups).tolist() == [NONE, NONE]


def test_chance_is_the_generators():
    scores, groups = torch.zeros(20, 20), torch.arange(20)
    first, again = (
        hard_negatives(scores, groups, groups, generator=torch.Generator().manual_seed(3)) for _ in range(2)
    )
    assert torch.equal(first, again)


def test_itm_is_the_mean_over_all_pairs():
    positive, negative = torch.tensor([[0.0, 2.0]]), torch.tensor([[1.0, 0.0], [0.0, 3.0]])
    expected = (math.log1p(math.exp(-2)) + math.log1p(math.exp(-1)) + math.log1p(math.exp(3))) / 3
    assert float(itm(positive, negative)) == pytest.approx(expected)
