from __future__ import annotations

import pytest

from mmrag.ingest.batches import batch_sizes


@pytest.mark.parametrize(
    ("total", "cores", "sizes"),
    [
        (0, 2, []),
        (1, 2, [1]),
        (16, 2, [8, 8]),
        (33, 2, [16, 16, 1]),
        (47, 2, [16, 16, 7, 8]),
        (70, 4, [16, 16, 16, 16, 1, 1, 2, 2]),
        (31, 1, [16, 15]),
    ],
)
def test_the_last_batches_are_shared_by_all_cores(total, cores, sizes):
    assert list(batch_sizes(total, 16, cores)) == sizes
    assert sum(sizes) == total
