"""What answering costs beside the language model itself.

    python -m benchmarks.answering

The same prompt to `xllamacpp.Server` itself, and through `Generator.generate`, in turns; then what `mmrag.ask` made of
questions that have a short and a long answer, until all is checked, against the same turns given to the server. It is
one server, the generator's: a second one in the process makes both of them slow (31 instead of 82 tokens a second),
even while it does nothing. And how soon `mmrag ask` answers on the photographs of `make demo`: a new process, and a
library call.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from threading import Event
from typing import Any

import xllamacpp

import mmrag
from benchmarks.commands import MMRAG, environment, in_turns
from benchmarks.report import publish
from mmrag import demo
from mmrag.compose.answer import Done, Wrote
from mmrag.models.registry import load_generator
from mmrag.roles import Generator, Piece, Sampling, Turn

MODEL = "smollm2"
ROUNDS = 11
SAMPLING = Sampling(max_tokens=128)
CONTEXT = " ".join(
    f"[{n}] A brown dog runs along the beach with a red ball, and two children watch." for n in range(1, 9)
)
TURNS = (
    Turn("system", "Answer from the sources, and cite them by their numbers."),
    Turn("user", f"{CONTEXT}\nTell a long story of what happens on the beach."),
)
QUESTION = "What does the cat look like?"
LONG_QUESTION = "Tell a long story about the cat in the picture."


class Recorded(Generator):
    """A generator that keeps what it was asked, and when."""

    chats = True

    def __init__(self, inner: Generator) -> None:
        self._inner, self.card, self.identity = inner, inner.card, inner.identity
        self.turns: Sequence[Turn] = ()
        self.begun = 0.0

    def count_turns(self, turns: Sequence[Turn]) -> int:  # noqa: D102
        return self._inner.count_turns(turns)

    def generate(  # noqa: D102
        self, turns: Sequence[Turn], sampling: Sampling | None = None, *, cancel: Event | None = None
    ) -> Iterator[Piece]:
        self.turns, self.begun = turns, time.perf_counter()
        return self._inner.generate(turns, sampling, cancel=cancel)


def raw(server: xllamacpp.Server, turns: Sequence[Turn]) -> list[float]:
    """Let the server itself go on with a conversation; when each piece came, in seconds from the call."""
    came: list[float] = []
    start = time.perf_counter()

    def take(chunk: dict[str, Any]) -> bool:
        if chunk["choices"] and chunk["choices"][0]["delta"].get("content"):
            came.append(time.perf_counter() - start)
        return False

    messages = [{"role": turn.who, "content": turn.text} for turn in turns]
    wanted = {"max_tokens": SAMPLING.max_tokens, "temperature": 0, "cache_prompt": False, "stream": True}
    server.handle_chat_completions({"messages": messages, **wanted}, take)
    return came


def generated(generator: Generator) -> list[float]:
    start = time.perf_counter()
    return [time.perf_counter() - start for piece in generator.generate(TURNS, SAMPLING) if piece.text]


def asked(index: mmrag.Index, question: str, generator: Recorded) -> list[float]:
    """Ask; when each piece came, in seconds from when the generator was given the prompt, and when all was done."""
    events = mmrag.ask(index, question, generator=generator, sampling=SAMPLING, stream=True)
    return [time.perf_counter() - generator.begun for event in events if isinstance(event, Wrote | Done)]


def alternating(ways: dict[str, Callable[[], list[float]]], rounds: int) -> dict[str, Any]:
    """Measure ways in turns, after a round that is not counted; the last is compared with the first."""
    measured: dict[str, list[list[float]]] = {name: [] for name in ways}
    for turn in range(rounds + 1):
        for name, way in ways.items():
            came = way()
            if turn:
                measured[name].append(came)
    first, *_, last = ways
    ratios = [ours[-1] / theirs[-1] for ours, theirs in zip(measured[last], measured[first], strict=True)]
    return {
        name: {
            "first words, seconds": round(statistics.median(came[0] for came in all_came), 3),
            "all, seconds": round(statistics.median(came[-1] for came in all_came), 3),
            "pieces": statistics.median(len(came) for came in all_came),
            "pieces per second": round(statistics.median(len(came) / came[-1] for came in all_came), 1),
        }
        for name, all_came in measured.items()
    } | {f"{last} over {first}, median of ratios": round(statistics.median(ratios), 4)}


def writing(server: xllamacpp.Server, generator: Generator, rounds: int) -> dict[str, Any]:
    return alternating({"xllamacpp": lambda: raw(server, TURNS), "generate": lambda: generated(generator)}, rounds)


def asking(server: xllamacpp.Server, generator: Generator, index: mmrag.Index, question: str) -> dict[str, Any]:
    recorded = Recorded(generator)
    calls = []
    for _ in range(ROUNDS + 1):
        start = time.perf_counter()
        mmrag.ask(index, question, generator=recorded, sampling=SAMPLING)
        calls.append(time.perf_counter() - start)
    turns = recorded.turns
    ways = {"xllamacpp": lambda: raw(server, turns), "ask": lambda: asked(index, question, recorded)}
    return {
        "question": question,
        "tokens of the prompt": generator.count_turns(turns),
        "first call, seconds": round(calls[0], 2),
        "warm call, seconds": round(statistics.median(calls[1:]), 2),
        "streaming": alternating(ways, ROUNDS),
    }


def commands(home: Path, cache: Path, rounds: int) -> dict[str, float]:
    ask = [*MMRAG, "ask", QUESTION, "--generator"]
    ways = {name: [*ask, name] for name in (MODEL, "extractive")}
    env = environment(cache)
    times = in_turns(ways, cwd=dict.fromkeys(ways, home), env=dict.fromkeys(ways, env), rounds=rounds)
    return {f"{name}, seconds": round(taken, 2) for name, taken in times.items()}


def main() -> None:
    generator = load_generator(MODEL)
    generator.count_turns(TURNS)  # loads it
    server = generator._server
    report: dict[str, Any] = {"the generator": writing(server, generator, ROUNDS)}
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch, "demo")
        demo.prepare(home).add(home / "pictures")
        index = mmrag.open(home)
        both = [asking(server, generator, index, question) for question in (QUESTION, LONG_QUESTION)]
        report["ask, in a process that goes on"] = both
        report["mmrag ask, a new process each"] = commands(home, Path(scratch, "cache"), 5)
    publish("answering", report)


if __name__ == "__main__":
    main()
