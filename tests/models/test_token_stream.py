"""What a network writes, token by token: whole characters, in time, and no longer than somebody listens."""

from __future__ import annotations

import itertools
import threading

import pytest

torch = pytest.importorskip("torch", reason="needs the torch extra")
pytest.importorskip("transformers", reason="needs the torch extra")

from mmrag.errors import GenerationError  # noqa: E402
from mmrag.models.registry import load_generator  # noqa: E402
from mmrag.models.token_stream import Characters  # noqa: E402
from mmrag.roles import Sampling, Turn  # noqa: E402
from tests.models.tiny_blip2 import one_thread  # noqa: E402, F401
from tests.models.tiny_image_text import write_llava  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")

TURNS = [Turn("user", "what is red?")]
LONG = Sampling(max_tokens=500)


@pytest.fixture
def model(tmp_path):
    write_llava(tmp_path / "tiny")
    model = load_generator(str(tmp_path / "tiny"))
    model.network.generation_config.eos_token_id = None  # it goes on until it must not
    return model


def all_end(seconds=1):
    """Whether no thread writes any more, soon."""
    writing = [one for one in threading.enumerate() if one.name == "mmrag-relay"]
    for one in writing:
        one.join(seconds)
    return not any(one.is_alive() for one in writing)


@pytest.mark.parametrize("text", ["a dog", "naïve café 🐶🏖️ 海边", "  two lines\n\nand more  "])
def test_characters_come_whole_and_all_of_them(text):
    """A byte is a token, so that most characters are several of them."""
    data = text.encode()
    characters = Characters(lambda ids: bytes(ids).decode(errors="replace"))
    pieces = [characters.add(byte) for byte in data]
    assert "".join(pieces) + characters.finish() == text.lstrip()
    assert all("\N{REPLACEMENT CHARACTER}" not in piece for piece in pieces)
    assert len([piece for piece in pieces if piece]) == len(text.lstrip())


def test_a_part_of_a_character_is_left_out():
    characters = Characters(lambda ids: bytes(ids).decode(errors="replace"))
    assert [characters.add(byte) for byte in "aé".encode()[:-1]] == ["a", ""]
    assert characters.finish() == ""


def test_what_reads_otherwise_behind_another_is_told_as_it_reads_there():
    """As words do whose space is the tokenizer's: the first has none."""
    words = ["two", "red", "dogs"]
    characters = Characters(lambda ids: " ".join(words[i] for i in ids))
    assert [characters.add(i) for i in range(3)] == ["two", " red", " dogs"]


def test_it_ends_as_it_is_told(model):
    pieces = list(model.generate(TURNS, Sampling(max_tokens=9)))
    assert [piece.end for piece in pieces[:-1]] == [None] * (len(pieces) - 1)
    assert pieces[-1].end == "length"
    inputs = model._read(TURNS)
    tokens = model.network.generate(**inputs, max_new_tokens=9, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    model.network.generation_config.eos_token_id = [int(tokens[5])]
    ended = list(model.generate(TURNS, Sampling(max_tokens=9)))
    before = tokens[: tokens.tolist().index(int(tokens[5]))]
    assert "".join(piece.text for piece in ended) == model.decode(before).lstrip()
    assert ended[-1].end == "stop"


def test_no_more_is_written_than_the_context_holds(model):
    room = model.context_tokens - model.count_turns(TURNS)
    pieces = list(model.generate(TURNS, Sampling(max_tokens=10_000, seconds=100)))
    assert pieces[-1].end == "length"
    assert len("".join(piece.text for piece in pieces)) >= room // 2


def test_whoever_leaves_stops_it(model):
    pieces = model.generate(TURNS, LONG)
    assert len(list(itertools.islice(pieces, 3))) == 3
    assert not all_end(0)
    pieces.close()
    assert all_end()


def test_cancelling_ends_it(model):
    cancel = threading.Event()
    pieces = model.generate(TURNS, LONG, cancel=cancel)
    written = [next(pieces).text, next(pieces).text]
    cancel.set()
    last = list(pieces)
    assert last[-1].end == "cancelled"
    assert len(last) <= 2
    assert all(written)
    assert all_end()


def test_it_must_be_in_time(model):
    with pytest.raises(GenerationError, match=r"was not done after 0\.05 s; allow more"):
        list(model.generate(TURNS, Sampling(max_tokens=10_000, seconds=0.05)))
    assert all_end()


def test_waiting_for_another_counts(model):
    """The network serves one at a time."""
    first = model.generate(TURNS, Sampling(max_tokens=2_000))
    next(first)
    with pytest.raises(GenerationError, match="was not done after"):
        list(model.generate(TURNS, Sampling(seconds=0.05)))
    first.close()


def test_what_fails_while_it_writes_is_told(model, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("no memory is left")

    monkeypatch.setattr(model.network, "forward", fail)
    with pytest.raises(GenerationError, match="failed while it wrote: no memory is left"):
        list(model.generate(TURNS))
