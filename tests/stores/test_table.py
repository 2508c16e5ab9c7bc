from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import lancedb
import numpy as np
import pytest

from mmrag.errors import IndexFormatError
from mmrag.stores.rows import Row, to_arrow
from mmrag.stores.table import Table, newest_version

DIMENSION = 4


def row(number):
    return Row(id=f"i{number}", uri=f"{number}.jpg", modality="image", vector=np.eye(DIMENSION, dtype=np.float32)[0])


@pytest.fixture
def table(tmp_path):
    return Table(tmp_path / "table", DIMENSION, create=True)


def by_lancedb(table):
    return lancedb.connect(table.folder).open_table("items").version


def test_the_version_is_read_from_names_as_lancedb_tells_it(table):
    dataset = table.folder / "items.lance"
    assert newest_version(dataset) == by_lancedb(table) == 1
    for step in range(12):
        table.upsert([row(step), row(step + 1)])
        if step % 4 == 2:
            table.delete(table.stamps()[:1])
        if step % 4 == 3:
            table.compact()
        if step % 5 == 4:
            table._table.restore(step)
        assert newest_version(dataset) == by_lancedb(table) == table.version == Table(table.folder, DIMENSION).version


def test_both_ways_of_naming_and_names_that_say_nothing(tmp_path):
    versions = tmp_path / "_versions"
    assert newest_version(tmp_path) is None
    versions.mkdir()
    (versions / "latest_version_hint.json").touch()
    assert newest_version(tmp_path) is None
    for number in (2, 10, 9):
        (versions / f"{number}.manifest").touch()
    assert newest_version(tmp_path) == 10
    (versions / f"{2**64 - 1 - 11}.manifest").touch()
    assert newest_version(tmp_path) is None
    for path in versions.glob("?.manifest"):
        path.unlink()
    (versions / "10.manifest").unlink()
    assert newest_version(tmp_path) == 11
    (versions / "d123.manifest").touch()
    assert newest_version(tmp_path) is None


def test_names_that_say_nothing_are_left_to_lancedb(table, monkeypatch):
    table.upsert([row(1)])
    monkeypatch.setattr("mmrag.stores.table.newest_version", lambda dataset: None)
    assert Table(table.folder, DIMENSION).version == 2


def test_no_table_is_told(tmp_path):
    with pytest.raises(IndexFormatError, match="no readable table"):
        Table(tmp_path, DIMENSION).version  # noqa: B018


def test_a_stamp_is_never_used_twice(table):
    table._table.add(to_arrow([row(n) for n in range(3)], 1, (DIMENSION,)))  # as older indexes were stamped
    seen = {}
    versions = [table.version]
    for step in range(1, 30):
        if step % 7 == 6:
            table._table.restore(versions[step // 3])
        elif step % 5 == 4:
            table.delete(table.stamps()[:2])
        else:
            table.upsert([row(100 * step + n) for n in range(step % 4 + 1)] + [row(step % 3)])
        versions.append(table.version)
        rows = table.rows_from(0)
        for stamp, own in zip(rows["stamp"].to_pylist(), rows["id"].to_pylist(), strict=True):
            assert seen.setdefault(stamp, own) == own
    assert len(seen) > 60


def rows_at(table, version):
    past = lancedb.connect(table.folder).open_table("items")
    past.checkout(version)
    return sorted(past.to_arrow()["id"].to_pylist())


@pytest.fixture
def prunes_at_once(monkeypatch):
    monkeypatch.setattr("mmrag.stores.table._RETENTION", timedelta(0))
    monkeypatch.setattr("mmrag.stores.table._MARGIN", timedelta(milliseconds=250))


@pytest.mark.usefixtures("prunes_at_once")
def test_compaction_never_prunes_a_version_that_is_kept(table):
    expected = {}
    for step in range(12):
        table.upsert([row(step), row(step + 1)])
        if step % 2:
            table.keep(3)
            expected[table.version] = rows_at(table, table.version)
        time.sleep(0.1)
    time.sleep(0.4)
    assert table.kept() == sorted(expected)[-3:]
    table.compact()
    assert {version: rows_at(table, version) for version in table.kept()} == dict(sorted(expected.items())[-3:])
    left = {one["version"] for one in table._table.list_versions()}
    assert min(left) > sorted(expected)[1]
    table.compact()
    assert {version: rows_at(table, version) for version in table.kept()} == dict(sorted(expected.items())[-3:])


def test_what_others_may_be_reading_is_not_pruned(table):
    for step in range(5):
        table.upsert([row(step)])
    table.compact()
    assert {1, 2, 3, 4, 5, 6} <= {one["version"] for one in table._table.list_versions()}


@pytest.mark.usefixtures("prunes_at_once")
def test_files_of_pruned_versions_are_gone(table):
    for step in range(1, 20):
        table.upsert([row(step), row(0)])
    for step in range(2):  # the version that is kept holds on to its own files, and to those of nobody else
        table.keep(1)
        time.sleep(0.4)
        table.compact()
        time.sleep(0.4)
        table.upsert([row(step)])
    table.keep(1)
    time.sleep(0.4)
    table.compact()
    assert len(list((table.folder / "items.lance" / "data").iterdir())) <= 4
    assert len(table.stamps()) == 20


def test_versions_tell_what_they_hold(table):
    table.upsert([row(1), row(2), Row(id="bad", uri="bad.jpg", modality="image", failure="broken")])
    table.keep(10)
    table.delete(table.stamps()[:1])
    table.keep(10)
    before, after = table.versions()
    assert [(one.number, one.items, one.failed) for one in (before, after)] == [(2, 2, 1), (3, 1, 1)]
    assert before.created <= after.created <= datetime.now(UTC)
    assert datetime.now(UTC) - before.created < timedelta(minutes=1)


def test_rows_are_rewritten_a_few_times_and_not_with_every_commit(table):
    joined = 0
    for step in range(140):
        table.upsert([row(step)])
        if table.scattered():
            table.compact()
            joined += 1
    assert joined == 3  # at 33 fragments, at 66 rows and at 132


def test_all_rows_are_read_some_at_once(table):
    table.upsert([row(n) for n in range(10_000)])
    sizes = [batch.num_rows for batch in table.batches()]
    assert sum(sizes) == 10_000
    assert max(sizes) < 10_000
