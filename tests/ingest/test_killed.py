"""The indexer is killed at random moments; the next run goes on, and nothing is lost or there twice."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

import mmrag
from mmrag.errors import IndexNotFoundError

SCRIPT = """
import sys, time
sys.path.insert(0, {root!r})
import mmrag
from mmrag.errors import IndexNotFoundError
from mmrag.ingest.recipe import IndexRecipe, StoreOptions
from mmrag.models import registry
from tests.toy import open_toy
registry.register("toy", open_toy)
import lancedb
print("ready", flush=True)
try:
    index = mmrag.open(".")
except IndexNotFoundError:
    index = mmrag.create(".", model="toy:1")
index.add("images", recipe=IndexRecipe(store=StoreOptions(commit_every=3)), progress=lambda *_: time.sleep(0.004))
print("done", flush=True)
"""


def contents(index):
    rows = index._view.scan(("uri", "id"))
    return {uri: (own, index._view.vector(ref).tobytes()) for ref, uri, own in rows}


@pytest.fixture
def corpus(tmp_path, monkeypatch):
    folder = tmp_path / "images"
    folder.mkdir()
    for n in range(150):
        Image.new("RGB", (6, 6), (n, 255 - n, n * 7 % 256)).save(folder / f"{n:03}.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def kill_and_go_on(corpus, kills, seed):
    """Kill at any moment, from the making of the index on; then let it end."""
    root = str(mmrag.__path__[0]).rsplit("/", 1)[0]
    chance = random.Random(seed)  # noqa: S311
    done = False
    while kills or not done:
        process = subprocess.Popen([sys.executable, "-c", SCRIPT.format(root=root)], stdout=subprocess.PIPE, cwd=corpus)
        if kills:
            process.stdout.readline()  # the imports are over
            time.sleep(chance.uniform(0, 1.5))
            process.send_signal(signal.SIGKILL)
            kills -= 1
        done = b"done" in process.stdout.read()
        process.wait()
        process.stdout.close()
        try:
            reader = mmrag.open(corpus)
        except IndexNotFoundError:
            continue
        assert len(reader.search("red", k=200)) == len(reader)


def check(corpus, kills, seed):
    kill_and_go_on(corpus, kills, seed)
    interrupted = mmrag.open(corpus)
    table_ids = interrupted_table_ids(interrupted)
    assert len(table_ids) == len(set(table_ids)) == 150
    undisturbed = mmrag.create(corpus / "other", model="toy:1")
    undisturbed.add(corpus / "images")
    expected = {uri.rsplit("/", 1)[1]: vector for uri, (_, vector) in contents(undisturbed).items()}
    found = {uri.rsplit("/", 1)[1]: vector for uri, (_, vector) in contents(interrupted).items()}
    assert found.keys() == expected.keys()
    for name, vector in found.items():
        assert np.allclose(np.frombuffer(vector, np.float32), np.frombuffer(expected[name], np.float32), atol=1e-5)


def interrupted_table_ids(index):
    from mmrag.stores.table import Table

    table = Table(index.folder / "table", index.manifest.identity.dimension)
    return table.rows_from(0)["id"].to_pylist()


def test_killed_and_continued(corpus):
    check(corpus, kills=5, seed=0)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(1, 6))
def test_killed_often(corpus, seed):
    check(corpus, kills=20, seed=seed)
