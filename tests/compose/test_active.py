"""Searching while writing, with writers that are uncertain here and certain there."""

import math
import threading

import pytest
from PIL import Image

from mmrag.compose.active import MOST_SEARCHES, write_actively
from mmrag.compose.answer import Found, Source, Step
from mmrag.compose.prompt import Prompt
from mmrag.compose.writer import Writer
from mmrag.roles import Piece, Sampling
from mmrag.types import Item

DOG, CAT, SEA = "A dog runs on the beach.", " A cat sleeps indoors.", " The water is cold."


def source(number, text):
    return Source(number, Item(f"{text}.jpg", id=text), text)


class Script(Writer):
    """Says sentences, each with the probability of its words by how many sources there are; goes on from `written`.

    Attributes
    ----------
    asked : list of (Prompt, Sampling)
        What it was asked.
    left : int
        How often somebody left before the end.
    """

    name = "script"

    def __init__(self, *sentences, sure=lambda sentence, sources: 0.9, room=99):
        self.sentences, self.sure, self.room = sentences, sure, room
        self.asked, self.left = [], 0

    def fits(self, prompt, sampling):
        return len(prompt.sources) <= self.room

    def write(self, prompt, sampling, *, cancel=None):
        self.asked.append((prompt, sampling))
        done = False
        try:
            for sentence in self.sentences[self._said(prompt.written) :]:
                chance = self.sure(sentence, prompt.sources)
                for word in sentence.replace(" ", "\n ").split("\n"):
                    if cancel is not None and cancel.is_set():
                        yield Piece("", end="cancelled")
                        return
                    if word:
                        yield Piece(word, None if chance is None else math.log(chance))
            done = True
            yield Piece("", end="stop")
        finally:
            self.left += not done

    def _said(self, written):
        return next(n for n in range(9) if "".join(self.sentences[:n]) == written)


def run(writer, retrieve=lambda words: [], *, known=("a dog runs on the beach",), question="What?", **more):
    prompt = Prompt(question, [source(at + 1, text) for at, text in enumerate(known)])
    events = list(write_actively(writer, prompt, Sampling(), retrieve, **more))
    return events, "".join(one.text for one in events if isinstance(one, Piece))


def test_a_certain_and_supported_answer_is_written_once_and_nothing_is_searched_for():
    writer = Script(DOG)
    events, text = run(writer, lambda words: pytest.fail("searched"))
    assert text == DOG
    assert len(writer.asked) == 1
    assert [one.end for one in events if isinstance(one, Piece) and one.end] == ["stop"]


def test_an_uncertain_sentence_is_searched_for_and_written_again_with_what_was_found():
    writer = Script(DOG, CAT, sure=lambda said, sources: 0.9 if said == DOG or len(sources) > 1 else 0.1)
    asked = []

    def retrieve(words):
        asked.append(words)
        return [source(1, "a cat sleeps indoors"), source(2, "a dog runs on the beach")]

    events, text = run(writer, retrieve, question="What does the cat do?")
    assert text == DOG + CAT
    assert asked == ["What does the cat do?"]  # no word of the draft was certain
    again = writer.asked[1][0]
    assert (again.written, [one.number for one in again.sources]) == (DOG, [1, 2])
    assert again.sources[1].text == "a cat sleeps indoors"  # what was there is not found again, and keeps its number
    step = next(at for at, one in enumerate(events) if isinstance(one, Step))
    assert events[step] == Step("retrieve", "What does the cat do?", 1)
    assert events[step + 1] == Found((source(2, "a cat sleeps indoors"),))
    assert "".join(one.text for one in events[:step]) == DOG
    assert "".join(one.text for one in events[step + 2 :]) == CAT


@pytest.mark.parametrize(
    ("said", "asked"),
    [
        ([("A", 0.9), (" dog", 0.9), (" call", 0.9), ("ed", 0.7), (" R", 0.6), ("ex", 0.05)], ["A dog called"]),
        ([("A", 0.1), (" dog", 0.9), (" call", 0.9), ("ed", 0.1), (" Rex", 0.9)], ["dog Rex"]),
        ([("All", 0.9), (" ", 0.9), ("7", 0.1), (" run", 0.9)], ["All run"]),
        ([("A", 0.9), (" dog", 0.9), (" is", 0.1), (" Rex", 0.9), (" [", 0.01), ("1", 0.01), ("]", 0.9)], []),
    ],
)
def test_a_name_a_number_or_a_long_word_that_is_improbable_is_not_searched_for(said, asked):
    class Says(Script):
        def write(self, prompt, sampling, *, cancel=None):
            yield from (Piece(text, math.log(chance)) for text, chance in said)
            yield Piece("", end="stop")

    searched = []
    run(Says(), lambda words: searched.append(words) or [], known=("all 7 dogs run, one is called Rex",))
    assert searched == asked


def test_a_sentence_that_no_source_says_asks_for_evidence_without_probabilities():
    writer = Script(DOG, SEA, sure=lambda said, sources: None)
    asked = []
    _, text = run(writer, lambda words: asked.append(words) or [])
    assert asked == ["The water is cold."]
    assert text == DOG + SEA
    assert len(writer.asked) == 1  # nothing was found, so nothing was written again


def test_each_sentence_is_searched_for_once_and_an_answer_not_without_end():
    sentences = [DOG, *(f" Sentence number {word} stands here." for word in "abcdefg")]
    writer = Script(*sentences, sure=lambda said, sources: 0.1)
    count = iter(range(99))
    events, text = run(writer, lambda words: [source(1, f"new {next(count)}")])
    assert text == "".join(sentences)
    assert [one.kind for one in events if isinstance(one, Step)] == ["retrieve"] * MOST_SEARCHES
    assert len(writer.asked) == 1 + MOST_SEARCHES
    assert writer.left == MOST_SEARCHES  # the writing that was given up does not go on
    assert [one.number for one in writer.asked[-1][0].sources] == [1, 2, 3, 4, 5]


def test_no_more_sources_are_added_than_the_writer_reads():
    writer = Script(DOG, sure=lambda said, sources: 0.1, room=3)
    events, _ = run(writer, lambda words: [source(9, text) for text in "abcdef"])
    (found,) = [one for one in events if isinstance(one, Found)]
    assert [(one.number, one.text) for one in found.sources] == [(2, "a"), (3, "b")]


def test_a_writer_that_sees_is_shown_the_pictures_that_are_found():
    writer = Script(DOG, CAT, sure=lambda said, sources: 0.9 if said == DOG or len(sources) > 1 else 0.1)
    picture = Image.new("RGB", (2, 2))
    events, _ = run(
        writer,
        lambda words: [source(7, "a cat"), source(8, "a note")],
        look=lambda sources: {one.number: picture for one in sources if one.text == "a cat"},
    )
    again = writer.asked[1][0]
    assert again.pictures == {2: picture}
    assert [(one.number, one.seen) for one in again.sources] == [(1, False), (2, True), (3, False)]
    assert [one.sources for one in events if isinstance(one, Found)] == [tuple(again.sources[1:])]


def test_what_was_written_is_taken_from_what_may_be_written():
    writer = Script(DOG, CAT, sure=lambda said, sources: 0.9 if said == DOG else 0.1)
    run(writer, lambda words: [source(1, "new")])
    first, second = (sampling for _, sampling in writer.asked)
    assert second.max_tokens == first.max_tokens - len(DOG.split())
    assert 0 < second.seconds < first.seconds


def test_who_cancels_is_not_searched_for():
    cancel = threading.Event()
    cancel.set()
    events, text = run(
        Script(CAT, sure=lambda said, sources: 0.1), lambda words: pytest.fail("searched"), cancel=cancel
    )
    assert (text, events[-1].end) == ("", "cancelled")
