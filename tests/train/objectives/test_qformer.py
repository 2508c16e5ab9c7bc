"""The masks against the sentences of the paper, place by place."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="needs the train extra")

from mmrag.train.objectives.qformer import itc_mask, itg_mask, itm_mask  # noqa: E402

QUERIES, TEXT_MASK = 2, torch.tensor([[1, 1, 1], [1, 1, 0]])
SEES = {  # (viewer is text, seen is text, the seen comes later)
    itc_mask: lambda viewer, seen, later: viewer == seen,
    itm_mask: lambda viewer, seen, later: True,
    itg_mask: lambda viewer, seen, later: not seen or (viewer and not later),
}


@pytest.mark.parametrize("mask", SEES, ids=lambda one: one.__name__)
def test_who_sees_whom(mask):
    found = mask(QUERIES, TEXT_MASK)
    assert found.shape == (2, 5, 5)
    assert found.dtype == torch.bool
    for row in range(2):
        for viewer in range(5):
            for seen in range(5):
                padding = seen >= QUERIES and not TEXT_MASK[row, seen - QUERIES]
                allowed = SEES[mask](viewer >= QUERIES, seen >= QUERIES, seen > viewer)
                assert bool(found[row, viewer, seen]) == (allowed and not padding)
