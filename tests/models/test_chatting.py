"""What generators that chat have in common, against plain searches in the whole text."""

from __future__ import annotations

import random

import pytest
from PIL import Image

from mmrag.errors import GenerationError, InputError, ModelError
from mmrag.models.cards import Card
from mmrag.models.chatting import ChattingGenerator, stop_at, without_thoughts
from mmrag.roles import Piece, Sampling, Turn


def pieces_of(parts, closed=None):
    try:
        for part in parts:
            yield Piece(part, logprob=-0.5)
        yield Piece("", end="length")
    finally:
        if closed is not None:
            closed.append(True)


def cut(text, stops):
    """The slow and obvious way: character by character, until the text ends with a stop text."""
    for length in range(1, len(text) + 1):
        met = [stop for stop in stops if text[:length].endswith(stop)]
        if met:
            return text[: length - len(max(met, key=len))]
    return text


@pytest.mark.parametrize("seed", range(200))
def test_text_is_cut_where_a_search_in_the_whole_finds_a_stop_text(seed):
    chance = random.Random(seed)  # noqa: S311
    parts = ["".join(chance.choices("ab\n", k=chance.randint(0, 3))) for _ in range(chance.randint(0, 9))]
    stops = ["".join(chance.choices("ab\n", k=chance.randint(1, 4))) for _ in range(chance.randint(0, 3))]
    closed = []
    given = list(stop_at(pieces_of(parts, closed), stops))
    whole = "".join(parts)
    assert "".join(piece.text for piece in given) == cut(whole, stops)
    assert [piece.end for piece in given if piece.end] == ["stop" if cut(whole, stops) != whole else "length"]
    assert given[-1].end
    assert closed


def test_what_cannot_begin_a_stop_text_is_not_held_back():
    given = stop_at(pieces_of(["one", " two", " th", "ree"]), [" three"])
    assert next(given).text == "one"
    assert next(given).text == " two"
    assert next(given) == Piece("", end="stop")


def test_leaving_closes_what_writes():
    closed = []
    given = stop_at(pieces_of(["one", "two"], closed), ["x"])
    next(given)
    given.close()
    assert closed == [True]


class Parrot(ChattingGenerator):
    """Says what it was asked, and how large the pictures are."""

    def __init__(self, modalities=("image", "text")):
        self.card = Card("parrot", "parrot", "1", 0, ("generator",), modalities, max_tokens=40)
        self.asked = []

    def count_turns(self, turns):
        return sum(len(turn.text.split()) for turn in turns)

    def _write(self, turns, sampling, cancel):
        self.asked.append((turns, sampling))
        for image in turns[-1].images:
            yield Piece(f"{image.width}\n")
        for word in turns[-1].text.split():
            yield Piece(f"{word} ")
        yield Piece("", end="stop")


@pytest.mark.parametrize(
    ("turns", "message"),
    [
        ([], "there are no turns"),
        ([Turn("system", "a")], "the system's; a conversation ends with"),
        ([Turn("user", "a"), Turn("system", "b"), Turn("user", "c")], "a system turn stands behind others"),
        ([Turn("user", "a", (Image.new("RGB", (2, 2)),))], "sees no pictures"),
    ],
)
def test_a_conversation_that_is_none_is_refused_at_once(turns, message):
    with pytest.raises(InputError, match=message):
        Parrot(("text",)).generate(turns)


def test_a_conversation_that_is_too_long_is_refused_at_once():
    with pytest.raises(GenerationError, match="has 41 tokens, and parrot reads 40"):
        Parrot().generate([Turn("user", "word " * 41)])


@pytest.mark.parametrize(
    ("name", "given", "allowed"),
    [
        ("max_tokens", 0, "at least 1"),
        ("temperature", float("inf"), "finite and at least 0"),
        ("temperature", float("nan"), "finite and at least 0"),
        ("nucleus", 0, "above 0 and at most 1"),
        ("seconds", 0, "above 0"),
    ],
)
def test_sampling_that_chooses_nothing_is_refused(name, given, allowed):
    with pytest.raises(InputError, match=f"{name} is {allowed}, not {given:g}"):
        Sampling(**{name: given})


def test_pictures_are_described_one_by_one():
    parrot = Parrot()
    assert parrot.caption([Image.new("RGB", (7, 2)), Image.new("RGB", (9, 2))]) == [
        "7 Describe this picture in one short sentence.",
        "9 Describe this picture in one short sentence.",
    ]
    assert parrot.caption([Image.new("RGB", (7, 2))], prompt="a photo of", nucleus=0.5, seed=3)[0].startswith(
        "a photo of 7 Describe"
    )
    assert parrot.asked[-1][1] == Sampling(max_tokens=30, temperature=1, nucleus=0.5, seed=3)
    assert parrot.asked[0][1] == Sampling(max_tokens=30)


def test_questions_belong_to_pictures():
    images = [Image.new("RGB", (7, 2)), Image.new("RGB", (9, 2))]
    assert Parrot().answer(images, ["what?", "who?"]) == [
        "7 what? Answer in a few words.",
        "9 who? Answer in a few words.",
    ]
    for questions in ("what?", ["what?"]):
        with pytest.raises(InputError, match="a question for each of 2 pictures"):
            Parrot().answer(images, questions)


def test_what_sees_nothing_describes_nothing():
    blind, image = Parrot(("text",)), Image.new("RGB", (2, 2))
    with pytest.raises(ModelError, match="sees no pictures"):
        blind.caption([image])
    with pytest.raises(ModelError, match="sees no pictures"):
        blind.answer([image], ["what?"])


@pytest.mark.parametrize(
    ("written", "answer"),
    [
        ("<think>hm, a dog</think>\n\nA dog.", "A dog."),
        ("\n<think>\n</think>A <think>dog</think>.", "A <think>dog</think>."),
        ("  A dog.", "  A dog."),
        ("<thin", "<thin"),
        ("<thin ice", "<thin ice"),
        ("A dog. </think>", "A dog. </think>"),
        ("<think>hm</think> \n", ""),
    ],
)
@pytest.mark.parametrize("size", [1, 3, 100])
def test_thoughts_are_no_part_of_the_answer(written, answer, size):
    parts = [written[place : place + size] for place in range(0, len(written), size)]
    given = list(without_thoughts(pieces_of(parts)))
    assert "".join(piece.text for piece in given) == answer
    assert [piece.end for piece in given if piece.end] == ["length"]
    assert given[-1].end


def test_nothing_but_thoughts_is_an_error():
    closed = []
    with pytest.raises(GenerationError, match=r"wrote no answer; let it write more tokens"):
        list(without_thoughts(pieces_of(["<think>", "hm, ", "hm"], closed)))
    assert closed


def test_thoughts_do_not_stop_the_writing():
    class Thinker(Parrot):
        def _write(self, turns, sampling, cancel):
            yield Piece("<think>a dog\n</think>a cat\nand a dog", end="stop")

    given = list(Thinker().generate([Turn("user", "what?")], Sampling(stop=("\n",))))
    assert "".join(piece.text for piece in given) == "a cat"
