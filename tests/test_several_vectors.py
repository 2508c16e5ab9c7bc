"""Indexes whose model gives a picture several vectors: here those of its left and of its right half."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import mmrag
from mmrag.errors import IndexModelError
from mmrag.similarity import cosines
from tests.fresh import assert_like_new
from tests.toy import COLOURS


def save(path, left, right):
    picture = Image.new("RGB", (8, 8), COLOURS[left])
    picture.paste(COLOURS[right], (4, 0, 8, 8))
    picture.save(path)


@pytest.fixture
def flags(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "flags"
    folder.mkdir()
    for left, right in (("red", "blue"), ("blue", "red"), ("green", "white"), ("black", "yellow")):
        save(folder / f"{left}-{right}.png", left, right)
    return folder


@pytest.fixture
def index(flags):
    index = mmrag.create(".", model="toy:halves")
    assert index.add("flags").added == 4
    return index


def best(index, query, k=1):
    return [(Path(hit.item.uri).name, pytest.approx(hit.score, abs=1e-5)) for hit in index.search(query, k=k)]


def test_words_find_either_half(index):
    assert best(index, "white") == [("green-white.png", 1)]
    assert {name for name, _ in best(index, "blue", k=2)} == {"red-blue.png", "blue-red.png"}
    assert best(index, "blue", k=2)[1] == (best(index, "blue", k=2)[1][0], 1)


def test_a_picture_scores_the_mean_over_its_vectors_of_the_best(index, flags):
    assert dict(best(index, flags / "red-blue.png", k=2)) == {"red-blue.png": 1, "blue-red.png": 1}
    save("query.png", "white", "white")
    vectors = index.encoder.encode_text(["white", "green"])
    (hit,) = index.search(Path("query.png"), k=1)
    assert hit.item.uri == "flags/green-white.png"
    assert hit.score == pytest.approx(1)
    save("query.png", "white", "green")
    assert index.search(Path("query.png"), k=1)[0].score == pytest.approx(1)
    save("query.png", "white", "red")
    hit = next(hit for hit in index.search(Path("query.png"), k=4) if "green-white" in hit.item.uri)
    red = index.encoder.encode_text(["red"])[0]
    assert hit.score == pytest.approx((1 + max(vectors @ red)) / 2, abs=1e-5)


def test_words_and_pictures_in_one_search_score_as_alone(index, flags):
    together = index.search(["white", flags / "red-blue.png"], k=3)
    alone = [index.search("white", k=3), index.search(flags / "red-blue.png", k=3)]
    for hits, others in zip(together, alone, strict=True):
        assert [hit.item.uri for hit in hits] == [hit.item.uri for hit in others]
        assert np.allclose([hit.score for hit in hits], [hit.score for hit in others], atol=1e-6)


def test_a_text_is_found_by_its_own_cosine(index):
    index.add(mmrag.Item(uri="note", modality="text", text="a yellow note"))
    notes = {hit.item.uri: hit.score for hit in index.search("yellow", k=9)}
    assert notes["note"] == pytest.approx(1)
    red, yellow = index.encoder.encode_text(["red", "yellow"])
    assert {h.item.uri: h.score for h in index.search("red", k=9)}["note"] == pytest.approx(float(red @ yellow))


def test_a_picture_ranks_texts_by_the_best_of_its_vectors_as_evaluation_does(index):
    colours = ["red", "green", "blue", "yellow", "white", "black"]
    index.add([mmrag.Item(uri=colour, modality="text", text=f"a {colour} note") for colour in colours])
    save("query.png", "white", "red")
    with Image.open("query.png") as picture:
        halves = index.encoder.encode_image([picture])
    scores = cosines(index.encoder.encode_text(colours), halves)[:, 0]  # as the evaluation: text against pictures
    hits = [hit for hit in index.search(Path("query.png"), k=99) if hit.item.modality == "text"]
    assert {hit.item.uri: hit.score for hit in hits} == pytest.approx(dict(zip(colours, scores.tolist(), strict=True)))
    assert {hit.item.uri for hit in hits[:2]} == {"white", "red"}
    assert [hit.score for hit in hits[:2]] == pytest.approx([1, 1])
    together = index.search(["a blue one", Path("query.png")], k=99)
    assert [hit.item.uri for hit in together[1]] == [hit.item.uri for hit in index.search(Path("query.png"), k=99)]


def test_copies_moves_edits_and_removals(index, flags):
    (flags / "copy.png").write_bytes((flags / "red-blue.png").read_bytes())
    (flags / "green-white.png").rename(flags / "moved.png")
    save(flags / "black-yellow.png", "yellow", "yellow")
    embedded = index.encoder.embedded
    changes = index.update()
    assert (changes.added, changes.moved, changes.updated) == (1, 1, 1)
    assert index.encoder.embedded == embedded + 1
    assert best(index, "white") == [("moved.png", 1)]
    (flags / "moved.png").unlink()
    index.update()
    assert_like_new(Path.cwd(), "flags", model="toy:halves")


def test_restore_and_check(index):
    index.remove("flags/green-white.png")
    first, *_ = index.versions()
    index.restore(first.number)
    assert best(index, "white") == [("green-white.png", 1)]
    path, *_ = (index.folder / "views" / "exact").glob("????????????.npy")
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    assert "made the view again" in mmrag.open(".").check().mended[0]
    assert best(mmrag.open("."), "white") == [("green-white.png", 1)]


def test_the_manifest_says_how_many_and_another_model_is_refused(index):
    identity = json.loads((index.folder / "manifest.json").read_text())["identity"]
    assert (identity["dimension"], identity["vectors"]) == (4, 2)
    assert index.search("red") == mmrag.open(".").search("red")
    with pytest.raises(IndexModelError, match="do not compare"):
        mmrag.open(".", model="toy:1")
