"""Does a follow-up find what it means? Rewriting by rules and by a language model, over hand-made conversations.

    python -m benchmarks.followups                        # rules alone
    python -m benchmarks.followups --generator smollm2    # and a language model, with and without its guard

Each line of followups.txt has a question, its answer, what is asked then, and the same written out by hand ("=": it is
complete as it is). What is rewritten is embedded by the built-in model's text tower: it is right if the nearest of all
questions that were written out by hand is its own; there are three of each conversation, so that naming its topic is
not enough. Every other line was looked at while the rules were written. What is complete should stay as it is.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.report import publish
from mmrag.compose import followup
from mmrag.compose.answer import Answer, Evidence
from mmrag.models.registry import load_encoder, load_generator
from mmrag.roles import Encoder, Generator

Rewriting = Callable[[str, Answer], str]


@dataclass(frozen=True)
class Case:
    """A question, after another and its answer, and what it means."""

    before: Answer
    question: str
    meant: str

    @property
    def is_complete(self) -> bool:
        """Whether it can be understood by itself."""
        return self.question == self.meant


def read_cases() -> list[Case]:
    cases = []
    for line in Path(__file__).with_name("followups.txt").read_text("utf-8").splitlines():
        first, answer, question, meant = line.split(" | ")
        before = Answer(first, answer, evidence=(Evidence(answer, (0, len(answer))),))
        cases.append(Case(before, question, question if meant == "=" else meant))
    return cases


def measure(cases: list[Case], rewriting: Rewriting, encoder: Encoder) -> dict[str, Any]:
    made = [rewriting(case.question, case.before) for case in cases]
    meant = encoder.encode_text([case.meant for case in cases])
    cosines = encoder.encode_text(made) @ meant.T  # (made, meant)
    open_ones = np.array([not case.is_complete for case in cases])
    right = cosines.argmax(axis=1) == np.arange(len(cases))
    looked_at = np.arange(len(cases)) % 2 == 0
    kept = [text == case.question for text, case in zip(made, cases, strict=True) if case.is_complete]
    return {
        "nearest is its own, looked at": _percent(right[open_ones & looked_at]),
        "nearest is its own, not looked at": _percent(right[open_ones & ~looked_at]),
        "mean cosine with what is meant": round(float(np.diag(cosines)[open_ones].mean()), 3),
        "complete ones that stay": _percent(np.array(kept)),
        "rewritten": {case.question: text for case, text in list(zip(cases, made, strict=True))[::2]},
    }


def _percent(right: np.ndarray) -> float:
    return round(100 * float(right.mean()), 1)


def by_model(generator: Generator) -> tuple[Rewriting, Rewriting]:
    """Give a model's rewriting as it is, and as a chat takes it: only where one is needed and it can be trusted."""
    patient = replace(followup.REWRITING, seconds=600.0)

    @functools.cache
    def unguarded(question: str, before: Answer) -> str:
        return followup.ask_to_rewrite(question, [before], generator, patient)

    def guarded(question: str, before: Answer) -> str:
        by_rules = followup.rewrite(question, before)
        if by_rules == question:
            return question
        said = unguarded(question, before)
        return said if followup.is_faithful(said, question, [before]) else by_rules

    return unguarded, guarded


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--generator")
    chosen = parser.parse_args()
    cases, encoder = read_cases(), load_encoder("builtin")
    ways: dict[str, Rewriting] = {
        "as it is asked": lambda question, before: question,  # noqa: ARG005
        "behind the question before": lambda question, before: f"{before.question} {question}",
        "by rules": followup.rewrite,
    }
    if chosen.generator:
        generator = load_generator(chosen.generator)
        unguarded, guarded = by_model(generator)
        ways[f"by {chosen.generator}, unguarded"] = unguarded
        ways[f"by {chosen.generator}, guarded, else by rules"] = guarded
    complete = sum(case.is_complete for case in cases)
    report: dict[str, Any] = {"follow-ups": len(cases) - complete, "complete questions": complete}
    for name, rewriting in ways.items():
        report[name] = measure(cases, rewriting, encoder)
        print(name, {key: value for key, value in report[name].items() if key != "rewritten"})
    publish("followups", report)


if __name__ == "__main__":
    main()
