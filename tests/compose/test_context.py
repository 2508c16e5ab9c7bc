"""Sources in words, and as many as fit."""

import pytest

from mmrag.compose.context import as_sources, fitted, told_of
from mmrag.compose.prompt import Exchange, Prompt
from mmrag.compose.writer import Writer
from mmrag.errors import GenerationError
from mmrag.roles import Sampling
from mmrag.types import Hit, Item


class Counting(Writer):
    """Reads so many words of sources, history and question at once."""

    name = "counting"

    def __init__(self, words):
        self.words = words
        self.asked = 0

    def fits(self, prompt, sampling):
        self.asked += 1
        texts = [prompt.question, *(one.text for one in prompt.sources), *(one.question for one in prompt.history)]
        return len(" ".join(texts).split()) + sampling.max_tokens <= self.words

    def write(self, prompt, sampling, *, cancel=None):
        raise AssertionError


def sources(*texts):
    return as_sources(Hit(1, 0.5, "cosine", Item(f"{n}.txt", str(n), "text", text)) for n, text in enumerate(texts))


def texts(prompt):
    return [(one.number, one.text) for one in prompt.sources]


def fit(words, *given, history=(), pictures=None):
    prompt = Prompt("why is it so", sources(*given), history, pictures or {})
    return fitted(prompt, Counting(words), Sampling(max_tokens=10))


def test_what_is_known_of_a_picture_is_told_by_name():
    item = Item(
        "a.jpg",
        text="A dog.",
        words={"generated": "a brown  dog", "ocr": "STOP\nhere", "tags": "dog, beach"},
        metadata={"taken_at": "2024-07-01", "camera": "Fujifilm X100V", "width": 3},
    )
    assert told_of(item).splitlines() == [
        "A dog.",
        "Caption by a model: a brown dog",
        "Tags: dog, beach",
        "Text in the picture: STOP here",
        "taken_at: 2024-07-01",
        "camera: Fujifilm X100V",
    ]
    assert told_of(Item("a.jpg")) == ""


def test_numbers_follow():
    assert [one.number for one in as_sources([Hit(1, 0.1, "cosine", Item("a"))] * 2, first=7)] == [7, 8]


def test_all_that_fits_stays():
    assert texts(fit(100, "One two.", "Three.")) == [(1, "One two."), (2, "Three.")]


def test_the_last_is_cut_behind_a_sentence_and_the_rest_left_out():
    given = ("One two three.", "Four five. Six seven. Eight nine.", "Ten.")
    assert texts(fit(14 + 3 + 4, *given)) == [(1, "One two three."), (2, "Four five. Six seven.")]
    assert texts(fit(14 + 3 + 1, *given)) == [(1, "One two three.")]


def test_a_sentence_that_is_too_long_is_cut_between_words():
    long = " ".join(f"word{n}" for n in range(500))
    (number, text), *others = texts(fit(14 + 100, long, "Another."))
    assert (number, others) == (1, [])
    assert long.startswith(f"{text} ")
    assert 50 <= len(text.split()) <= 100


def test_what_was_said_before_goes_first_the_oldest_before_all():
    history = tuple(Exchange(f"old {n} question", "") for n in range(4))
    prompt = fit(14 + 3 + 7, "One two three.", "Four five six.", history=history)
    assert [one.question for one in prompt.history] == ["old 2 question", "old 3 question"]
    assert texts(prompt) == [(1, "One two three.")]


def test_pictures_go_with_their_sources():
    prompt = fit(14 + 3, "One two three.", "Four.", pictures={1: "first", 2: "second"})
    assert prompt.pictures == {1: "first"}


def test_nothing_fits():
    with pytest.raises(GenerationError, match="counting cannot read the question and one source at once, with 10 tok"):
        fit(14, "One two three.")


def test_many_sources_are_not_counted_one_by_one():
    writer = Counting(14 + 300)
    prompt = fitted(Prompt("why is it so", sources(*["One two three."] * 400)), writer, Sampling(max_tokens=10))
    assert len(prompt.sources) == 100
    assert writer.asked < 20
