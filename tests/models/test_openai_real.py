"""A real OpenAI-compatible server, llama.cpp's with SmolLM2, on this machine and behind a key."""

from __future__ import annotations

import json
import threading
import urllib.request

import pytest

from mmrag.errors import GenerationError
from mmrag.models.openai_server import OpenAIGenerator
from mmrag.models.server_card import ServerCard
from mmrag.roles import Piece, Sampling, Turn
from tests.models.llama_server import CONTEXT, start

KEY = "sk-of-this-test"
ASKED = [Turn("system", "Answer in one short sentence."), Turn("user", "What is the capital of France?")]


@pytest.fixture(scope="module")
def address():
    server = start(api_keys=[KEY])
    yield server.listening_address
    del server


@pytest.fixture
def generator(address, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    return OpenAIGenerator(ServerCard("smollm2", f"{address}/v1", context=CONTEXT))


def ask_plainly(address, turns, max_tokens):
    """Ask the server by hand, for the whole answer at once."""
    messages = [{"role": turn.who, "content": turn.text} for turn in turns]
    body = {"messages": messages, "max_tokens": max_tokens, "temperature": 0, "logprobs": True}
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    url = f"{address}/v1/chat/completions"
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)  # noqa: S310
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with direct.open(request, timeout=60) as answer:
        return json.load(answer)


def test_the_words_and_their_probabilities_are_those_that_the_server_gives_at_once(generator, address):
    pieces = list(generator.generate(ASKED, Sampling(max_tokens=12)))
    choice = ask_plainly(address, ASKED, 12)["choices"][0]
    assert "".join(piece.text for piece in pieces) == choice["message"]["content"]
    assert pieces[-1].end == choice["finish_reason"]
    total = sum(one["logprob"] for one in choice["logprobs"]["content"])
    assert sum(piece.logprob or 0 for piece in pieces) == pytest.approx(total, abs=0.2)


def test_a_seed_decides_what_is_sampled(generator):
    def write(seed):
        sampling = Sampling(max_tokens=4, temperature=1.5, seed=seed)
        return "".join(piece.text for piece in generator.generate(ASKED, sampling))

    assert write(1) == write(1)
    assert len({write(seed) for seed in range(1, 4)}) > 1


def test_no_more_is_written_than_asked_for(generator):
    pieces = list(generator.generate([Turn("user", "Count from one to fifty.")], Sampling(max_tokens=5)))
    assert pieces[-1] == Piece("", end="length")
    assert 1 < len(pieces) <= 6


def test_it_goes_on_after_it_was_cancelled(generator):
    cancel = threading.Event()
    pieces = generator.generate([Turn("user", "Tell me a long story.")], Sampling(max_tokens=500), cancel=cancel)
    assert next(pieces).text
    cancel.set()
    assert [piece.end for piece in pieces][-1] == "cancelled"
    assert list(generator.generate(ASKED, Sampling(max_tokens=2)))


def test_the_wrong_key_is_refused(generator, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-another")
    with pytest.raises(GenerationError, match="refuses the key in OPENAI_API_KEY; set OPENAI_API_KEY to one"):
        list(generator.generate(ASKED))


def test_what_is_longer_than_the_server_reads_is_refused_in_its_words(address, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    boastful = OpenAIGenerator(ServerCard("smollm2", f"{address}/v1", context=100_000))
    with pytest.raises(GenerationError, match=r"refuses what it is asked \(400: '.*context"):
        list(boastful.generate([Turn("user", "word " * 2000)]))


@pytest.mark.parametrize(
    "text",
    [
        "A dog runs along the beach. " * 4,
        "一只狗在沙滩上奔跑，天空很蓝。" * 4,
        "def f(x):\n    return x**2 + 3 * [1, 2, 3]\n" * 4,
        "2024-06-30\t48.8566\t1,250,000\n" * 4,
        "Собака бежит по пляжу. " * 4,
        "Straßenüberführungsgenehmigung für Äpfel " * 4,
        "🐶🏖️👨‍👩‍👧" * 4,
    ],
)
def test_tokens_are_not_counted_too_low(generator, address, text):
    turns = [Turn("user", text)]
    assert generator.count_turns(turns) >= ask_plainly(address, turns, 1)["usage"]["prompt_tokens"]
