"""Captions of single pictures, made when they are needed."""

import logging

import pytest
from PIL import Image

import mmrag
from mmrag.errors import IndexLockedError, ModelError
from mmrag.search.pipeline import load_pipeline
from mmrag.stores.lock import write_lock
from tests.toy import ToyTeller


@pytest.fixture
def index(colours):
    index = mmrag.create(".", model="toy:1")
    index.add("images")
    return index


def items(index, *names):
    found = {hit.item.uri: hit.item for hit in index.search("red", k=100)}
    return [found[f"images/{name}.png"] for name in names]


def captions(found):
    return [item.words.get("generated") for item in found]


def test_only_these_get_a_caption_and_keep_it_with_its_origin(index):
    teller = ToyTeller()
    described = index.describe(items(index, "red", "blue"), generator=teller)
    assert captions(described) == ["red", "blue"]
    assert captions(items(index, "red", "blue", "green")) == ["red", "blue", None]
    assert items(index, "red") == described[:1]
    assert described[0].origins == {"generated": "teller 1"}
    assert captions([mmrag.open(".").search("red", k=1)[0].item]) == ["red"]
    assert teller.told == 2


def test_what_has_words_or_was_told_of_is_left_alone(index, colours):
    (colours / "red.txt").write_text("a wall")
    index.update()
    teller = ToyTeller()
    given = items(index, "red", "blue")
    described = index.describe(given, generator=teller)
    assert described[0] is given[0]
    assert index.describe(described, generator=teller) == described
    assert teller.told == 1


def test_nothing_to_say_is_remembered(index, monkeypatch):
    monkeypatch.setattr(ToyTeller, "caption", lambda self, images, **_: [""] * len(images))
    assert captions(index.describe(items(index, "red"), generator="teller:1")) == [None]
    (red,) = items(index, "red")
    assert red.origins == {"generated": "teller 1"}
    monkeypatch.setattr(ToyTeller, "caption", lambda *_, **__: pytest.fail("asked again"))
    assert index.describe([red], generator="teller:1") == [red]


def test_the_same_content_is_described_once_and_what_is_gone_is_left_out(index, colours, caplog):
    Image.new("RGB", (32, 24), "red").save(colours / "rot.png")
    index.update()
    (colours / "green.png").unlink()
    everything = load_pipeline("default").changed(dups=True)
    given = [hit.item for hit in index.search("red", k=100, pipeline=everything)]
    teller = ToyTeller()
    with caplog.at_level(logging.WARNING):
        described = {item.uri: item.words.get("generated") for item in index.describe(given, generator=teller)}
    assert described["images/red.png"] == described["images/rot.png"] == "red"
    assert described["images/green.png"] is None
    assert "images/green.png gets no words" in caplog.text
    assert teller.told == 5


def test_off_and_locked_it_is_used_and_not_kept(index, caplog):
    assert captions(index.describe(items(index, "red"), generator="teller:1", keep=False)) == ["red"]
    assert captions(items(index, "red")) == [None]
    with write_lock(index.folder), caplog.at_level(logging.WARNING):
        with pytest.raises(IndexLockedError):
            index.enrich(caption="teller:1")
        assert captions(index.describe(items(index, "red"), generator="teller:1")) == ["red"]
    assert captions(items(index, "red")) == [None]
    assert "captions are used, and not kept" in caplog.text


def test_no_such_generator(index):
    with pytest.raises(ModelError, match="there is no model 'nobody'"):
        index.describe(items(index, "red"), generator="nobody")
    with pytest.raises(ModelError):
        index.describe(items(index, "red"), generator="judge:1")
