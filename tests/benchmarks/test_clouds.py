from __future__ import annotations

import numpy as np

from benchmarks.clouds import Clouds

CLOUDS = Clouds(dimension=96, rank=24, clusters=50)


def test_the_first_rows_are_the_same_whatever_their_number():
    few, many = (np.concatenate(list(CLOUDS.images(rows))) for rows in (100, 70_000))
    assert few.shape == (100, 96)
    assert many.shape == (70_000, 96)
    assert np.array_equal(few, many[:100])
    assert not np.array_equal(few, next(Clouds(dimension=96, rank=24, clusters=50, seed=1).images(100)))


def test_unit_length():
    for vectors in (next(CLOUDS.images(500)), CLOUDS.queries(500)):
        assert vectors.dtype == np.float32
        assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_queries_lie_apart_from_pictures_and_near_some_all_the_same():
    images, queries = next(CLOUDS.images(2000)), CLOUDS.queries(200)
    between = images.mean(axis=0) - queries.mean(axis=0)
    assert (images @ between > queries.mean(axis=0) @ between).mean() > 0.95  # nearly on one side of them
    scores = queries @ images.T
    assert np.median((scores.max(axis=1) - scores.mean(axis=1)) / scores.std(axis=1)) > 3
    assert scores.max() < (images[:200] @ images[200:].T).max()


def test_most_of_it_lies_in_few_dimensions():
    images = next(CLOUDS.images(5000))
    values = np.linalg.svd(images - images.mean(axis=0), compute_uv=False) ** 2
    assert 0.85 < values[:24].sum() / values.sum() < 0.999
