"""Does it help to search again while an answer is written, and what does it cost? Questions on Flickr8k, by SmolLM2.

    python -m benchmarks.active                 # 60 questions, each answered without and with --active
    python -m benchmarks.active --asked 200     # more of them

Index, questions and figures are those of `benchmarks.answers`. Each question is answered both ways, one after the
other. A call is one time that the generator is asked to write; what it reads and writes is counted in tokens, with what
is thrown away because sources were found. Where nothing likely is found at first nobody writes, so these questions
cannot differ.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from threading import Event
from typing import Any

import mmrag
from benchmarks.answers import Answered, figures, make_index
from benchmarks.grounding import FITTED
from benchmarks.questions import make_questions
from benchmarks.report import publish
from mmrag.models.registry import load_encoder, load_generator
from mmrag.roles import Generator, Piece, Sampling, Turn
from mmrag.search.answering import AnswerOptions
from mmrag.sources.pairs import read_pairs

WAYS = {"without": False, "active": True}
SAMPLING = Sampling(AnswerOptions().max_tokens, seconds=900)


class Counted(Generator):
    """A generator of which it is counted how often it writes, and how many tokens."""

    chats = True

    def __init__(self, inner: Generator) -> None:
        self._inner, self.card, self.identity = inner, inner.card, inner.identity
        self.counts: Counter[str] = Counter()

    def count_turns(self, turns: Sequence[Turn]) -> int:  # noqa: D102
        return self._inner.count_turns(turns)

    def generate(  # noqa: D102
        self, turns: Sequence[Turn], sampling: Sampling | None = None, *, cancel: Event | None = None
    ) -> Iterator[Piece]:
        self.counts.update(calls=1, read=self.count_turns(turns))
        for piece in self._inner.generate(turns, sampling, cancel=cancel):
            self.counts["written"] += 1
            yield piece


def compared(ways: dict[str, list[Answered]], counts: dict[str, Counter[str]]) -> dict[str, Any]:
    """Sum up both ways, and where they differ."""
    plain, active = ways.values()
    steps = [step for one in active for step in one.answer.steps if step.kind == "retrieve"]
    searched = [one for one in active if any(step.kind == "retrieve" for step in one.answer.steps)]
    pairs = list(zip(plain, active, strict=True))
    return {
        **{name: {**figures(answered), "counts": dict(counts[name])} for name, answered in ways.items()},
        "answers searched for": len(searched),
        "searches": len(steps),
        "searches that found something new": sum(step.found > 0 for step in steps),
        "answers that differ": sum(one.answer.text != other.answer.text for one, other in pairs),
        "only without is right": sum(one.has_it and not other.has_it for one, other in pairs),
        "only active is right": sum(other.has_it and not one.has_it for one, other in pairs),
        "seconds, all": {name: round(sum(one.seconds for one in answered), 1) for name, answered in ways.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flickr8k", type=Path, default=Path("../shared/data/flickr8k"))
    parser.add_argument("--generator", default="smollm2")
    parser.add_argument("--asked", type=int, default=60)
    options = parser.parse_args()
    questions = make_questions(list(read_pairs([options.flickr8k / "val-00.tar"]))[FITTED:], load_encoder("builtin"))
    writers = {name: Counted(load_generator(options.generator)) for name in WAYS}
    ways: dict[str, list[Answered]] = {name: [] for name in WAYS}
    with tempfile.TemporaryDirectory() as home:
        index = make_index(questions, Path(home))
        for number, question in enumerate(questions.questions[: options.asked], start=1):
            for name, active in WAYS.items():
                start = time.perf_counter()
                answer = mmrag.ask(index, question.text, generator=writers[name], active=active, sampling=SAMPLING)
                seconds = time.perf_counter() - start
                ways[name].append(Answered(question, answer, questions.alike[question.text], seconds))
            taken = ", ".join(f"{name} {answered[-1].seconds:.1f} s" for name, answered in ways.items())
            print(f"{number} of {options.asked}: {taken}", *(ways[name][-1].answer.text for name in WAYS), sep="\n  ")
    publish("active", compared(ways, {name: writer.counts for name, writer in writers.items()}))


if __name__ == "__main__":
    main()
