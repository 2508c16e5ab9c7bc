"""What is peculiar to the view of FAISS; what it shares with others is in tests/contracts/test_views.py."""

from __future__ import annotations

import logging
import sys

import numpy as np
import pytest

from benchmarks.clouds import Clouds
from mmrag.errors import IndexFormatError, MissingExtraError
from mmrag.search.tune import recall_of
from mmrag.stores import faiss as faiss_view
from mmrag.stores.exact import ExactView
from mmrag.stores.faiss import FaissView
from mmrag.stores.rows import Row
from mmrag.stores.table import Table
from mmrag.stores.view_settings import ViewSettings

CLOUDS = Clouds(dimension=64, rank=16, clusters=40)
ROWS = 3000


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    table = Table(tmp_path_factory.mktemp("table"), CLOUDS.dimension, create=True)
    (vectors,) = CLOUDS.images(ROWS)
    table.upsert([Row(id=f"i{n}", uri=f"{n}.jpg", modality="image", vector=one) for n, one in enumerate(vectors)])
    return table


@pytest.fixture(scope="module")
def oracle(table, tmp_path_factory):
    return ExactView.open(tmp_path_factory.mktemp("exact"), CLOUDS.dimension).sync(table)


def open_view(folder, factory, **settings):
    chosen = ViewSettings(kind="faiss", factory=factory, **{"build_at": 100, **settings})
    return FaissView.open(folder, CLOUDS.dimension, settings=chosen)


@pytest.fixture
def built(table, tmp_path):
    """A function that builds a view of the table."""
    return lambda factory, **settings: open_view(tmp_path / "view", factory, **settings).sync(table).built()


@pytest.mark.parametrize(
    ("factory", "effort"),
    [
        ("HNSW16,SQ8", {"ef_search": 48}),
        ("IVF32,PQ{parts}x4fsr", {"nprobe": 10, "rescore_factor": 16.0}),
        ("IVF32,RaBitQfs", {"nprobe": 10, "rescore_factor": 16.0}),
        ("RaBitQ", {"rescore_factor": 24.0}),
        ("SQfp16", {"rescore": ""}),
    ],
)
def test_most_of_the_best_are_found_and_scores_are_cosines(built, oracle, factory, effort):
    view, queries = built(factory, **effort), CLOUDS.queries(100)
    truth, found = oracle.search(queries, 10), view.search(queries, 10)
    assert recall_of(found.refs, truth.refs) >= 0.9
    (segment,) = view.segments
    rows = found.refs & ((1 << 40) - 1)
    cosines = np.einsum("qd,qkd->qk", queries, segment.vectors[rows])
    assert np.allclose(found.scores, cosines, atol=2e-3 if factory == "SQfp16" else 1e-6)
    assert (np.diff(found.scores, axis=1) <= 0).all()


def test_looking_harder_finds_more(built, oracle):
    view, queries = built("IVF32,PQ8x4fs", nprobe=1, rescore_factor=1.0), CLOUDS.queries(100)
    truth = oracle.search(queries, 10).refs
    harder = ViewSettings(kind="faiss", factory="IVF32,PQ8x4fs", nprobe=32, rescore_factor=40.0)
    little, much = (recall_of(one.search(queries, 10).refs, truth) for one in (view, view.looking(harder)))
    assert little < 0.8
    assert much > 0.95


@pytest.mark.parametrize(("rescore", "tolerance"), [("fp16", 1e-3), ("int8", 1e-2)])
def test_candidates_may_be_compared_by_a_smaller_copy(built, oracle, rescore, tolerance):
    view, queries = built("Flat", rescore=rescore), CLOUDS.queries(150)
    found, truth = view.search(queries, 10), oracle.search(queries, 10)
    assert np.allclose(found.scores, truth.scores, atol=tolerance)
    assert not np.array_equal(found.scores, truth.scores)
    assert len(list(view.folder.glob(f"*.{rescore}"))) == 1


def test_what_is_not_allowed_is_never_found_and_the_rest_as_by_an_exact_search(built, oracle):
    view, queries = built("IVF32,SQ8", nprobe=32, rescore_factor=8.0), CLOUDS.queries(20)
    (mask,) = [np.arange(ROWS) % 10 == 3]
    found, truth = (one.search(queries, 10, allowed=[mask]) for one in (view, oracle))
    assert np.array_equal(found.refs, truth.refs)
    few = np.arange(ROWS) < 50  # fewer than are worth an index
    found, truth = (one.search(queries, 60, allowed=[few]) for one in (view, oracle))
    assert found.refs.shape == (20, 50)
    assert np.array_equal(found.refs, truth.refs)


@pytest.mark.parametrize(("factory", "enough"), [("HNSW16,SQ8", 0.85), ("IVF64,SQ8", 0.95)])
def test_a_filtered_search_looks_harder(built, oracle, factory, enough):
    view, queries = built(factory, nprobe=2, ef_search=16, rescore_factor=1.0), CLOUDS.queries(100)
    mask = np.arange(ROWS) % 10 == 3
    truth = oracle.search(queries, 10, allowed=[mask]).refs
    assert recall_of(view.search(queries, 10, allowed=[mask]).refs, truth) > enough


def test_lists_that_hold_too_few_are_made_up_for(built, oracle):
    view, queries = built("IVF32,Flat", nprobe=1), CLOUDS.queries(5)
    found = view.search(queries, 1500)
    assert np.array_equal(found.refs, oracle.search(queries, 1500).refs)


def test_an_index_is_built_once_and_of_large_segments_only(table, tmp_path):
    view = open_view(tmp_path / "view", "Flat", build_at=ROWS + 1).sync(table)
    assert view.built() is view
    assert not list(tmp_path.rglob("*.faiss"))
    view = open_view(tmp_path / "view", "Flat")
    assert view.built().built() is not view
    (path,) = tmp_path.rglob("*.faiss")
    written = path.stat().st_mtime_ns
    reopened = open_view(tmp_path / "view", "Flat")
    assert reopened.built() is reopened
    assert path.stat().st_mtime_ns == written
    assert reopened.leftovers() == []


def test_damage_is_told_before_faiss_reads_it(built):
    view = built("SQ8")
    (path,) = view.folder.glob("*.faiss")
    data = bytearray(path.read_bytes())
    data[40] ^= 1
    path.write_bytes(data)
    with pytest.raises(IndexFormatError, match=r"\.faiss is not what was built\); mmrag check mends it"):
        view.search(CLOUDS.queries(1), 3)


def test_a_snapshot_whose_index_was_replaced_compares_all(built, oracle):
    view, queries = built("HNSW16"), CLOUDS.queries(5)
    (path,) = view.folder.glob("*.faiss")
    path.unlink()
    assert np.array_equal(view.search(queries, 10).refs, oracle.search(queries, 10).refs)


def test_without_faiss_all_is_compared_with_one_warning(built, oracle, tmp_path, monkeypatch, caplog):
    view, queries = built("HNSW16"), CLOUDS.queries(5)
    for cached in (faiss_view.load_faiss, faiss_view._is_installed):
        cached.cache_clear()
    monkeypatch.setitem(sys.modules, "faiss", None)
    try:
        with caplog.at_level(logging.WARNING, logger="mmrag"):
            for _ in range(2):
                assert np.array_equal(view.search(queries, 10).refs, oracle.search(queries, 10).refs)
        assert [record.message.partition(" Until")[0] for record in caplog.records] == [
            "faiss is not installed, and this needs it. Install it: pip install 'mmrag[faiss]'."
        ]
        with pytest.raises(MissingExtraError):
            FaissView.check(view.settings, 64)
    finally:
        for cached in (faiss_view.load_faiss, faiss_view._is_installed):
            cached.cache_clear()
