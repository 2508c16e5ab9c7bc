"""Can one tell whether a source says what a sentence says? Fits and measures the probabilities of evidence.

    python -m benchmarks.grounding          # measures on pictures that nothing was fitted on
    python -m benchmarks.grounding --fit    # and writes mmrag/compose/odds.toml

Photographs of Flickr8k's validation part, which the built-in model has not seen: 400 to fit, 600 to measure. A source
is a picture with one or three of its captions as words. Sentences for it: another caption of the same picture; and four
kinds that it does not support, among them hard ones:

- random: a caption of another picture
- nearest: the caption of another picture that is nearest to the source's words, and quite often fits it as well
- number, colour, noun: the other caption with one word changed; compared with the same captions unchanged

AUROC is the share of pairs in which the supported sentence has the higher probability: by the words, by the matcher
that looks at the picture, and by the better of both. Questions are those of benchmarks/questions.py, asked of an index
of half of the pictures: AUROC of sources that are right for a question against those that are not, and of the likeliest
source of a question that the index answers against one that it does not.
"""

from __future__ import annotations

import argparse
import math
import random
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

import mmrag
from benchmarks.nothing import auroc
from benchmarks.questions import QuestionSet, make_questions
from benchmarks.report import publish
from mmrag.compose.answer import Source
from mmrag.compose.comparison import Comparison
from mmrag.compose.odds import ODDS_FILE, FittedOdds, Odds, fitted_odds
from mmrag.compose.support import contradicted
from mmrag.models.registry import load_encoder, load_matcher
from mmrag.roles import Encoder, Matcher
from mmrag.sources.image import read_image
from mmrag.sources.pairs import Pair, read_pairs
from mmrag.types import Item

FITTED = 400
SOURCES = 5
AGAINST = ("contradictions", "unsaid")
CHANGED = ("number", "colour", "noun")
_NUMBERS = "two three four five six"
_COLOURS = "red yellow green blue pink brown black white orange purple"
_NOUNS = (
    "man/woman boy/girl dog/cat men/women boys/girls dogs/cats beach/street snow/sand grass/water ball/book bike/horse"
)


@dataclass(frozen=True)
class Sample:
    """A sentence and a source; `kind` says how the sentence was made, and `place` which picture the source is."""

    kind: str
    place: int
    sentence: str
    source: Source


@dataclass(frozen=True)
class Scored:
    """Samples with the scores that probabilities are made of: a mapping of names each; `shows` has those of a look."""

    samples: Sequence[Sample]
    supports: Sequence[dict[str, float]]
    supports_by_words: Sequence[dict[str, float]]
    shows: Sequence[dict[str, float]]


def make_samples(pairs: Sequence[Pair], vectors: np.ndarray, captions: int, chance: random.Random) -> list[Sample]:
    """Make the sentences of all kinds for each picture; `vectors` are those of the captions, ``(pairs, 5, d)``."""
    samples = []
    near = vectors[:, 1] @ vectors[:, 0].T  # (pairs, pairs): of each source's first caption with each sentence
    np.fill_diagonal(near, -1)
    for place, pair in enumerate(pairs):
        source = Source(1, Item(pair.id), "\n".join(pair.texts[1 : 1 + captions]))
        other = chance.choice([one for one in range(len(pairs)) if one != place])
        sentences = {
            "supported": pair.texts[0],
            "random": pairs[other].texts[0],
            "nearest": pairs[int(near[place].argmax())].texts[0],
            **changed(pair.texts[0], chance),
        }
        samples += [Sample(kind, place, sentence, source) for kind, sentence in sentences.items()]
    return samples


def changed(caption: str, chance: random.Random) -> dict[str, str]:
    """Change one word of a caption, by kind: a number, a colour or a noun into another, where there is one."""
    others = {
        **{("number", word): [one for one in _NUMBERS.split() if one != word] for word in _NUMBERS.split()},
        **{("colour", word): [one for one in _COLOURS.split() if one != word] for word in _COLOURS.split()},
        **{
            ("noun", word): [one for one in both.split("/") if one != word]
            for both in _NOUNS.split()
            for word in both.split("/")
        },
    }
    words = caption.split()
    made = {}
    for kind in CHANGED:
        places = [n for n, word in enumerate(words) if (kind, word.lower()) in others]
        if places:
            at = chance.choice(places)
            made[kind] = " ".join([*words[:at], chance.choice(others[kind, words[at].lower()]), *words[at + 1 :]])
    return made


def look(samples: Sequence[Sample], features: Any, matcher: Matcher) -> list[dict[str, float]]:
    """Have the matcher look at the picture of each sample."""
    wanted = np.zeros((len(samples), len(features)), dtype=bool)
    wanted[range(len(samples)), [one.place for one in samples]] = True
    judged = matcher.match([one.sentence for one in samples], features, wanted)
    each = range(len(samples)), [one.place for one in samples]
    chances = np.clip(judged.probabilities[each], 1e-6, 1 - 1e-6).astype(float)
    pairs = zip(chances.tolist(), judged.cosines[each].tolist(), strict=True)
    return [{"log_odds": math.log(chance / (1 - chance)), "cosine": cosine} for chance, cosine in pairs]


def compare(samples: Sequence[Sample], comparison: Comparison) -> list[dict[str, float]]:
    """Compare each sample's sentence with its source's words."""
    return [dict(comparison.supports(one.sentence, [one.source])[1].parts) for one in samples]


def fit(parts: Sequence[dict[str, float]], right: Sequence[bool], share: Sequence[float]) -> Odds:
    """Fit a logistic regression, each sample weighing its share; scores that would count the wrong way are left out."""
    names = list(parts[0])
    while True:
        weights = newton([[1.0, *(one[name] for name in names)] for one in parts], right, share)
        wrong = [name for name, weight in zip(names, weights[1:], strict=True) if (weight > 0) == (name in AGAINST)]
        if not wrong:
            return Odds(float(weights[0]), **dict(zip(names, weights[1:].tolist(), strict=True)))
        names = [name for name in names if name not in wrong]


def newton(rows: Sequence[Sequence[float]], right: Sequence[bool], share: Sequence[float]) -> np.ndarray:
    """Find the weights of a logistic regression, the bias first, rounded to three places."""
    features = np.array(rows)
    labels, shares = np.array(right, dtype=float), np.array(share) * len(rows) / sum(share)
    weights = np.zeros(features.shape[1])
    for _ in range(50):
        chance = 1 / (1 + np.exp(-features @ weights))
        slope = features.T @ (shares * (labels - chance)) - 1e-3 * weights
        curve = (features * (shares * chance * (1 - chance))[:, None]).T @ features + 1e-3 * np.eye(len(weights))
        weights += np.linalg.solve(curve, slope)
    return np.round(weights, 3)


def shares(kinds: Sequence[str]) -> list[float]:
    """Let the supported weigh as much as all others together, and of these each kind the same."""
    count = {kind: kinds.count(kind) for kind in kinds}
    return [1 / count[kind] / (1 if kind == "supported" else len(count) - 1) for kind in kinds]


def measure_support(scored: Scored, odds: FittedOdds) -> dict[str, Any]:
    """AUROC by kind of sentence, and what is said to be supported, of sources with as many captions as these have."""
    words = _probabilities(odds.supports, scored.supports)
    look = _probabilities(odds.shows, scored.shows)
    by = {
        "words": words,
        "words without an encoder": _probabilities(odds.supports_by_words, scored.supports_by_words),
        "matcher": look,
        "the better of words and matcher": np.maximum(words, look),
        "the same, but words alone where they contradict, as evidence is made": np.where(
            [contradicted(one) for one in scored.supports], words, np.maximum(words, look)
        ),
    }
    return {name: _by_kind(scored.samples, found, odds.least_support) for name, found in by.items()}


def _by_kind(samples: Sequence[Sample], found: np.ndarray, least: float) -> dict[str, Any]:
    kinds = np.array([one.kind for one in samples])
    place = np.array([one.place for one in samples])
    right = kinds == "supported"
    areas = {}
    for kind in ("random", "nearest", *CHANGED):
        like = right & np.isin(place, place[kinds == kind]) if kind in CHANGED else right
        areas[kind] = round(auroc(found[like], found[kinds == kind]), 3)
    said = {
        kind: round(100 * float((found[kinds == kind] >= least).mean()), 1) for kind in dict.fromkeys(kinds.tolist())
    }
    return {"AUROC": {**areas, "mean": round(sum(areas.values()) / len(areas), 3)}, "said to be supported, %": said}


def _probabilities(odds: Odds, parts: Sequence[dict[str, float]]) -> np.ndarray:
    return np.array([odds.probability(one) for one in parts])


@dataclass(frozen=True)
class Retrieved:
    """For each question, its likeliest passage of each source that a search has found, with and without an encoder."""

    answerable: list[bool]
    right: list[list[bool]]
    answers: list[list[dict[str, float]]]
    answers_by_words: list[list[dict[str, float]]]


def retrieve(questions: QuestionSet, encoder: Encoder) -> Retrieved:
    """Ask an index of the pictures and their words all questions, by words and vectors."""
    comparisons = {"answers": Comparison(encoder), "answers_by_words": Comparison(None)}
    found = Retrieved([one.answerable for one in questions.questions], [], [], [])
    with tempfile.TemporaryDirectory() as home:
        index = mmrag.create(home, model="builtin")
        index.add([Item(pair.id, id=pair.id, image=pair.image, text=words) for pair, words in questions.pictures])
        hits = index.search([one.text for one in questions.questions], k=SOURCES, pipeline="hybrid")
    for question, some in zip(questions.questions, hits, strict=True):
        sources = [Source(n, hit.item, hit.item.text or "", hit) for n, hit in enumerate(some, start=1)]
        found.right.append([source.item.id in questions.alike[question.text] for source in sources])
        for name, comparison in comparisons.items():
            each = comparison.answering(question.text, sources)
            best = {one.source.number: dict(one.parts) for one in reversed(each)}
            getattr(found, name).append([best[source.number] for source in sources])
    return found


def measure_answers(found: Retrieved, name: str, odds: Odds, least: float) -> dict[str, float]:
    """AUROC of single sources and of whole questions, and what the threshold does to these."""
    each = [_probabilities(odds, some) for some in getattr(found, name)]
    right = np.concatenate(found.right)
    single = np.concatenate(each)
    best = np.array([one.max() for one in each])
    answerable = np.array(found.answerable)
    return {
        "AUROC of a source": round(auroc(single[right], single[~right]), 3),
        "AUROC of a question": round(auroc(best[answerable], best[~answerable]), 3),
        "answerable, refused %": round(100 * float((best[answerable] < least).mean()), 1),
        "not answerable, refused %": round(100 * float((best[~answerable] < least).mean()), 1),
    }


def fit_answers(found: Retrieved, name: str) -> tuple[Odds, float]:
    """Fit the odds of single sources, and find the threshold that is right about most questions."""
    parts = [one for some in getattr(found, name) for one in some]
    right = [one for some in found.right for one in some]
    odds = fit(parts, right, [1 / (sum(right) if one else len(right) - sum(right)) for one in right])
    best = np.array([_probabilities(odds, some).max() for some in getattr(found, name)])
    answerable = np.array(found.answerable)
    hits = [((best >= least) == answerable).mean() for least in np.sort(best)]
    return odds, round(float(np.sort(best)[int(np.argmax(hits))]), 3)


def fit_all(scored: Sequence[Scored], found: Retrieved, data: str) -> FittedOdds:
    kinds = [one.kind for some in scored for one in some.samples]
    right = [kind == "supported" for kind in kinds]

    def fitted(name: str) -> Odds:
        return fit([one for some in scored for one in getattr(some, name)], right, shares(kinds))

    answers, least = fit_answers(found, "answers")
    by_words, least_by_words = fit_answers(found, "answers_by_words")
    return FittedOdds(
        *("builtin", "builtin", data),
        *(fitted("supports"), fitted("supports_by_words"), fitted("shows")),
        *(answers, by_words, 0.5, least, least_by_words),
    )


def as_toml(odds: FittedOdds) -> str:
    plain = [one.name for one in fields(odds) if not isinstance(getattr(odds, one.name), Odds)]
    lines = [f"{name} = {_toml(getattr(odds, name))}" for name in plain]
    for one in fields(odds):
        weights = getattr(odds, one.name)
        if isinstance(weights, Odds):
            kept = {part.name: getattr(weights, part.name) for part in fields(weights)}
            lines += ["", f"[{one.name}]", *(f"{name} = {value}" for name, value in kept.items() if value)]
    return "\n".join(lines) + "\n"


def _toml(value: str | float) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value)


def prepare(pairs: Sequence[Pair], encoder: Encoder, matcher: Matcher) -> tuple[dict[str, Scored], Retrieved]:
    """Score the samples of some pictures, with one and with three captions as words, and ask about them."""
    vectors = encoder.encode_text([text for one in pairs for text in one.texts]).reshape(len(pairs), 5, -1)
    features = matcher.features([read_image(one.image, at_least=matcher.decode_at_least) for one in pairs])
    by_count = {count: make_samples(pairs, vectors, count, random.Random(0)) for count in (1, 3)}
    looked = look(by_count[1], features, matcher)  # the sentences are the same, whatever the words of the sources
    scored = {
        f"{count} of its captions": Scored(
            samples, compare(samples, Comparison(encoder)), compare(samples, Comparison(None)), looked
        )
        for count, samples in by_count.items()
    }
    return scored, retrieve(make_questions(pairs, encoder), encoder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flickr8k", type=Path, default=Path("../shared/data/flickr8k"))
    parser.add_argument("--fit", action="store_true", help="write mmrag/compose/odds.toml")
    options = parser.parse_args()
    pairs = list(read_pairs([options.flickr8k / "val-00.tar"]))
    encoder, matcher = load_encoder("builtin"), load_matcher("builtin")
    odds = fitted_odds()
    if options.fit:
        data = f"Flickr8k val, the first {FITTED} photographs: python -m benchmarks.grounding --fit"
        scored, found = prepare(pairs[:FITTED], encoder, matcher)
        odds = fit_all(list(scored.values()), found, data)
        ODDS_FILE.write_text(as_toml(odds), encoding="utf-8")
    scored, found = prepare(pairs[FITTED:], encoder, matcher)
    report = {
        "photographs": len(pairs) - FITTED,
        "support": {name: measure_support(some, odds) for name, some in scored.items()},
        "questions": {
            "asked": len(found.answerable),
            "the right picture is among the sources, %": round(
                100
                * float(np.mean([any(one) for one, there in zip(found.right, found.answerable, strict=True) if there])),
                1,
            ),
            "with an encoder": measure_answers(found, "answers", odds.answers, odds.least_answer),
            "by words alone": measure_answers(
                found, "answers_by_words", odds.answers_by_words, odds.least_answer_by_words
            ),
        },
    }
    for name, some in (*report["support"].items(), ("questions", report["questions"])):
        print(name, *(f"  {key} {value}" for key, value in some.items()), sep="\n")
    publish("grounding", report)


if __name__ == "__main__":
    main()
