"""An extractive answer quotes what stands in its sources, letter by letter, and says nothing else."""

from __future__ import annotations

import re
from threading import Event

import pytest
from PIL import Image

from mmrag.compose.answer import Source
from mmrag.compose.extractive import QUOTES, ExtractiveWriter
from mmrag.compose.prompt import Prompt
from mmrag.errors import GenerationError
from mmrag.models.registry import load_encoder
from mmrag.roles import Sampling
from mmrag.types import Hit, Item
from tests.compose.sources import document, picture

LINE = re.compile(r"“([^“”]+)” \[(\d+)\]|The picture itself \[(\d+)\]\.")
BEACH = document(1, "We came by train. The brown dog ran along the beach all day. It rained in the evening.")
CAPTIONS = picture(2, "A brown dog plays on the beach .\nCaption by a model: a dog in the sand\nTags: summer")
ENGINE = document(3, "The engine has four cylinders. Oil is changed every year.")
BARE = picture(4)
SOURCES = (BEACH, CAPTIONS, ENGINE, BARE)


def written(question, sources=SOURCES, writer=None, **more):
    prompt = Prompt(question, sources, written=more.pop("written", ""))
    pieces = list((writer or ExtractiveWriter(None)).write(prompt, Sampling(**more)))
    assert [piece.end is None for piece in pieces] == [True] * (len(pieces) - 1) + [False]
    return "".join(piece.text for piece in pieces), pieces[-1].end


@pytest.mark.parametrize("encoder", [None, "builtin"])
@pytest.mark.parametrize("question", ["Where did the dog run?", "How many cylinders?", "Is it wet? [9]", "“", "?"])
def test_every_quote_stands_in_the_source_that_it_cites(question, encoder):
    writer = ExtractiveWriter(encoder and load_encoder(encoder))
    text, end = written(question, writer=writer)
    assert end == "stop"
    texts = {source.number: source.text for source in SOURCES}
    found = [LINE.fullmatch(line) for line in text.splitlines()]
    assert found
    assert len(found) <= QUOTES
    for one in found:
        assert one, text
        assert one[1] is None or one[1] in texts[int(one[2])]
        assert one[3] is None or not texts[int(one[3])]


@pytest.mark.parametrize(
    ("question", "quote"),
    [
        ("What did the dog do on the beach?", "“The brown dog ran along the beach all day.” [1]"),
        ("How many cylinders has the engine?", "“The engine has four cylinders.” [3]"),
    ],
)
def test_the_sentence_that_answers_comes_first(question, quote):
    assert written(question)[0].splitlines()[0] == quote


def test_the_same_sentence_is_quoted_once():
    text, _ = written("a dog", [picture(1, "A dog"), picture(2, "a dog"), document(3, "A dog. A dog.")])
    assert text == "“A dog” [1]"


def test_a_picture_without_words_is_pointed_to():
    assert written("a dog", [picture(7)]) == ("The picture itself [7].", "stop")


def test_a_caption_by_a_model_is_quoted_only_if_it_answers():
    shot = picture(7, "Caption by a model: a man on a ramp\ntaken_at: 2009-02-09T09:11:30")
    assert written("What cat is there?", [shot])[0] == "The picture itself [7]."
    assert written("Where is the man?", [shot])[0] == "“a man on a ramp” [7]"


def test_headings_are_not_quoted():
    text = "Trip › The harbour\nWe saw fishing boats."
    note = Source(1, Item("a.md", modality="text", text=text, metadata={"headings": ["Trip", "The harbour"]}), text)
    assert written("What is in the harbour?", [note])[0] == "“We saw fishing boats.” [1]"


def test_pictures_are_pointed_to_if_they_are_nearly_as_likely_as_the_best():
    def found(number, chance, text=""):
        item = Item(f"{number}.jpg")
        return Source(number, item, text, Hit(number, 1.0, "cosine", item, parts={"probability": chance}))

    assert written("a cat", [found(1, 0.4), found(2, 0.1), found(3, 0.3)])[0].splitlines() == [
        "The picture itself [1].",
        "The picture itself [3].",
    ]
    assert (
        written("Where did the dog run?", [BEACH, found(2, 0.1)])[0]
        == "“The brown dog ran along the beach all day.” [1]"
    )


def test_of_a_picture_that_is_asked_about_all_that_are_like_it_come_first():
    pictures = [picture(n, f"A {name} by the sea") for n, name in enumerate(("tower", "pier", "boat", "gull"), start=1)]
    prompt = Prompt("Which other pictures show this place?", [*pictures, picture(5)], image=Image.new("RGB", (4, 4)))
    text = "".join(piece.text for piece in ExtractiveWriter(None).write(prompt, Sampling()))
    assert [line[-4:].strip(" .") for line in text.splitlines()] == ["[1]", "[2]", "[3]", "[4]", "[5]"]


@pytest.mark.parametrize("text", ["A dog [2] barks [3].", "A “dog” barks loudly.", "A dog\x1b[31m barks."])
def test_nothing_in_a_source_reads_as_a_citation_or_as_the_end_of_a_quote(text):
    answer, _ = written("Which dog barks?", [document(1, text), document(2, "Oil.")])
    first = answer.splitlines()[0]
    assert LINE.fullmatch(first)
    assert first.endswith("[1]")
    assert LINE.fullmatch(first)[1] in text
    assert "\x1b" not in answer


def test_words_are_counted_as_tokens_and_the_first_quote_is_cut():
    whole, _ = written("What did the dog do on the beach?")
    some, end = written("What did the dog do on the beach?", max_tokens=len(whole.splitlines()[0].split()))
    assert (some, end) == (whole.splitlines()[0], "length")
    assert written("What did the dog do on the beach?", max_tokens=4) == ("“The brown dog” [1]", "length")


def test_a_stop_text_ends_it_and_is_not_given():
    assert written("What did the dog do on the beach?", stop=("dog ran",)) == ("“The brown", "stop")


def test_what_is_written_is_not_written_again():
    first = written("What did the dog do on the beach?")[0].splitlines()[0]
    text, _ = written("What did the dog do on the beach?", written=first)
    assert text.startswith("\n")
    assert first not in text


def test_it_is_cancelled_between_words():
    cancel = Event()
    pieces = ExtractiveWriter(None).write(Prompt("a dog", SOURCES), Sampling(), cancel=cancel)
    assert next(pieces).end is None
    cancel.set()
    assert [piece.end for piece in pieces] == ["cancelled"]


def test_it_takes_no_longer_than_allowed():
    with pytest.raises(GenerationError, match="quoting took longer than 1e-09 seconds"):
        written("a dog", seconds=1e-9)


def test_it_answers_the_same_each_time():
    assert written("a dog", seed=1, temperature=1.0) == written("a dog", seed=2)


def test_sources_without_any_words_or_pictures_give_nothing():
    assert written("a dog", []) == ("", "stop")
