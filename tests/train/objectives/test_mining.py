from __future__ import annotations

import numpy as np
import pytest

import mmrag
from mmrag.errors import InputError
from mmrag.stores.exact import ExactView
from mmrag.train.objectives import mining
from mmrag.train.objectives.mining import NONE, Guard, mine, mine_view


def unit(n, d, seed):
    vectors = np.random.default_rng(seed).standard_normal((n, d)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def slow_mine(queries, items, query_groups, item_groups, k, guard):
    found = []
    for query, group in zip(queries, query_groups, strict=True):
        scores = [float(query @ item) for item in items]
        own = [score for score, other in zip(scores, item_groups, strict=True) if other == group]
        ceiling = guard.ratio * max(own) - guard.margin if own else np.inf
        best = sorted(
            (j for j in range(len(items)) if item_groups[j] != group and scores[j] < ceiling), key=lambda j: -scores[j]
        )
        found.append((best + [NONE] * k)[:k])
    return found


@pytest.mark.parametrize("guard", [Guard(), Guard(1.0), Guard(0.9, 0.05)], ids=str)
def test_every_query_against_every_item(guard, monkeypatch):
    monkeypatch.setattr(mining, "QUERIES_AT_ONCE", 7)
    items = unit(40, 8, 0)
    query_groups, item_groups = np.arange(20), np.repeat(np.arange(20), 2)
    query_groups[3] = 99  # nobody's
    queries = 0.4 * items[::2] + 0.6 * unit(20, 8, 1)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    found = mine(queries, items, query_groups, item_groups, k=30, guard=guard)
    assert found.tolist() == slow_mine(queries, items, query_groups, item_groups, 30, guard)
    assert len({sum(row != NONE) for row in found}) > 3


def test_the_guard_lets_an_unlabelled_twin_pass_as_no_negative():
    items = np.array([[1, 0], [0.99, 0.141], [0.6, 0.8]], dtype=np.float32)  # the second is a twin of the first
    query, groups = items[:1], np.array([0, 1, 2])
    assert mine(query, items, groups[:1], groups, k=1).tolist() == [[2]]
    assert mine(query, items, groups[:1], groups, k=1, guard=Guard(ratio=1.0)).tolist() == [[1]]


@pytest.mark.parametrize("wrong", [{"ratio": 0}, {"ratio": 1.1}, {"margin": -0.1}])
def test_guards_that_guard_nothing_are_refused(wrong):
    with pytest.raises(InputError, match="ratio must be"):
        Guard(**wrong)


@pytest.fixture
def view(colours):
    (colours / "crimson.png").write_bytes((colours / "red.png").read_bytes())  # red, by another name
    (colours / "broken.png").write_bytes(b"no picture")
    index = mmrag.create(".", model="toy:1")
    index.add(colours)
    return ExactView.open(index.folder / "views" / "exact", 4)


def test_an_index_finds_what_the_arrays_do(view):
    records = view.records([ref for ref, failure in view.scan(["failure"]) if failure is None])
    items = np.stack([view.vector(ref) for ref, failure in view.scan(["failure"]) if failure is None])
    contents = [record["content_hash"] for record in records]
    groups = np.array([contents.index(one) for one in contents])
    queries = items[:, [0, 2, 1, 3]]  # green and blue change places
    found = mine_view(view, queries, [record["id"] for record in records], k=2, guard=Guard(1.0))
    expected = mine(queries, items, groups, groups, k=2, guard=Guard(1.0))
    assert [[one["id"] for one in row] for row in found] == [
        [records[column]["id"] for column in row if column != NONE] for row in expected
    ]
    assert any(found)


def test_an_item_without_a_vector_owns_no_query(view):
    (broken,) = [record["id"] for record in view.records(view.find("uri", ["images/broken.png"]))]
    for item_id in (broken, "nobody"):
        with pytest.raises(InputError, match=f"no vector of the item '{item_id}'"):
            mine_view(view, unit(1, 4, 0), [item_id], k=1)
