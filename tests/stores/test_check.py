"""Damage of every kind: a search tells it, a check mends what is derived and names what is not."""

from __future__ import annotations

import json
import os
import re

import numpy as np
import pytest

import mmrag
from mmrag.errors import IndexFormatError
from mmrag.stores.check import _unsound
from mmrag.stores.codes import Codes
from mmrag.stores.rows import Row, to_arrow
from mmrag.stores.table import Table


@pytest.fixture
def index(colours):
    (colours / "bad.png").write_text("hello")
    index = mmrag.create(".", model="toy:1")
    index.add("images")
    return index


def the(index, suffix):
    (path,) = (index.folder / "views" / "exact").glob(f"*{suffix}")
    return path


def change(path, data):
    """Write a file anew: one that is mapped into memory stays what it was."""
    aside = path.with_name("aside")
    aside.write_bytes(data)
    os.replace(aside, path)


def flip(path, at, bits):
    data = bytearray(path.read_bytes())
    data[at] ^= bits
    change(path, bytes(data))


def table_of(index):
    return Table(index.folder / "table", index.manifest.identity.dimension)


def first(query):
    return mmrag.open(".").search(query, k=1)[0].item.uri


def truncate_vectors(index):
    path = the(index, ".npy")
    change(path, path.read_bytes()[:-4])


def garble_text(index):
    path = the(index, ".arrow")
    flip(path, path.read_bytes().index(b"images/red.png"), 0x80)


def garble_columns(index):
    path = the(index, ".arrow")
    flip(path, path.read_bytes().rindex(b"modality"), 0x20)


def cut_columns(index):
    path = the(index, ".arrow")
    change(path, path.read_bytes()[:-20])


def garble_state(index):
    change(the(index, "view.json"), b"hello")


def lie_about_deletions(index):
    path = the(index, "view.json")
    np.save(path.with_name("x.deleted.npy"), np.array([99]))
    state = json.loads(path.read_text())
    state["segments"][0]["deletions"] = "x.deleted.npy"
    change(path, json.dumps(state).encode())


def lose_vectors(index):
    the(index, ".npy").unlink()


def lose_columns(index):
    the(index, ".arrow").unlink()


@pytest.mark.parametrize(
    "damage",
    [
        *(truncate_vectors, garble_text, garble_columns, cut_columns),
        *(garble_state, lie_about_deletions, lose_vectors, lose_columns),
    ],
)
def test_a_damaged_view_is_told_and_mended(index, damage):
    damage(index)
    with pytest.raises(IndexFormatError, match=r"^the view in .* is damaged \(.*\); mmrag check mends it$"):
        first("red")
    report = mmrag.open(".").check()
    assert (report.items, report.failed, report.wrong) == (6, 1, ())
    assert "made the view again from the table: it was damaged" in report.mended[0]
    assert first("red") == "images/red.png"
    assert mmrag.open(".").check().mended == ()


def change_a_letter(index):
    path = the(index, ".arrow")
    flip(path, path.read_bytes().index(b"images/red.png"), 0x01)


def change_a_bit_of_a_vector(index):
    flip(the(index, ".npy"), -5, 0x01)


def hide_a_row(index):
    path = the(index, "view.json")
    np.save(path.with_name("x.deleted.npy"), np.array([0]))
    state = json.loads(path.read_text())
    state["segments"][0]["deletions"] = "x.deleted.npy"
    change(path, json.dumps(state).encode())


def show_a_row_twice(index):
    path = the(index, "view.json")
    state = json.loads(path.read_text())
    state["segments"] *= 2
    change(path, json.dumps(state).encode())


@pytest.mark.parametrize("damage", [change_a_letter, change_a_bit_of_a_vector, hide_a_row, show_a_row_twice])
def test_a_view_that_says_something_else_is_mended(index, damage):
    before = {query: mmrag.open(".").search(query, k=7) for query in ("red", "blue", "white")}
    damage(index)
    (mended,) = mmrag.open(".").check().mended
    assert mended.startswith("made the view again from the table: ")
    assert {query: mmrag.open(".").search(query, k=7) for query in before} == before


def row_of_red(index):
    (segment,) = index._view.segments
    return segment.columns["uri"].to_pylist().index("images/red.png")


@pytest.fixture
def coded(monkeypatch, index):
    """The index, with a copy of its vectors in bytes."""
    monkeypatch.setattr("mmrag.stores.segment.LEAST_CODED", 3)
    index.compact()
    return index


def turn_weights(path, codes, row):
    flip(path, path.read_bytes().index(codes.weights.tobytes()) + 3, 0x80)


def turn_factors(path, codes, row):
    flip(path, path.read_bytes().index(codes.factors.tobytes()) + 4 * row + 3, 0x80)


def turn_errors(path, codes, row):
    flip(path, path.read_bytes().index(codes.errors.tobytes()) + 4 * row + 3, 0x80)


def turn_codes(path, codes, row):
    flip(path, path.read_bytes().index(codes.codes.tobytes()) + 4 * row, 0x01)


@pytest.mark.parametrize("turn", [turn_weights, turn_factors, turn_errors, turn_codes])
def test_vectors_in_bytes_that_say_something_else_are_mended(coded, turn):
    before = mmrag.open(".").search("red", k=1)
    path = the(coded, ".i8")
    turn(path, Codes.open(path), row_of_red(coded))
    if turn is turn_factors:
        assert mmrag.open(".").search("red", k=1) != before
    (mended,) = mmrag.open(".").check().mended
    assert mended == f"made the view again from the table: {path.name} differed from the vectors it is made of"
    assert mmrag.open(".").search("red", k=1) == before
    assert mmrag.open(".").check().mended == ()


def test_facts_that_say_something_else_are_mended(index):
    assert mmrag.open(".").count("width = 32") == 6
    path = the(index, ".facts")
    flip(path, path.read_bytes().index(np.array([32, 32], "<i8").tobytes()), 0x01)
    assert mmrag.open(".").count("width = 32") == 5
    (mended,) = mmrag.open(".").check().mended
    assert mended == f"made the view again from the table: {path.name} differed from the metadata it is made of"
    assert mmrag.open(".").count("width = 32") == 6
    assert mmrag.open(".").check().mended == ()


@pytest.mark.parametrize("rescore", ["fp16", "int8"])
def test_a_smaller_copy_that_says_something_else_is_mended(index, rescore):
    pytest.importorskip("faiss")
    settings = f'[view]\nkind = "faiss"\nfactory = "Flat"\nrescore = "{rescore}"\nbuild_at = 3\n'
    index.folder.with_name("mine.toml").write_text(settings)
    index.change_view(str(index.folder.with_name("mine.toml")))
    before = mmrag.open(".").search("red", k=1)
    (path,) = index.folder.glob(f"views/faiss-*/*.{rescore}")
    copied = np.load(path)
    copied[row_of_red(index)] *= -1
    change(path, path.read_bytes()[: -copied.nbytes] + copied.tobytes())
    assert mmrag.open(".").search("red", k=1) != before
    (mended,) = mmrag.open(".").check().mended
    assert mended == f"made the view again from the table: {path.name} differed from the vectors it is made of"
    assert mmrag.open(".").search("red", k=1) == before
    assert mmrag.open(".").check().mended == ()


def test_an_index_of_faiss_that_is_not_what_was_built_is_mended(index):
    pytest.importorskip("faiss")
    index.folder.with_name("mine.toml").write_text('[view]\nkind = "faiss"\nfactory = "Flat"\nbuild_at = 3\n')
    index.change_view(str(index.folder.with_name("mine.toml")))
    before = mmrag.open(".").search("red", k=1)
    (path,) = index.folder.glob("views/faiss-*/*.faiss")
    flip(path, 40, 0x01)
    with pytest.raises(IndexFormatError, match="mmrag check mends it"):
        mmrag.open(".").search("red", k=1)
    (mended,) = mmrag.open(".").check().mended
    assert mended == f"made the view again from the table: {path.name} was not what was built"
    assert mmrag.open(".").search("red", k=1) == before


def test_facts_of_every_kind_are_sound(index, monkeypatch):
    monkeypatch.setattr("mmrag.stores.check._FACTS_AT_ONCE", 2)  # a block seldom has all the types of its column
    kinds = [3, 2.5, float("nan"), True, "three", ["a", "b"], {"deep": 1}, 2**70, None]
    for last in range(2, len(kinds) + 1, 3):  # the type of a column changes as segments are joined
        items = [
            mmrag.Item(uri=f"{last} {n}", modality="text", text="red", metadata={"kind": one, f"only {n}": one})
            for n, one in enumerate(kinds[:last])
        ]
        index.add(items)
        index.remove(f"{last} 0")
        assert mmrag.open(".").check().mended == ()


def test_leftovers_are_removed_and_nothing_else(index):
    before = {path for path in index.folder.rglob("*") if path.is_file()}
    (index.folder / "views" / "exact" / "0123.npy").touch()
    (index.folder / "manifest.json.tmp").touch()
    assert index.check().mended == ("removed what an interrupted writer left: 0123.npy, manifest.json.tmp",)
    assert {path for path in index.folder.rglob("*") if path.is_file()} == before


def test_a_sound_index_of_many_segments_is_well(index):
    for number in (3, 2, 1, 0):
        index.add([mmrag.Item(uri=f"note {number} {n}", modality="text", text=f"red {n}") for n in range(5**number)])
    index.remove("note 2 3")
    assert len(index._view.segments) > 1
    seen = []
    report = index.check(progress=lambda done, total: seen.append((done, total)))
    assert (report.mended, report.wrong, report.failed) == ((), (), 1)
    assert report.items == len(index) == 6 + 1 + 5 + 25 + 125 - 1
    assert seen[-1] == (3 * (report.items + 1), 3 * (report.items + 1))


def raw(uri, vector, **columns):
    return Row(id=uri, uri=uri, modality="image", vector=np.array(vector, np.float32), **columns)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([raw("a", [1, 0, 0, 0]), raw("a", [1, 0, 0, 0])], "1 times several rows have the same id, such as 'a'"),
        ([raw("a", [2, 0, 0, 0])], "1 rows have no vector of unit length and 4 dimensions.* such as 'a'"),
        ([Row(id="c", uri="c", modality="image")], "and no reason for it, such as 'c'"),
    ],
)
def test_wrong_rows_are_named_and_the_view_is_left_alone(index, rows, message):
    table_of(index)._table.add(to_arrow(rows, 5, (4,)))
    view = the(index, "view.json").read_bytes()
    report = index.check()
    assert report.mended == ()
    assert re.search(f"{message}.*This cannot be mended: .*mmrag restore VERSION", report.wrong[0])
    assert the(index, "view.json").read_bytes() == view


def test_numbers_that_are_none_are_unsound():
    rows = [raw("a", [1, 0, 0, 0]), raw("b", [np.nan, 0, 0, 1]), raw("c", [np.inf, 0, 0, 0])]
    (batch,) = to_arrow(rows, 1, (4,)).to_batches()
    assert _unsound(batch, (4,)).tolist() == [False, True, True]


def test_stamps_that_are_there_twice(index):
    stamp = int(table_of(index).stamps()[0])
    table_of(index)._table.add(to_arrow([raw("a", [1, 0, 0, 0])], stamp, (4,)))
    assert "several rows have the same stamp" in index.check().wrong[0]


def test_a_table_that_cannot_be_read(index):
    data = next((index.folder / "table" / "items.lance" / "data").iterdir())
    change(data, data.read_bytes()[:100])
    report = mmrag.open(".").check()
    assert (report.items, report.mended) == (0, ())
    assert "delete" in report.wrong[0]
    assert "index again" in report.wrong[0]
    assert first("red") == "images/red.png"  # the view still serves


def test_restoring_mends_a_table_with_wrong_rows(index):
    good = index.versions()[-1].number
    table_of(index)._table.add(to_arrow([raw("a", [2, 0, 0, 0])], 5, (4,)))
    assert index.check().wrong
    index.restore(good)
    assert index.check() == mmrag.Checkup(items=6, failed=1)


def test_damage_of_one_column_keeps_nobody_from_reading_another(index):
    garble_text(index)
    found = mmrag.open(".")
    assert found.count("modality = 'image'") == 6
    with pytest.raises(IndexFormatError, match="mmrag check mends it"):
        found.count("uri like '%red%'")
