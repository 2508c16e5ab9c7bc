"""Segments are written block by block, and a view follows its table without reading all of it."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest

from mmrag.stores.exact import ExactView
from mmrag.stores.facts import as_said, facts_of, joint_schema
from mmrag.stores.rows import Row
from mmrag.stores.table import Table

DIMENSION = 4


def rows_of(numbers, **about):
    vectors = np.random.default_rng(len(numbers)).normal(size=(len(numbers), DIMENSION)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return [
        Row(id=f"i{n}", uri=f"{n}.jpg", modality="image", metadata=json.dumps({"n": n}), vector=vector, **about)
        for n, vector in zip(numbers, vectors, strict=True)
    ]


@pytest.fixture
def table(tmp_path):
    return Table(tmp_path / "table", DIMENSION, create=True)


METADATA = {
    "whole and broken numbers": [[{"a": 1}], [{"a": 2.5}]],
    "truths": [[{"a": True}], [{"a": None}], [{"a": False}]],
    "numbers and words": [[{"a": 1}, {"a": 2}], [{"a": "two"}]],
    "truths and numbers": [[{"a": True}], [{"a": 3}]],
    "lists and words": [[{"a": ["x", "y"]}], [{"a": "z"}, {}]],
    "lists and numbers": [[{"a": ["x"]}], [{"a": 1}]],
    "other names": [[{"a": 1, "c": {"d": 2}}], [{"b": "x"}, {}], []],
    "dates": [[{"taken_at": "2023-06-01T12:30:00"}], [{"n": 1}]],
}


@pytest.mark.parametrize("name", METADATA)
def test_facts_that_are_joined_are_those_of_all_rows(name):
    given = [[json.dumps(one) for one in part] for part in METADATA[name]]
    metadata = [pa.chunked_array([part], pa.string()) for part in given]
    parts = [facts_of(one) for one in metadata]
    schema = joint_schema(parts)
    joined = pa.concat_tables([as_said(part, about, schema) for part, about in zip(parts, metadata, strict=True)])
    assert joined.equals(facts_of(pa.array([one for part in given for one in part], pa.string())))


def test_block_by_block_is_as_in_one_go(table, tmp_path, monkeypatch):
    views = {}
    for size in (7, 1 << 14):
        monkeypatch.setattr("mmrag.stores.segment._ROWS_AT_ONCE", size)
        views[size] = ExactView.open(tmp_path / f"view-{size}", DIMENSION)
    for start in range(0, 100, 20):
        table.upsert(rows_of(range(start, start + 25)))
        table.delete(table.stamps()[3::9])
        for size, view in views.items():
            monkeypatch.setattr("mmrag.stores.segment._ROWS_AT_ONCE", size)
            views[size] = view.sync(table)
    small, large = (list(view.segments) for view in views.values())
    assert len(small[0].columns["id"].chunks) > len(large[0].columns["id"].chunks)
    for one, other in zip(small, large, strict=True):
        assert one.columns.equals(other.columns)
        assert one.facts.equals(other.facts)
        assert np.array_equal(one.vectors, other.vectors)


def test_what_the_table_has_seen_is_followed_without_reading_all_stamps(table, tmp_path, monkeypatch):
    monkeypatch.setattr("mmrag.stores.table._LEAST_INDEXED", 10)
    view = ExactView.open(tmp_path / "view", DIMENSION).sync(table)
    kept = set()
    for step in range(8):
        table.upsert(rows_of(range(10 * step, 10 * step + 15)))  # five of them replace others
        kept |= {f"i{n}" for n in range(10 * step, 10 * step + 15)}
        listed = table.rows_from(0).select(["stamp", "id"]).to_pylist()
        gone = [(one["stamp"], one["id"]) for one in listed[:2]]
        table.delete([stamp for stamp, _ in gone])
        kept -= {own for _, own in gone}
        if step % 3 == 2:
            table.compact()
        with monkeypatch.context() as patched:
            patched.setattr(Table, "stamps", lambda self: pytest.fail("all stamps were read"))
            view = view.sync(table)
        assert {own for _, own in view.scan(("id",))} == kept
        assert len(view) == len(kept) == table.count()
    assert {tuple(one.columns) for one in table._table.list_indices()} == {("id",), ("stamp",)}


def test_what_others_have_done_to_the_table_is_not_missed(table, tmp_path):
    view = ExactView.open(tmp_path / "view", DIMENSION).sync(table)
    table.upsert(rows_of(range(10)))
    view = view.sync(table)
    other = Table(table.folder, DIMENSION)
    other.delete(other.stamps()[:3])
    other.upsert(rows_of([20, 21, 5]))
    table._table.checkout_latest()
    table.upsert(rows_of([30]))
    view = view.sync(table)
    assert {own for _, own in view.scan(("id",))} == {"i3", "i4", "i5", "i6", "i7", "i8", "i9", "i20", "i21", "i30"}


def test_a_view_made_anew_is_made_some_rows_at_once(table, tmp_path, monkeypatch):
    table.upsert(rows_of(range(100)))
    table.delete(table.stamps()[10:40:3])
    monkeypatch.setattr("mmrag.stores.view._BYTES_AT_ONCE", 1)
    monkeypatch.setattr("mmrag.stores.view._LEAST_AT_ONCE", 9)
    sizes = []
    read = Table.rows_between
    monkeypatch.setattr(Table, "rows_between", lambda *given: sizes.append(len(read(*given))) or read(*given))
    view = ExactView.open(tmp_path / "view", DIMENSION).sync(table)
    assert len(view) == 90
    assert max(sizes) == 9
    assert [stamp for _, stamp in view.scan(("stamp",))] == table.stamps().tolist()
    assert not view.leftovers()
