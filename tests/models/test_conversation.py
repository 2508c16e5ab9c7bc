from __future__ import annotations

import itertools
import random

import pytest

from mmrag.models.conversation import until_stop
from mmrag.roles import Piece


def cut(parts, stop):
    """The slow and obvious way: after each part, look at all that has come."""
    for end in range(1, len(parts) + 1):
        come = "".join(parts[:end])
        starts = [come.index(one) for one in stop if one in come]
        if starts:
            return come[: min(starts)], "stop"
    return "".join(parts), "length"


def pieces(parts):
    yield from (Piece(part, -1.0) for part in parts)
    yield Piece("", None, "length")


@pytest.mark.parametrize("seed", range(200))
def test_any_division_gives_the_same(seed):
    chance = random.Random(seed)  # noqa: S311
    letters = [chance.choice("ab") for _ in range(chance.randrange(12))]
    parts = ["".join(part) for _, part in itertools.groupby(letters, lambda _: chance.random() < 0.5)]
    stop = ["".join(chance.choice("ab") for _ in range(chance.randrange(1, 5))) for _ in range(chance.randrange(3))]
    given = list(until_stop(pieces(parts), stop))
    assert ("".join(piece.text for piece in given), given[-1].end) == cut(parts, stop)
    assert not any(piece.end for piece in given[:-1])


def test_what_cannot_become_a_stop_text_is_given_at_once():
    stream = until_stop(pieces(["one", " two", "\n", "\nthree"]), ["\n\n"])
    assert [next(stream).text for _ in range(2)] == ["one", " two"]
    assert next(stream) == Piece("", -2.0, "stop")


def test_logprobs_of_what_was_held_back_are_kept():
    given = list(until_stop(pieces(["a", "b", "c", "x", "y"]), ["abcd"]))
    assert [(piece.text, piece.logprob) for piece in given] == [("abcx", -4.0), ("y", -1.0), ("", None)]


def test_the_writing_is_closed():
    closed = []

    def writing():
        try:
            yield from pieces("abc")
        finally:
            closed.append(True)

    list(until_stop(writing(), ["b"]))
    assert closed
