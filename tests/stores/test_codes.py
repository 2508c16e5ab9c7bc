"""Vectors in bytes: whatever they look like, none of the best is lost."""

from __future__ import annotations

import numpy as np
import pytest

from mmrag.stores.codes import MOST_QUERIES, Codes, write_codes

ROWS, DIMENSION = 40_000, 48


def unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def clouds(random):
    """Vectors as a byte likes them, and as it does not."""
    plain = random.normal(size=(ROWS, DIMENSION))
    outliers, lone = plain.copy(), plain.copy()
    outliers[:, 3] *= 40  # one dimension is large in all rows
    lone[np.arange(0, ROWS, 7), random.integers(0, DIMENSION, len(range(0, ROWS, 7)))] = 500  # in a few, another each
    near = random.normal(size=DIMENSION) + 1e-4 * plain
    sparse = np.where(random.random(plain.shape) < 0.05, plain, 0) + 1e-9
    return {"plain": plain, "outliers": outliers, "lone": lone, "nearly equal": near, "sparse": sparse}


@pytest.fixture(scope="module", params=clouds(np.random.default_rng(0)))
def vectors(request):
    return unit(clouds(np.random.default_rng(0))[request.param])


@pytest.fixture
def codes(vectors, tmp_path):
    write_codes(tmp_path / "some.i8", vectors)
    return Codes.open(tmp_path / "some.i8")


def some_queries(vectors):
    random = np.random.default_rng(1)
    near = vectors[:3] + 0.3 * random.normal(size=(3, DIMENSION)) / DIMENSION**0.5
    return unit(np.concatenate([near, random.normal(size=(3, DIMENSION)), np.eye(DIMENSION)[:1]]))


@pytest.mark.parametrize("share", [1, 0.5, 0.1, 0.01, 0.0001])
@pytest.mark.parametrize("k", [1, 10, 300])
def test_none_of_the_best_is_lost(vectors, codes, share, k):
    queries = some_queries(vectors)
    wanted = np.random.default_rng(2).random(ROWS) < share
    k = min(k, int(wanted.sum()))
    cosines = vectors.astype(np.float64) @ queries.T.astype(np.float64)
    for query, rows in zip(cosines.T, codes.candidates(queries, k, wanted), strict=True):
        assert wanted[rows].all()
        assert (np.diff(rows) > 0).all()
        best = np.sort(query[wanted])[::-1][:k]
        assert np.array_equal(np.sort(query[rows])[::-1][:k], best)


def test_codes_are_of_the_vectors_they_were_made_of_and_no_others(vectors, codes):
    assert codes.are_of(vectors)
    others = vectors.copy()
    others[-1] = -others[-1]
    assert not codes.are_of(others)


def test_few_rows_are_left_where_they_differ(vectors, codes):
    (rows,) = codes.candidates(vectors[:1], 10, np.ones(ROWS, dtype=bool))
    spread = float((vectors[:200] @ vectors[200:400].T).std())
    assert len(rows) < 1000 or spread < 1e-4  # nearly equal: what a byte says tells none of them from the others


def test_what_is_left_out_is_not_more_than_it_says(vectors, codes):
    again = codes.factors[:, None].astype(np.float64) * codes.weights * codes.codes
    assert (np.linalg.norm(vectors - again, axis=1) <= codes.errors).all()


def test_many_queries_find_what_each_finds_alone(vectors, codes):
    queries = unit(np.random.default_rng(3).normal(size=(MOST_QUERIES, DIMENSION)))
    wanted = np.ones(ROWS, dtype=bool)
    for query, rows in zip(queries, codes.candidates(queries, 5, wanted), strict=True):
        (alone,) = codes.candidates(query[None], 5, wanted)
        both = np.intersect1d(rows, alone)
        best = np.argsort(-(vectors[alone] @ query), kind="stable")[:5]
        assert np.isin(alone[best], both).all()


def test_nothing_to_look_for(vectors, codes):
    assert [len(rows) for rows in codes.candidates(vectors[:2], 0, np.zeros(ROWS, dtype=bool))] == [0, 0]
