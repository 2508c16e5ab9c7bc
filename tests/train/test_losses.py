from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch", reason="needs the train extra")

from mmrag.train.losses import OBJECTIVES, info_nce  # noqa: E402


def unit(n, d, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(n, d, generator=generator), dim=-1)


def slow_info_nce(images, texts, scale):
    """Every probability written out."""
    n = len(images)
    total = 0.0
    for i in range(n):
        row = [math.exp(scale * float(images[i] @ texts[j])) for j in range(n)]
        column = [math.exp(scale * float(images[j] @ texts[i])) for j in range(n)]
        total -= math.log(row[i] / sum(row)) + math.log(column[i] / sum(column))
    return total / (2 * n)


def test_agrees_with_the_obvious_implementation():
    images, texts = unit(5, 8, 0), unit(5, 8, 1)
    assert float(info_nce(images, texts, 3.0)) == pytest.approx(slow_info_nce(images, texts, 3.0), abs=1e-5)


def test_knowing_nothing_costs_the_logarithm_of_the_batch():
    assert float(info_nce(unit(7, 4, 0), unit(7, 4, 1), 0.0)) == pytest.approx(math.log(7), abs=1e-6)


def test_a_group_is_not_held_against_itself():
    images, texts = unit(4, 8, 0), unit(4, 8, 1)
    texts[3] = texts[0]  # two pictures of one thing
    groups = torch.tensor([0, 1, 2, 0])
    assert float(info_nce(images, texts, 30.0, groups=groups)) < float(info_nce(images, texts, 30.0))
    assert float(info_nce(texts, texts, 100.0, groups=groups)) == pytest.approx(0.0, abs=1e-3)
    assert float(info_nce(texts, texts, 100.0)) == pytest.approx(math.log(2) / 2, abs=1e-3)


def test_label_smoothing_with_groups_stays_finite_and_has_a_gradient():
    images = unit(6, 8, 0).requires_grad_()
    groups = torch.tensor([0, 0, 1, 1, 2, 2])
    loss = info_nce(images, unit(6, 8, 1), 50.0, groups=groups, label_smoothing=0.1)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(images.grad).all()
    assert images.grad.abs().max() > 0


def test_objectives_are_found_by_name():
    assert OBJECTIVES["info_nce"] is info_nce
