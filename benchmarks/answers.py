"""Are answers right, do they cite the right pictures, and do they say so when nothing answers? Questions on Flickr8k.

    python -m benchmarks.answers --generator extractive smollm2        # as many as are to be compared
    python -m benchmarks.answers --asked 40                            # a quick look

The index has 300 photographs of the validation part, each with three of its captions as words; that part of the data
on which nothing was fitted (benchmarks/grounding.py). Questions are made by rules from another caption of a picture
(benchmarks/questions.py): of photographs in the index, and as many of others, which nothing there answers.

- right: the answer has the word that was asked for, in any ending, and numbers as words or digits. Quotes that have it
  among others count, so the first sentence is looked at by itself, too. Where nothing answers, right is to refuse.
- citations, precision: of all that are cited, those of the picture asked about, or of one with a caption that says
  nearly the same. Recall: of all questions that the index answers, those in which its own picture is cited; at most
  those in which it was found.
- unsupported: of the sentences that claim something, those that no source they cite is believed to say.
- seconds of the whole call, with a warm index; the first question is asked once before.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import mmrag
from benchmarks.grounding import FITTED
from benchmarks.questions import Question, QuestionSet, make_questions
from benchmarks.report import publish
from mmrag.compose.answer import Answer
from mmrag.compose.wording import wording
from mmrag.models.registry import load_encoder
from mmrag.sources.pairs import read_pairs
from mmrag.types import Item

Ask = Callable[[str], Answer]


@dataclass(frozen=True)
class Answered:
    """A question, what was answered, the pictures that are right for it, and how long it took."""

    question: Question
    answer: Answer
    alike: frozenset[str]
    seconds: float

    @property
    def has_it(self) -> bool:
        """Whether what was asked for stands anywhere in the answer."""
        said = " ".join(one.sentence for one in self.answer.evidence)
        return not self.answer.refused and bool(self.question.expected & wording(said).stems)

    @property
    def has_it_first(self) -> bool:
        """Whether it stands in the first sentence."""
        first = next((one.sentence for one in self.answer.evidence), "")
        return not self.answer.refused and bool(self.question.expected & wording(first).stems)

    @property
    def cited(self) -> list[str]:
        """The pictures that are cited."""
        return [source.item.id for source in self.answer.citations]

    @property
    def found(self) -> bool:
        """Whether the picture that is asked about was found."""
        return self.question.picture in {source.item.id for source in self.answer.sources}


def make_index(questions: QuestionSet, home: Path) -> mmrag.Index:
    """Write the photographs into a folder, and index them with their words."""
    for pair, _ in questions.pictures:
        (home / f"{pair.id}.jpg").write_bytes(pair.image)
    index = mmrag.create(home, model="builtin")
    index.add([Item(f"{pair.id}.jpg", id=pair.id, text=words) for pair, words in questions.pictures])
    return index


def answer_all(asked: Sequence[Question], alike: dict[str, frozenset[str]], ask: Ask) -> list[Answered]:
    ask(asked[0].text)
    answered = []
    for question in asked:
        start = time.perf_counter()
        answer = ask(question.text)
        answered.append(Answered(question, answer, alike[question.text], time.perf_counter() - start))
    return answered


def figures(answered: Sequence[Answered]) -> dict[str, Any]:
    """Sum up, in percent."""
    there = [one for one in answered if one.question.answerable]
    absent = [one for one in answered if not one.question.answerable]
    claims = [each for one in answered for each in one.answer.evidence if each.supported is not None]
    cited = [name in one.alike for one in there for name in one.cited]
    seconds = sorted(one.seconds for one in answered)
    kinds = sorted({one.question.kind for one in there})
    return {
        "questions": len(answered),
        "right, all": share([one.has_it if one.question.answerable else one.answer.refused for one in answered]),
        "answerable": {
            "its picture was found": share([one.found for one in there]),
            "right": share([one.has_it for one in there]),
            "right in the first sentence": share([one.has_it_first for one in there]),
            "refused": share([one.answer.refused for one in there]),
            "right, by kind": {kind: share([o.has_it for o in there if o.question.kind == kind]) for kind in kinds},
            "citations, precision": share(cited),
            "citations, recall": share([one.question.picture in one.cited for one in there]),
            "sentences cited": share([bool(each.citations) for one in there for each in one.answer.evidence]),
        },
        "not answerable": {"refused": share([one.answer.refused for one in absent])},
        "unsupported sentences": share([each.supported is False for each in claims]),
        "sentences per answer": round(
            float(np.mean([len(o.answer.evidence) for o in there if not o.answer.refused])), 2
        )
        if any(not one.answer.refused for one in there)
        else 0.0,
        "seconds, median": round(seconds[len(seconds) // 2], 3),
        "seconds, 90 %": round(seconds[int(0.9 * len(seconds))], 3),
    }


def share(held: Sequence[bool]) -> float | None:
    """How many of a list hold, in percent; None of an empty one."""
    return round(100 * sum(held) / len(held), 1) if held else None


def show(answered: Sequence[Answered], count: int = 12) -> None:
    """Print the first answers as they are, unselected; they quote captions, which are not to be published."""
    for one in answered[:count]:
        right = one.has_it if one.question.answerable else one.answer.refused
        print(f"{one.question.text} ({'right' if right else 'wrong'})", one.answer.text, sep="\n  ")


def asker(index: mmrag.Index, generator: str, k: int | None) -> Ask:
    return lambda text: mmrag.ask(index, text, k=k, generator=generator)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flickr8k", type=Path, default=Path("../shared/data/flickr8k"))
    parser.add_argument("--generator", nargs="+", default=["extractive"])
    parser.add_argument("--k", type=int, help="how many sources at most")
    parser.add_argument("--asked", type=int, help="ask so many questions only")
    options = parser.parse_args()
    pairs = list(read_pairs([options.flickr8k / "val-00.tar"]))[FITTED:]
    questions = make_questions(pairs, load_encoder("builtin"))
    asked = questions.questions[: options.asked]
    report: dict[str, Any] = {"photographs": len(questions.pictures), "sources at most": options.k or "by default"}
    with tempfile.TemporaryDirectory() as home:
        index = make_index(questions, Path(home))
        for generator in options.generator:
            name = Path(generator).name
            answered = answer_all(asked, questions.alike, asker(index, generator, options.k))
            report[name] = figures(answered)
            show(answered)
            print(name, *(f"  {key}: {value}" for key, value in figures(answered).items()), sep="\n")
    publish("answers", report)


if __name__ == "__main__":
    main()
