"""What every view promises, checked against a plain sort of all scores."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from mmrag.errors import IndexFormatError
from mmrag.search.where import masks
from mmrag.stores.registry import view_class
from mmrag.stores.rows import Row
from mmrag.stores.table import Table
from mmrag.stores.view import FORMAT
from mmrag.stores.view_settings import ViewSettings
from tests.conditions import random_condition, random_facts

DIMENSION = 16

VIEWS = {
    "exact": ViewSettings(),
    "exact, in bytes": ViewSettings(),
    **{
        factory: ViewSettings(
            kind="faiss",
            factory=factory,
            rescore=rescore,
            rescore_factor=200.0,  # all rows are candidates: the rest is equality with a plain sort
            nprobe=1000,
            ef_search=1000,
            build_at=12,
        )
        for factory, rescore in [
            ("Flat", ""),
            ("SQ8", "fp32"),
            ("HNSW32,SQfp16", "fp32"),
            ("IVF4,PQ8x4fsr", "fp32"),
            ("IVF{lists},RaBitQ", "fp32"),
            ("IVF{lists},RaBitQfs", "fp32"),
        ]
    },
    **{
        factory: ViewSettings(
            kind="lance", factory=factory, rescore_factor=200.0, nprobe=1000, ef_search=1000, build_at=12
        )
        for factory in ("IVF_HNSW_SQ", "IVF_RQ")
    },
}


@pytest.fixture(params=VIEWS)
def opened(request, monkeypatch):
    """A function that opens a view in a folder; when it is brought up to date, it is built too."""
    if request.param == "exact, in bytes":
        monkeypatch.setattr("mmrag.stores.segment.LEAST_CODED", 3)
    settings = VIEWS[request.param]
    return partial(view_class(settings.kind).open, settings=settings)


@pytest.fixture
def table(tmp_path):
    return Table(tmp_path / "table", DIMENSION, create=True)


def unit(random, count):
    vectors = random.normal(size=(count, DIMENSION)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def rows_of(vectors, start=0, failing=()):
    return [
        Row(
            id=f"i{start + n}",
            uri=f"{start + n}.jpg",
            modality="image",
            size=n,
            mtime_ns=n,
            content_hash=f"h{start + n}",
            failure="broken" if n in failing else None,
            vector=None if n in failing else vector,
        )
        for n, vector in enumerate(vectors)
    ]


def plain_search(vectors_by_id, queries, k):
    ids = sorted(vectors_by_id, key=lambda one: int(one[1:]))
    scores = queries @ np.stack([vectors_by_id[one] for one in ids]).T
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return [[ids[column] for column in row] for row in order], np.take_along_axis(scores, order, axis=1)


def found_ids(view, candidates):
    return [[record["id"] for record in view.records(refs)] for refs in candidates.refs]


def test_equals_a_plain_sort_through_additions_updates_and_deletions(opened, table, tmp_path):
    random = np.random.default_rng(0)
    view = opened(tmp_path / "view", DIMENSION)
    truth = {}
    queries = unit(random, 5)
    for step in range(12):
        start = int(random.integers(0, 60))
        vectors = unit(random, int(random.integers(1, 40)))
        table.upsert(rows_of(vectors, start))
        truth |= {f"i{start + n}": vector for n, vector in enumerate(vectors)}
        view = view.sync(table).built()
        if step % 3 == 2:
            victims = [(stamp, own) for _, stamp, own in view.scan(("stamp", "id"))][:: step + 1]
            table.delete([stamp for stamp, _ in victims])
            for _, own in victims:
                del truth[own]
            view = view.sync(table).built()
        assert len(view) == len(truth)
        candidates = view.search(queries, 7)
        ids, scores = plain_search(truth, queries, 7)
        assert np.allclose(candidates.scores, scores, atol=1e-6)
        assert found_ids(view, candidates) == ids
        reopened = opened(tmp_path / "view", DIMENSION)
        assert found_ids(reopened, reopened.search(queries, 7)) == ids
    files = {path.name for path in (tmp_path / "view").iterdir()}
    assert len(files) <= 1 + 7 * len(view.segments)


def test_many_records_may_all_be_of_one_segment(opened, table, tmp_path):
    random = np.random.default_rng(3)
    view = opened(tmp_path / "view", DIMENSION)
    for number, start in ((300, 0), (5, 300)):
        table.upsert(rows_of(unit(random, number), start))
        view = view.sync(table).built()
    assert len(view.segments) == 2
    refs = [ref for ref, _ in view.scan(("id",))][:100]
    assert [record["id"] for record in view.records(refs)] == [f"i{n}" for n in range(100)]


def test_equal_scores_come_in_the_order_of_the_rows(opened, table, tmp_path):
    vector = unit(np.random.default_rng(1), 1)[0]
    table.upsert(rows_of([vector] * 50))
    view = opened(tmp_path / "view", DIMENSION).sync(table).built()
    assert found_ids(view, view.search(vector[None], 3)) == [["i0", "i1", "i2"]]


def test_k_beyond_the_rows_and_an_empty_view(opened, table, tmp_path):
    random = np.random.default_rng(2)
    view = opened(tmp_path / "view", DIMENSION)
    assert view.search(unit(random, 2), 5).scores.shape == (2, 0)
    assert len(view.sync(table).built()) == 0
    table.upsert(rows_of(unit(random, 3)))
    view = view.sync(table).built()
    assert view.search(unit(random, 2), 5).scores.shape == (2, 3)


def test_failed_rows_are_remembered_and_never_found(opened, table, tmp_path):
    random = np.random.default_rng(3)
    vectors = unit(random, 10)
    table.upsert(rows_of(vectors, failing={2, 5}))
    view = opened(tmp_path / "view", DIMENSION).sync(table).built()
    assert len(view) == 8
    (ids,) = found_ids(view, view.search(vectors[2:3], 10))
    assert len(ids) == 8
    assert {"i2", "i5"}.isdisjoint(ids)
    failed = [uri for _, uri, failure in view.scan(("uri", "failure")) if failure]
    assert failed == ["2.jpg", "5.jpg"]
    table.upsert(rows_of(unit(random, 4), start=100, failing={1}))  # merges segments
    view = view.sync(table).built()
    assert len(view) == 11
    assert len([1 for _, failure in view.scan(("failure",)) if failure]) == 3


def test_vectors_and_records_belong_together(opened, table, tmp_path):
    vectors = unit(np.random.default_rng(4), 30)
    for start in range(0, 30, 6):
        table.upsert(rows_of(vectors[start : start + 6], start, failing={0}))
    view = opened(tmp_path / "view", DIMENSION).sync(table).built()
    for ref, own, failure in view.scan(("id", "failure")):
        if not failure:
            assert np.array_equal(view.vector(ref), vectors[int(own[1:])])


def test_an_old_snapshot_serves_while_a_new_one_is_published(opened, table, tmp_path):
    random = np.random.default_rng(5)
    vectors = unit(random, 20)
    table.upsert(rows_of(vectors))
    old = opened(tmp_path / "view", DIMENSION).sync(table).built()
    before = found_ids(old, old.search(vectors[:2], 5))
    table.upsert(rows_of(unit(random, 20)))
    new = old.sync(table).built()
    assert found_ids(old, old.search(vectors[:2], 5)) == before
    assert found_ids(new, new.search(vectors[:2], 5)) != before


def test_a_view_that_was_lost_or_fell_behind_is_rebuilt_from_the_table(opened, table, tmp_path):
    random = np.random.default_rng(6)
    vectors = unit(random, 20)
    table.upsert(rows_of(vectors))
    view = opened(tmp_path / "view", DIMENSION).sync(table).built()
    table.upsert(rows_of(unit(random, 5), start=3))  # the process dies here
    table.delete(table.stamps()[:1])
    behind = opened(tmp_path / "view", DIMENSION)
    assert behind.table_version == view.table_version
    caught_up = behind.sync(table).built()
    rebuilt = opened(tmp_path / "other", DIMENSION).sync(table).built()
    assert len(caught_up) == len(rebuilt) == 19
    queries = unit(random, 4)
    assert found_ids(caught_up, caught_up.search(queries, 19)) == found_ids(rebuilt, rebuilt.search(queries, 19))


def test_rows_that_come_back_with_a_restored_version_are_found_again(opened, table, tmp_path):
    vectors = unit(np.random.default_rng(7), 40)
    table.upsert(rows_of(vectors))
    version = table.version
    view = opened(tmp_path / "view", DIMENSION).sync(table).built()
    table.delete(table.stamps()[:30])
    table.upsert(rows_of(vectors[:1], start=99))
    view = view.sync(table).built()
    assert len(view) == 11
    table._table.checkout(version)
    table._table.restore()
    assert len(view.sync(table).built()) == 40


def test_other_rows_may_be_gone_after_a_restored_version(opened, table, tmp_path):
    table.upsert(rows_of(unit(np.random.default_rng(12), 6)))
    whole = table.version
    view = opened(tmp_path / "view", DIMENSION).sync(table).built()
    without = {}
    for gone in (1, 4):
        table.delete(table.stamps()[gone : gone + 1])
        without[gone] = table.version
        table.restore(whole)
    for gone, version in [*without.items(), *without.items()]:  # as many are gone every time
        table.restore(version)
        view = view.sync(table).built()
        assert [own for _, own in view.scan(("id",))] == [f"i{n}" for n in range(6) if n != gone]


def test_damage_is_told(opened, table, tmp_path):
    table.upsert(rows_of(unit(np.random.default_rng(8), 4)))
    opened(tmp_path / "view", DIMENSION).sync(table).built()
    (vectors,) = (tmp_path / "view").glob("*.npy")
    vectors.write_bytes(b"nonsense")
    with pytest.raises(IndexFormatError, match="damaged"):
        opened(tmp_path / "view", DIMENSION)
    (tmp_path / "view" / "view.json").write_text("{")
    with pytest.raises(IndexFormatError, match="damaged"):
        opened(tmp_path / "view", DIMENSION)


def test_missing_vectors_are_damage_and_not_an_empty_view(opened, table, tmp_path):
    table.upsert(rows_of(unit(np.random.default_rng(8), 4)))
    opened(tmp_path / "view", DIMENSION).sync(table).built()
    (vectors,) = (tmp_path / "view").glob("*.npy")
    vectors.unlink()
    with pytest.raises(IndexFormatError, match="damaged"):
        opened(tmp_path / "view", DIMENSION)
    for wrong in ("[]", "{}", f'{{"format": {FORMAT}, "table_version": 1, "dimension": 16, "segments": 3}}'):
        (tmp_path / "view" / "view.json").write_text(wrong)
        with pytest.raises(IndexFormatError, match="damaged"):
            opened(tmp_path / "view", DIMENSION)


def test_readers_see_whole_versions_while_a_writer_publishes(opened, table, tmp_path):
    random = np.random.default_rng(10)
    vectors = unit(random, 64)
    table.upsert(rows_of(vectors))
    view = opened(tmp_path / "view", DIMENSION).sync(table).built()
    counts: set[int] = set()
    stop = threading.Event()

    def read():
        while not stop.is_set():
            counts.add(len(opened(tmp_path / "view", DIMENSION)))

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(30):
        table.upsert(rows_of(vectors))  # every row replaced, every file new
        view = view.sync(table).built()
    stop.set()
    reader.join()
    assert counts == {64}


def test_records_of_many_rows(opened, table, tmp_path):
    table.upsert(rows_of(unit(np.random.default_rng(11), 200)))
    table.delete(table.stamps()[::3])
    view = opened(tmp_path / "view", DIMENSION).sync(table).built()
    refs = [ref for ref, _ in view.scan(("id",))][::-1]
    assert len(refs) > 100
    assert view.records(refs) == [view.records([ref])[0] for ref in refs]
    assert view.records(view.find("id", ["i1", "i199", "none"])) == view.records([refs[-1], refs[0]])


def test_the_cost_of_small_additions_stays_small(opened, table, tmp_path):
    random = np.random.default_rng(9)
    view = opened(tmp_path / "view", DIMENSION)
    table.upsert(rows_of(unit(random, 4000)))
    view = view.sync(table).built()
    (big,) = {segment.state.name for segment in view.segments}
    for start in range(4000, 4040, 10):
        table.upsert(rows_of(unit(random, 10), start))
        view = view.sync(table).built()
        assert big in {segment.state.name for segment in view.segments}
    assert len(view.segments) <= 3


def slow_score(query, item):
    """The mean over the query's vectors of the highest cosine with one of the item's, in plain loops."""
    best = [max(float(np.dot(one, other)) for other in item) for one in query]
    return sum(best) / len(best)


@pytest.mark.parametrize("scores_at_once", [1 << 24, 60])  # 60: a few rows at once
@pytest.mark.parametrize("query_shape", [(5,), (5, 3)])
def test_items_of_several_vectors_equal_a_plain_double_loop(opened, tmp_path, monkeypatch, query_shape, scores_at_once):
    monkeypatch.setattr("mmrag.stores.exact._SCORES_AT_ONCE", scores_at_once)
    monkeypatch.setattr("mmrag.stores.exact._LEAST_ROWS", 1)
    random = np.random.default_rng(13)
    table = Table(tmp_path / "table", DIMENSION, vectors=3, create=True)
    view = opened(tmp_path / "view", DIMENSION, vectors=3)
    truth = {}
    for start in (0, 20, 15):
        vectors = unit(random, 60).reshape(20, 3, DIMENSION)
        table.upsert(rows_of(vectors, start, failing={4}))
        truth |= {f"i{start + n}": vector for n, vector in enumerate(vectors)}
        del truth[f"i{start + 4}"]
        view = view.sync(table).built()
    table.delete(table.stamps()[5:7])
    view = view.sync(table).built()
    kept = {own: ref for ref, own, failure in view.scan(("id", "failure")) if not failure}
    truth = {own: truth[own] for own in kept}
    assert len(view) == len(truth) == 36
    assert all(np.array_equal(view.vector(ref), truth[own]) for own, ref in kept.items())
    queries = unit(random, int(np.prod(query_shape))).reshape(*query_shape, DIMENSION)
    reopened = opened(tmp_path / "view", DIMENSION, vectors=3)
    for one in (view, reopened):
        candidates = one.search(queries, 9)
        for query, scores, ids in zip(queries, candidates.scores, found_ids(one, candidates), strict=True):
            expected = {own: slow_score(query.reshape(-1, DIMENSION), item) for own, item in truth.items()}
            assert ids == sorted(expected, key=lambda own: -expected[own])[:9]
            assert np.allclose(scores, [expected[own] for own in ids], atol=1e-6)


def test_views_of_several_vectors_do_not_open_as_views_of_one(opened, tmp_path):
    table = Table(tmp_path / "table", DIMENSION, vectors=3, create=True)
    table.upsert(rows_of(unit(np.random.default_rng(14), 12).reshape(4, 3, DIMENSION)))
    opened(tmp_path / "view", DIMENSION, vectors=3).sync(table).built()
    with pytest.raises(IndexFormatError, match="damaged"):
        opened(tmp_path / "view", DIMENSION)
    with pytest.raises(IndexFormatError, match="another dimension or number"):
        Table(tmp_path / "table", DIMENSION).count()


def with_facts(random, rows):
    """Give rows random facts; of each, those facts and its vector, by its id."""
    facts = [random_facts(random) for _ in rows]
    rows = [replace(row, metadata=json.dumps(one)) for row, one in zip(rows, facts, strict=True)]
    return rows, {row.id: (row.vector, one) for row, one in zip(rows, facts, strict=True) if row.vector is not None}


def test_filtered_search_equals_a_plain_sort_of_what_passes(opened, table, tmp_path):
    random = np.random.default_rng(15)
    view = opened(tmp_path / "view", DIMENSION)
    truth = {}
    for start, count in ((0, 100), (90, 40), (130, 12), (142, 3)):
        rows, known = with_facts(random, rows_of(unit(random, count), start, failing={1}))
        table.upsert(rows)
        truth |= known
        view = view.sync(table).built()
    victims = [(stamp, own) for _, stamp, own in view.scan(("stamp", "id"))][::7]
    table.delete([stamp for stamp, _ in victims])
    view = opened(tmp_path / "view", DIMENSION).sync(table).built()
    truth = {own: known for own, known in truth.items() if own not in {own for _, own in victims}}
    failed = {own for _, own, failure in view.scan(("id", "failure")) if failure}
    truth = {own: known for own, known in truth.items() if own not in failed}
    assert len(view.segments) > 1
    assert len(view) == len(truth)
    queries = unit(random, 3)
    counts = set()
    for _ in range(300):
        where, worth = random_condition(random)
        passing = {own: vector for own, (vector, facts) in truth.items() if worth(facts) is True}
        counts.add(len(passing))
        candidates = view.search(queries, 9, allowed=masks(view, where))
        assert candidates.scores.shape == (3, min(9, len(passing))), where
        if passing:
            ids, scores = plain_search(passing, queries, 9)
            assert found_ids(view, candidates) == ids, where
            assert np.allclose(candidates.scores, scores, atol=1e-6)
    assert min(counts) == 0
    assert len(counts) > 50
