from __future__ import annotations

import numpy as np
import pytest

from mmrag.search.recall import find, ranked
from mmrag.stores.exact import ExactView
from mmrag.stores.rows import Row
from mmrag.stores.table import Table


@pytest.fixture
def view(tmp_path):
    """Twenty vectors on a quarter circle, the i-th at i·4.5°; copies of the first lie at 0°."""
    angles = np.concatenate([np.zeros(12), np.arange(1, 20)]) * np.pi / 40
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    rows = [
        Row(id=f"i{n}", uri=f"{n:02}.jpg", modality="image", content_hash="copy" if n < 12 else f"h{n}", vector=v)
        for n, v in enumerate(vectors)
    ]
    table = Table(tmp_path / "table", 2, create=True)
    table.upsert(rows)
    return ExactView.open(tmp_path / "view", 2).sync(table)


def recall(view, queries, **options):
    return [ranked(one.hit() for one in some) for some in find(view, queries, **options)]


QUERY = np.array([[1, 0]], np.float32)


def test_copies_fold_into_one_hit_and_make_room_for_others(view):
    ((first, second, third),) = recall(view, QUERY, k=3)
    assert (first.item.uri, first.duplicates) == ("00.jpg", tuple(f"{n:02}.jpg" for n in range(1, 12)))
    assert [second.item.uri, third.item.uri] == ["12.jpg", "13.jpg"]
    assert [hit.rank for hit in (first, second, third)] == [1, 2, 3]
    assert first.score == pytest.approx(1)
    assert first.parts == {"cosine": first.score}


def test_copies_can_stay_apart(view):
    (hits,) = recall(view, QUERY, k=14, fold_duplicates=False)
    assert [hit.item.uri for hit in hits] == [f"{n:02}.jpg" for n in range(14)]


def test_k_beyond_the_corpus_gives_everything_once(view):
    (hits,) = recall(view, QUERY, k=500)
    assert len(hits) == 20
    assert sum(1 + len(hit.duplicates) for hit in hits) == 31


def test_min_score_leaves_out_the_rest(view):
    (hits,) = recall(view, QUERY, k=20, min_score=0.9)
    assert all(hit.score >= 0.9 for hit in hits)
    assert len(hits) == 6  # cos 22.5° is the last above .9


def test_several_queries(view):
    queries = np.array([[1, 0], [0, 1]], np.float32)
    along_x, along_y = recall(view, queries, k=2)
    assert along_x[0].item.uri == "00.jpg"
    assert along_y[0].item.uri == "30.jpg"
