"""Citations and sentences, whole and as they come."""

import logging
import random
from itertools import chain

import pytest

from mmrag.compose.citations import Reader, Sentence, parse


def read(text, known, size=lambda: 1):
    reader = Reader(known.__contains__)
    parts, at = [], 0
    while at < len(text):
        step = size()
        parts += reader.feed(text[at : at + step])
        at += step
    parts += reader.close()
    return reader, parts


def sentences(parts):
    return [part for part in parts if isinstance(part, Sentence)]


def written(parts):
    return "".join(part for part in parts if isinstance(part, str))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A dog runs [1]. It is wet [2].", [("A dog runs.", (1,)), ("It is wet.", (2,))]),
        ("A dog runs. [1] It is wet. [2]", [("A dog runs.", (1,)), ("It is wet.", (2,))]),
        ("A dog [1][3] runs, and a cat [2].", [("A dog runs, and a cat.", (1, 3, 2))]),
        ("Both run [1, 2].", [("Both run.", (1, 2))]),
        ("All run [1-3; 5].", [("All run.", (1, 2, 3, 5))]),
        ("It runs [1] and runs [1].", [("It runs and runs.", (1,))]),
        ("狗在跑。[1]猫在睡【2】。", [("狗在跑。", (1,)), ("猫在睡。", (2,))]),
        ("[1] A dog runs.\n[2] A cat sleeps.", [("A dog runs.", (1,)), ("A cat sleeps.", (2,))]),
        ("- a dog [1]\n- a cat [2]", [("- a dog", (1,)), ("- a cat", (2,))]),
        ("It cost 3.50, e.g. there [1].", [("It cost 3.50, e.g. there.", (1,))]),
        ("See [note] and [a1] and (1).", [("See [note] and [a1] and (1).", ())]),
        ("A dog runs.\n\n[1][2]\nA cat sleeps.", [("A dog runs.", (1, 2)), ("A cat sleeps.", ())]),
        ("[1]\nA dog runs.", [("A dog runs.", (1,))]),
        ("", []),
        ("[1]", []),
    ],
)
def test_sentences_and_what_they_cite(text, expected):
    found = parse(text)
    assert [(one.text, one.numbers) for one in found] == expected
    for one in found:
        start, end = one.span
        assert text[start:end] == text[start:end].strip()


def test_spans_hold_the_citations():
    text = "  A dog runs. [1] It is wet [2].  "
    assert [text[slice(*one.span)] for one in parse(text)] == ["A dog runs. [1]", "It is wet [2]."]


def test_what_does_not_exist_is_left_out_and_told(caplog):
    with caplog.at_level(logging.WARNING):
        reader, parts = read("A dog [9] runs [1, 7]. It is wet [8].\n[9] So.", {1, 2})
    assert reader.text == written(parts) == "A dog runs [1]. It is wet.\n So."
    assert reader.invented == 4
    assert [one.numbers for one in sentences(parts)] == [(1,), (), ()]
    assert "left out of the answer: 4" in caplog.text


def test_a_citation_is_never_shown_half():
    shown = []
    reader = Reader({12}.__contains__)
    for piece in ("It runs [", "1", "2", ", ", "3", "]", ". And [no", "t] this [1"):
        shown += [part for part in reader.feed(piece) if isinstance(part, str)]
    assert "".join(shown) == "It runs [12]. And [not] this"
    assert written(reader.close()) == " [1"  # what never ends is no citation


PIECES = [
    "A dog",
    " runs",
    ".",
    "!",
    " ",
    "\n",
    "[1]",
    "[",
    "]",
    "[2, 9]",
    "【3】",
    " The",
    "狗。",
    "3.5",
    "”",
    "[1",
    "e.g. x",
    "…",
    "- ",
    "\u2028",
    "\n[2] ",
]


def test_pieces_give_what_the_whole_gives():
    rng = random.Random(4)  # noqa: S311
    for _ in range(400):
        text = "".join(rng.choice(PIECES) for _ in range(rng.randrange(1, 24)))
        whole, once = read(text, {1, 2, 3}, lambda: 1000)
        bitwise, parts = read(text, {1, 2, 3}, lambda: rng.randrange(1, 4))
        assert bitwise.text == whole.text == written(parts) == written(once)
        assert sentences(parts) == sentences(once) == parse(whole.text)
        assert bitwise.invented == whole.invented


def test_a_complete_sentence_comes_before_what_follows_it():
    reader = Reader({1}.__contains__)
    seen = []
    for sign in "A dog runs. It is wet.":
        seen += [part if isinstance(part, str) else "|" for part in reader.feed(sign)]
    assert "".join(seen) == "A dog runs.| It is wet."


def test_a_sentence_can_be_made_to_cite():
    reader = Reader({1, 2}.__contains__)
    parts = []
    for part in chain(reader.feed("A dog runs. It is wet [2]. So"), reader.close()):
        parts.append(part)
        if isinstance(part, Sentence) and part.text == "A dog runs.":
            added, changed = reader.cite(part, [1])
            parts.append(added)
            assert (changed.numbers, changed.span) == ((1,), (0, 15))
    assert reader.text == written(parts) == "A dog runs. [1] It is wet [2]. So"
    assert [reader.text[slice(*one.span)] for one in sentences(parts)][1:] == ["It is wet [2].", "So"]


def test_made_to_cite_or_not_the_sentences_make_up_all_of_the_text():
    rng = random.Random(5)  # noqa: S311
    for _ in range(400):
        text = "".join(rng.choice(PIECES) for _ in range(rng.randrange(1, 24)))
        reader, shown, done = Reader({1, 2, 3}.__contains__), "", []
        for part in chain(*(reader.feed(sign) for sign in text), reader.close()):
            if isinstance(part, str):
                shown += part
                continue
            added, part = ("", part) if part.numbers else reader.cite(part, [3])
            shown += added
            done.append(part)
        assert reader.text == shown
        assert [one.numbers for one in done] == [one.numbers for one in parse(shown)]
        assert [one.span for one in done] == [one.span for one in parse(shown)]
        left = "".join(
            chr(0) if any(a <= at < b for a, b in (one.span for one in done)) else s for at, s in enumerate(shown)
        )
        assert not done or not left.replace(chr(0), "").strip()


def test_a_citation_that_begins_a_line_waits_for_what_it_belongs_to():
    reader = Reader({1, 2}.__contains__)
    parts = []
    for sign in "A dog runs.\n[1] A cat sleeps.\n[2]":
        for part in reader.feed(sign):
            parts.append(part)
            if isinstance(part, Sentence):
                added, _ = reader.cite(part, [2])
                parts.append(added)
    parts += reader.close()
    assert written(parts) == "A dog runs. [2]\n[1] A cat sleeps.\n[2]"
    assert [(one.text, one.numbers) for one in sentences(parts)] == [("A dog runs.", ()), ("A cat sleeps.", (1, 2))]
