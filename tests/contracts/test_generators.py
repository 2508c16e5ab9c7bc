"""What every generator that chats promises."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest
from PIL import Image

from mmrag.errors import GenerationError, InputError
from mmrag.roles import Generator, Sampling, Turn
from tests.contracts.made import GENERATORS, asked_for, made_generator

STORY = (Turn("user", "Write a very long story about a dog, a ball and the sea."),)
CHINESE = (Turn("system", "You answer in Chinese, and end with 😀."), Turn("user", "你好 😀🎉 海滩上的狗"))


@pytest.fixture(params=[*GENERATORS, *asked_for(Generator)], scope="module")
def generator(request, tmp_path_factory):
    one = made_generator(request.param, tmp_path_factory)
    if not one.chats:
        pytest.skip(f"{one.card.name} does not chat")
    return one


def written(generator, turns=STORY, **sampling):
    return list(generator.generate(turns, Sampling(**{"max_tokens": 12, **sampling})))


def text(pieces):
    return "".join(piece.text for piece in pieces)


@pytest.fixture(scope="module")
def greedy(generator):
    return written(generator)


def test_the_last_piece_alone_says_why_it_is_the_last(greedy):
    assert text(greedy).strip()
    assert [piece.end for piece in greedy[:-1]] == [None] * (len(greedy) - 1)
    assert greedy[-1].end in ("stop", "length")
    assert all(piece.text for piece in greedy[:-1])


def test_it_comes_in_pieces(greedy):
    assert len([piece for piece in greedy if piece.text]) > 2


def test_probabilities_are_probabilities(greedy):
    told = [piece.logprob for piece in greedy if piece.logprob is not None]
    assert all(logprob <= 1e-6 for logprob in told)


def test_no_more_tokens_than_allowed(generator):
    short = written(generator, max_tokens=3)
    assert short[-1].end == "length"
    assert 1 <= len([piece for piece in short if piece.text]) <= 3


def test_fewer_tokens_are_the_beginning_of_more(generator, greedy):
    assert text(greedy).startswith(text(written(generator, max_tokens=3)))


def test_the_likeliest_is_always_the_same(generator, greedy):
    assert text(written(generator)) == text(greedy)
    assert text(written(generator, seed=7)) == text(greedy)


def test_seeds_decide(generator):
    said = {seed: text(written(generator, temperature=1.5, seed=seed)) for seed in (1, 2, 3)}
    assert len(set(said.values())) > 1
    assert text(written(generator, temperature=1.5, seed=2)) == said[2]


def test_a_narrow_nucleus_is_the_likeliest(generator, greedy):
    if generator.card.family == "writer":
        pytest.skip("the toy has no probabilities to choose by")
    assert text(written(generator, temperature=1.5, nucleus=1e-6, seed=5)) == text(greedy)


@pytest.mark.parametrize("length", [1, 3, 9])
def test_a_stop_text_ends_it_and_is_not_given(generator, greedy, length):
    whole = text(greedy)
    stop = whole[len(whole) // 3 :][:length]
    stopped = written(generator, stop=("never said, at all", stop))
    assert stopped[-1].end == "stop"
    assert text(stopped) == whole[: whole.index(stop)]


def test_a_stop_text_across_two_pieces(generator, greedy):
    whole = text(greedy)
    pieces = [piece.text for piece in greedy if piece.text]
    first, second = next((a, b) for a, b in pairwise(pieces[1:]) if len(a) > 1 and len(b) > 1)
    stop = first[-1] + second[:2]
    assert text(written(generator, stop=(stop,))) == whole[: whole.index(stop)]


def test_what_begins_like_a_stop_text_is_given(generator, greedy):
    pieces = [piece.text for piece in greedy if piece.text]
    assert text(written(generator, stop=(pieces[1] + "§", text(greedy) + "§"))) == text(greedy)


def test_characters_are_whole(generator):
    pieces = written(generator, CHINESE, temperature=1.0, max_tokens=24, seed=3)
    assert "\ufffd" not in text(pieces)
    assert all(piece.text.encode("utf-8").decode("utf-8") == piece.text for piece in pieces)


def test_what_was_said_before_counts(generator, greedy):
    before = (Turn("user", "Name a colour."), Turn("assistant", "Blue."), Turn("user", "Name a fish and a bird."))
    assert text(written(generator, before)) != text(greedy)
    assert text(written(generator, (Turn("system", "Answer in Latin."), *STORY))) == text(
        written(generator, (Turn("system", "Answer in Latin."), *STORY))
    )


def test_it_goes_on_with_what_the_assistant_has_begun(generator, greedy):
    told = [piece.text for piece in greedy if piece.text]
    beginning = "".join(told[:4])
    turns = (*STORY, Turn("assistant", beginning))
    rest = written(generator, turns, max_tokens=4)
    assert [piece.end for piece in rest[:-1]] == [None] * (len(rest) - 1)
    assert rest[-1].end
    assert generator.count_turns(STORY) < generator.count_turns(turns)
    assert text(rest) != text(written(generator, max_tokens=4))
    if generator.card.family not in ("blip2", "hf"):  # tiny ones of chance write what is read as other tokens
        assert text(rest).startswith(told[4])


def test_tokens_are_counted(generator):
    counts = [generator.count_turns((Turn("user", "a dog on a beach " * times),)) for times in (1, 2, 20)]
    assert 0 < counts[0] < counts[1] < counts[2] < generator.context_tokens
    longer = generator.count_turns((Turn("system", "Be brief, and say where you know it from."), *STORY))
    assert longer > generator.count_turns((Turn("system", "Be brief."), *STORY))


def test_too_long_a_conversation(generator):
    turns = (Turn("user", "dog " * (generator.context_tokens + 20)),)
    count = generator.count_turns(turns)
    with pytest.raises(GenerationError) as caught:
        written(generator, turns)
    assert f"{count:,}" in str(caught.value)
    assert f"{generator.context_tokens:,}" in str(caught.value)


def test_time_runs_out(generator):
    with pytest.raises(GenerationError, match=r"0\.005 s"):
        written(generator, max_tokens=300, seconds=0.005)
    assert text(written(generator, max_tokens=1))


def test_another_thread_cancels(generator):
    cancel = threading.Event()
    pieces = generator.generate(STORY, Sampling(max_tokens=400), cancel=cancel)
    begun = next(pieces)
    threading.Timer(0.02, cancel.set).start()
    cancel.wait()
    start = time.perf_counter()
    rest = list(pieces)
    assert time.perf_counter() - start < 1
    assert (begun.end, rest[-1].end) == (None, "cancelled")
    assert not any(piece.end for piece in rest[:-1])


def test_cancelled_before_it_began(generator):
    cancel = threading.Event()
    cancel.set()
    assert [piece.end for piece in generator.generate(STORY, cancel=cancel)] == ["cancelled"]


def test_leaving_frees_it(generator, greedy):
    pieces = generator.generate(STORY, Sampling(max_tokens=400))
    next(pieces)
    pieces.close()
    start = time.perf_counter()
    assert text(written(generator, max_tokens=1))
    assert time.perf_counter() - start < 5  # 400 tokens take longer than that where this was made
    assert text(written(generator)) == text(greedy)


def test_threads_share_it(generator, greedy):
    with ThreadPoolExecutor(3) as pool:
        for pieces in pool.map(lambda _: written(generator), range(3)):
            assert text(pieces) == text(greedy)


@pytest.mark.parametrize(
    ("turns", "reason"),
    [
        ((), "no turns"),
        ((Turn("user", "a"), Turn("assistant", " ")), "what the assistant has begun has words"),
        ((Turn("system", "a"), Turn("assistant", "b")), "stands behind the turn of the user"),
        ((Turn("system", "a"),), "the system's"),
        ((Turn("user", "a"), Turn("system", "b"), Turn("user", "c")), "comes first"),
    ],
)
def test_what_is_no_conversation(generator, turns, reason):
    with pytest.raises(InputError, match=reason):
        written(generator, turns)
    with pytest.raises(InputError, match=reason):
        generator.count_turns(turns)


def test_pictures_are_for_those_that_see(generator):
    picture = Image.new("RGB", (64, 48), (200, 30, 30))
    turns = (Turn("user", "What is this?", (picture,)),)
    if generator.sees:
        assert written(generator, turns)[-1].end
        assert generator.image_tokens > 0
        assert generator.count_turns(turns) > generator.count_turns((Turn("user", "What is this?"),))
    else:
        with pytest.raises(InputError, match="sees no pictures"):
            written(generator, turns)


def test_the_identity_is_the_cards(generator):
    assert "generator" in generator.card.roles
    assert (generator.identity.name, generator.identity.revision) == (generator.card.name, generator.card.revision)
    assert generator.context_tokens >= 64
    generator.verify()
