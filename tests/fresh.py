"""An index that was made in many steps, beside one made from nothing in the same place."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np

import mmrag
from mmrag.stores.table import Table


def contents(index):
    """What it holds, by uri: id, content hash and failure, and the vector."""
    rows = index._view.scan(("uri", "id", "content_hash", "failure"))
    return {row[1]: (row[2:], index._view.vector(row[0]) if row[4] is None else np.empty(0)) for row in rows}


def assert_like_new(home: Path, *sources, model="toy:1", exclude=()):
    """Same ids, contents and vectors, nothing twice, sound, and a further run finds nothing to do."""
    index = mmrag.open(home)
    found = contents(index)
    identity = index.manifest.identity
    ids = (
        Table(index.folder / index.manifest.store / "table", identity.dimension, vectors=identity.vectors)
        .column("id")
        .to_pylist()
    )
    assert len(ids) == len(set(ids)) == len(found)
    (home / ".mmrag").rename(home / ".kept")
    new = mmrag.create(home, model=model)
    new.add([home / source for source in sources], exclude=exclude)
    expected = contents(new)
    shutil.rmtree(home / ".mmrag")
    os.replace(home / ".kept", home / ".mmrag")
    assert found.keys() == expected.keys()
    for uri, (about, vector) in found.items():
        assert about == expected[uri][0]
        assert np.allclose(vector, expected[uri][1], atol=1e-5)
    index = mmrag.open(home)
    changes = index.update()
    assert (changes.added, changes.updated, changes.moved, changes.removed, changes.failed) == (0, 0, 0, 0, ()), changes
    assert not index.check().wrong
