"""The masks against the sentences of the paper, place by place, and ITC against torch's own cross-entropy."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="needs the train extra")

from mmrag.train.objectives.qformer import itc, itc_mask, itg_mask, itm_mask, query_cosines  # noqa: E402

QUERIES, TEXT_MASK = 2, torch.tensor([[1, 1, 1], [1, 1, 0]])
SEES = {  # (viewer is text, seen is text, the seen comes later)
    itc_mask: lambda viewer, seen, later: viewer == seen,
    itm_mask: lambda viewer, seen, later: True,
    itg_mask: lambda viewer, seen, later: not seen or (viewer and not later),
}


@pytest.mark.parametrize("mask", SEES, ids=lambda one: one.__name__)
def test_who_sees_whom(mask):
    found = mask(QUERIES, TEXT_MASK)
    assert found.shape == (2, 1, 5, 5)
    assert found.dtype == torch.bool
    for row in range(2):
        for viewer in range(5):
            for seen in range(5):
                padding = seen >= QUERIES and not TEXT_MASK[row, seen - QUERIES]
                allowed = SEES[mask](viewer >= QUERIES, seen >= QUERIES, seen > viewer)
                assert bool(found[row, 0, viewer, seen]) == (allowed and not padding)


def test_a_picture_is_as_like_as_the_best_of_its_queries():
    images, texts = torch.randn(3, 4, 5), torch.randn(2, 5)
    found = query_cosines(images, texts)
    for i in range(3):
        for j in range(2):
            assert float(found[i, j]) == pytest.approx(max(float(query @ texts[j]) for query in images[i]), rel=1e-5)


def test_contrast_equals_cross_entropy_without_what_means_the_same():
    scores, own = torch.randn(2, 4, dtype=torch.float64), torch.tensor([2, 3])
    same = torch.zeros(2, 4, dtype=torch.bool)
    expected = torch.nn.functional.cross_entropy(scores, own, label_smoothing=0.1)
    assert float(itc(scores, own, same=same)) == pytest.approx(float(expected))
    same[:, [0, 2]] = torch.tensor([[True, True], [False, False]])  # the first row's column 0 is of its own picture
    parts = [
        torch.nn.functional.cross_entropy(scores[:1, 1:], own[:1] - 1, label_smoothing=0.1),
        torch.nn.functional.cross_entropy(scores[1:], own[1:], label_smoothing=0.1),
    ]
    assert float(itc(scores, own, same=same)) == pytest.approx(float(sum(parts)) / 2)
