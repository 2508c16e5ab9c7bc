from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

import mmrag
from mmrag.search import near
from mmrag.search.near import LEAST_COSINE, MOST_BITS, SURE_BITS, near_pairs
from mmrag.search.pipeline import load_pipeline
from mmrag.search.recall import find
from mmrag.stores.exact import ExactView
from mmrag.stores.rows import Row
from mmrag.stores.table import Table


def flipped(fingerprint, count, seed=0):
    bits = np.random.default_rng(seed).choice(64, count, replace=False)
    return np.int64(fingerprint) ^ np.bitwise_or.reduce(np.uint64(1) << bits.astype(np.uint64)).view(np.int64)


def view_of(folder, rows):
    """A view of rows given as (id, angle in degrees, fingerprint)."""
    table = Table(folder / "table", 2, create=True)
    angles = np.radians([angle for _, angle, _ in rows])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    table.upsert(
        [
            Row(id=name, uri=name, modality="image", content_hash=f"h{name}", fingerprint=print_, vector=vector)
            for (name, _, print_), vector in zip(rows, vectors, strict=True)
        ]
    )
    return ExactView.open(folder / "view", 2).sync(table)


ONE = 0x0123456789ABCDEF
QUERY = np.array([[1, 0]], np.float32)


def shown(view, k, **options):
    (found,) = find(view, QUERY, k=k, fold_near=True, **options)
    return [(hit.item.uri, *hit.near_duplicates) for hit in (one.hit() for one in found)]


def test_bits_decide_and_where_they_are_in_doubt_the_cosine_does(tmp_path):
    apart = np.degrees(np.arccos(LEAST_COSINE))
    rows = [
        ("a", 0, ONE),
        ("sure", 60, int(flipped(ONE, SURE_BITS))),
        ("similar", apart - 1, int(flipped(ONE, MOST_BITS, 1))),
        ("other", apart + 1, int(flipped(ONE, MOST_BITS, 2))),
        ("far", 1, int(flipped(ONE, MOST_BITS + 1, 3))),
    ]
    assert shown(view_of(tmp_path, rows), 9) == [("a", "similar", "sure"), ("far",), ("other",)]


def test_what_is_plain_or_not_known_folds_into_nothing(tmp_path):
    rows = [("a", 0, 0), ("b", 1, 0), ("c", 2, None), ("d", 3, None), ("e", 4, 1)]
    assert shown(view_of(tmp_path, rows), 9) == [("a",), ("b",), ("c",), ("d",), ("e",)]


def test_folded_ones_make_room_for_others(tmp_path):
    many = [(f"a{n:02}", n / 10, int(flipped(ONE, 2, n))) for n in range(40)]
    rows = [*many, ("b", 30, ~ONE), ("c", 40, 0x7777), ("d", 50, -0x33333333)]
    view = view_of(tmp_path, rows)
    assert [hit[0] for hit in shown(view, 3)] == ["a00", "b", "c"]
    assert len(shown(view, 3)[0]) == 40
    assert [hit[0] for hit in shown(view, 3, min_score=0.8)] == ["a00", "b"]


def test_pairs_are_those_that_comparing_all_with_all_finds():
    rng = np.random.default_rng(0)
    own = rng.integers(-(2**63), 2**63 - 1, 3000, dtype=np.int64)
    planted = [flipped(own[n], 1 + n % 10, n) for n in range(300)]
    fingerprints = np.unique(np.concatenate([own, planted]))
    expected = set()
    for n, one in enumerate(fingerprints):
        bits = np.bitwise_count((fingerprints[:n] ^ one).view(np.uint64))
        expected |= {(int(m), n, int(bits[m])) for m in np.flatnonzero(bits <= MOST_BITS)}
    found = {
        (*sorted(pair), int(count))
        for pairs, bits in near_pairs(fingerprints)
        for pair, count in zip(pairs.tolist(), bits, strict=True)
    }
    assert found == expected
    assert len(expected) >= 240


def test_fingerprints_that_crowd_are_compared_with_some_of_the_others_only(monkeypatch):
    monkeypatch.setattr(near, "_MOST_NEIGHBOURS", 4)
    crowd = np.arange(2**10, dtype=np.int64) << np.int64(2)
    counted = sum(len(pairs) for pairs, _ in near_pairs(crowd))
    assert 0 < counted <= 3 * 4 * 254 * len(crowd)


@pytest.fixture
def index(tmp_path, photographs, monkeypatch):
    """Photographs: a cat also as a smaller JPEG and as a copy, coffee as a copy; plain squares; and texts."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p").mkdir()
    for name in ("chelsea.png", "coffee.png", "astronaut.png"):
        Image.open(photographs / name).convert("RGB").save(f"p/{name}")
    cat = Image.open("p/chelsea.png")
    cat.resize((cat.width // 2, cat.height // 2)).save("p/small.jpg", quality=80)
    for name in ("chelsea", "coffee"):
        (tmp_path / f"p/{name} copy.png").write_bytes((tmp_path / f"p/{name}.png").read_bytes())
    for name in ("red", "green"):
        Image.new("RGB", (50, 50), name).save(f"p/{name}.png")
    index = mmrag.create(tmp_path, model="toy:1")
    index.add("p")
    said = "It is allowed to land on the northern shore between May and September, unless the red flag is shown there."
    texts = [said, said.replace("northern", "southern"), "Something else."]
    index.add([mmrag.Item(uri=f"t{n}", modality="text", text=text) for n, text in enumerate(texts)])
    return index


def groups(index, kind=None):
    return [[copy.item.uri for copy in group] for group in index.duplicates(kind).groups]


CATS = ["p/chelsea.png", "p/chelsea copy.png", "p/small.jpg"]


def test_duplicates_of_a_corpus_are_grouped_and_the_largest_comes_first(index):
    assert groups(index) == [CATS, ["p/coffee.png", "p/coffee copy.png"], ["t0", "t1"]]
    assert groups(index, "near") == [CATS, ["t0", "t1"]]
    assert groups(index, "exact") == [CATS[:2], ["p/coffee.png", "p/coffee copy.png"]]
    first, second, small = index.duplicates().groups[0]
    assert (first.content == second.content, first.pixels, small.pixels) == (True, 451 * 300, 225 * 150)
    assert first.size == (index.home / "p/chelsea.png").stat().st_size


def test_a_search_folds_them_unless_it_is_asked_not_to(index):
    hits = index.search("red", k=50)
    (cat,) = [hit for hit in hits if hit.item.uri in CATS]
    assert {cat.item.uri, *cat.duplicates, *cat.near_duplicates} == set(CATS)
    assert len(hits) == 7  # cat, coffee, astronaut, red, green, and two texts
    apart = index.search("red", k=50, pipeline=load_pipeline("default").changed(dups=True))
    assert len(apart) == 11
    assert not any(hit.duplicates or hit.near_duplicates for hit in apart)


def test_hybrid_searches_fold_them_too(index):
    hits = index.search("northern shore", pipeline="hybrid", k=50)
    assert (hits[0].item.uri, hits[0].near_duplicates) == ("t0", ("t1",))
    assert len(hits) == 7


def test_copies_and_moved_files_have_the_fingerprint_of_what_they_copy(index):
    (index.home / "p/astronaut.png").rename(index.home / "p/moved.png")
    index.update()
    found = dict(row[1:] for row in index._view.scan(("uri", "fingerprint")))
    assert found["p/chelsea copy.png"] == found["p/chelsea.png"] != 0
    assert found["p/moved.png"] not in (0, None)
    assert found["p/red.png"] == 0
    assert index.duplicates().unknown == 0


def test_rows_without_a_fingerprint_are_counted_and_get_it_when_they_are_read_again(index):
    names = [field.name for field in dataclasses.fields(Row) if field.name != "vector"]
    view, old = index._view, []
    for ref, *values in view.scan(names):
        row = Row(**dict(zip(names, values, strict=True)), vector=view.vector(ref))
        if row.modality == "image":
            row = dataclasses.replace(row, fingerprint=None, beside=None)
        old.append(row)
    index._serving.open_table().upsert(old)
    index.refresh()
    assert index.duplicates().unknown == 8
    assert groups(index, "near") == [["t0", "t1"]]
    before = index.encoder.embedded
    assert index.update().unchanged == 8
    assert index.encoder.embedded == before
    assert (index.duplicates().unknown, groups(index, "near")) == (0, [CATS, ["t0", "t1"]])


def test_an_empty_index_has_none(tmp_path):
    assert mmrag.create(tmp_path, model="toy:1").duplicates().groups == ()
    assert json.dumps(dataclasses.asdict(mmrag.open(tmp_path).duplicates())) == '{"groups": [], "unknown": 0}'
