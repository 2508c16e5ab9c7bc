"""What everyone who writes answers promises: a language model, or nobody, and the sources are quoted."""

from __future__ import annotations

import threading

import pytest

from mmrag.compose.extractive import ExtractiveWriter
from mmrag.compose.model_writer import ModelWriter
from mmrag.compose.prompt import Exchange, Prompt
from mmrag.errors import GenerationError
from mmrag.models.registry import load_encoder
from mmrag.roles import Sampling
from tests.compose.sources import document, picture
from tests.contracts.made import made_generator

SOURCES = (
    document(1, "We came by train. The brown dog ran along the beach all day. It rained in the evening."),
    picture(2, "A brown dog plays on the beach with a ball."),
    document(3, "The engine has four cylinders. Oil is changed every year."),
)
PROMPT = Prompt("What did the brown dog do on the beach?", SOURCES)

WRITERS = {
    "extractive": lambda temporary: ExtractiveWriter(None),
    "extractive with an encoder": lambda temporary: ExtractiveWriter(load_encoder("builtin")),
    "toy": lambda temporary: ModelWriter(made_generator("toy", temporary)),
    "smollm2": lambda temporary: ModelWriter(made_generator("smollm2", temporary)),
    "tiny": lambda temporary: ModelWriter(made_generator("tests.models.tiny_image_text:make_llava", temporary)),
}


@pytest.fixture(params=WRITERS, scope="module")
def writer(request, tmp_path_factory):
    return WRITERS[request.param](tmp_path_factory)


def written(writer, prompt=PROMPT, **sampling):
    return list(writer.write(prompt, Sampling(**{"max_tokens": 12, **sampling})))


def text(pieces):
    return "".join(piece.text for piece in pieces)


@pytest.fixture(scope="module")
def first(writer):
    return written(writer)


def test_it_has_a_name(writer):
    assert writer.name
    assert isinstance(writer.sees, bool)


def test_the_last_piece_alone_says_why_it_is_the_last(first):
    assert text(first).strip()
    assert [piece.end for piece in first[:-1]] == [None] * (len(first) - 1)
    assert first[-1].end in ("stop", "length")


def test_the_same_prompt_gives_the_same_answer(writer, first):
    assert text(written(writer)) == text(first)


def test_sources_count(writer, first):
    other = (document(1, "The cat slept on the sofa while the kettle boiled."),)
    assert text(written(writer, Prompt(PROMPT.question, other))) != text(first)


def test_no_more_is_written_than_allowed(writer):
    short = written(writer, max_tokens=3)
    assert short[-1].end == "length"
    assert 1 <= len([piece for piece in short if piece.text]) <= 4  # and the citation of a quote


def test_a_stop_text_ends_it_and_is_not_given(writer, first):
    whole = text(first)
    stop = whole[len(whole) // 2 :][:3]
    stopped = written(writer, stop=(stop,))
    assert (text(stopped), stopped[-1].end) == (whole[: whole.index(stop)], "stop")


def test_what_is_written_already_is_not_written_again(writer, first):
    begun = text(first)
    more = written(writer, Prompt(PROMPT.question, SOURCES, written=begun), max_tokens=30)
    assert more[-1].end
    assert not text(more).strip().startswith(begun)


def test_it_is_cancelled(writer):
    cancel = threading.Event()
    pieces = writer.write(PROMPT, Sampling(max_tokens=200), cancel=cancel)
    assert next(pieces).end is None
    cancel.set()
    rest = list(pieces)
    assert rest[-1].end == "cancelled"
    assert not any(piece.end for piece in rest[:-1])


def test_it_takes_no_longer_than_allowed(writer):
    with pytest.raises(GenerationError, match=r"1e-09 s.*; allow more"):
        written(writer, max_tokens=200, seconds=1e-9)


def test_leaving_frees_it(writer, first):
    pieces = writer.write(PROMPT, Sampling(max_tokens=200))
    next(pieces)
    pieces.close()
    assert text(written(writer)) == text(first)


def test_what_fits_can_be_written(writer):
    long = tuple(
        document(number, f"The dog ran {number} times around the lake, and swam. " * 9) for number in range(1, 99)
    )
    prompts = [Prompt(PROMPT.question, long[:count]) for count in (1, 3, 98)]
    fits = [writer.fits(prompt, Sampling(max_tokens=20)) for prompt in prompts]
    assert fits == sorted(fits, reverse=True)
    assert fits[0]
    assert written(
        writer, next(prompt for prompt in reversed(prompts) if writer.fits(prompt, Sampling(max_tokens=20)))
    )[-1].end


def test_what_was_said_before_is_read(writer):
    history = (Exchange("Who was there?", "Nobody knows, and the lake was frozen."),)
    assert written(writer, Prompt(PROMPT.question, SOURCES, history))[-1].end
