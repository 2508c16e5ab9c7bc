"""Compacting: the same items, in less; whoever reads goes on, and nothing that kills it does harm."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import mmrag
from mmrag.stores.rows import Row
from mmrag.stores.table import Table

WORKER = """
import mmrag
from mmrag.models import registry
from tests.toy import open_toy
registry.register("toy", open_toy)
import lancedb
index = mmrag.open(".")
print("ready", flush=True)
print(index.compact(), flush=True)
"""


def filled(count=400):
    """An index that many runs have added to and taken from."""
    index = mmrag.create(".", model="toy:1")
    table = Table(index.folder / "table", 4)
    vectors = np.random.default_rng(0).normal(size=(count, 4)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    for start, end in ((0, count // 2), (count // 2, count - 30), (count - 30, count)):
        rows = [
            Row(id=f"i{n}", uri=f"{n}.jpg", modality="text", text="red", vector=vectors[n]) for n in range(start, end)
        ]
        table.upsert(rows)
        index.refresh()
    index.remove([f"i{n}" for n in range(0, count, 3)])
    return index


def found(index):
    return [(hit.item.id, hit.score) for hit in index.search("red", k=1000)]


@pytest.fixture
def index(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return filled()


def test_one_segment_without_deleted_rows_is_left_and_the_same_is_found(index):
    before, expected = index.versions(), found(index)
    other = mmrag.open(".")
    done = index.compact()
    assert (done.before.rows - done.before.deleted, done.after.deleted) == (done.after.rows, 0)
    assert done.before.segments > done.after.segments == 1
    assert done.after.rows == len(index) == len(expected) == 266
    assert found(index) == found(mmrag.open(".")) == expected
    assert found(other) == expected  # opened before
    assert index.versions() == before
    again = index.compact()
    assert again.before.segments == again.after.segments == 1
    assert index.check().wrong == index.check().mended == ()


def test_earlier_versions_can_still_be_restored(index):
    expected = found(index)
    (kept,) = [one.number for one in index.versions()]
    index.remove("i1")
    index.compact()
    assert len(found(index)) == 265
    index.restore(kept)
    assert found(index) == expected


def test_a_killed_compaction_leaves_one_state_or_the_other(index):
    expected = found(index)
    for after in (0, 0.03, 0.1):
        worker = subprocess.Popen([sys.executable, "-c", WORKER], stdout=subprocess.PIPE, text=True)
        assert worker.stdout.readline() == "ready\n"
        time.sleep(after)
        worker.send_signal(signal.SIGKILL)
        worker.communicate(timeout=60)
        reopened = mmrag.open(".")
        assert found(reopened) == expected
    reopened.compact()
    assert found(reopened) == expected
    assert not reopened._view.leftovers()
