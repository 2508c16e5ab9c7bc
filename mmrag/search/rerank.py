"""Candidates → hits in the order of a matcher, which looks at a text and an item together."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from mmrag.errors import QueryError
from mmrag.roles import Judgement, Matcher, Scores
from mmrag.search.judge import judge_pairs
from mmrag.search.queries import load_picture
from mmrag.search.recall import Found, ranked
from mmrag.types import Hit, Modality, Query

if TYPE_CHECKING:
    from mmrag.search.contents import Contents

logger = logging.getLogger("mmrag")

Progress = Callable[[int, int], None]

REJECTED = 0.5
"""From this probability on that it contains what is not wanted, a candidate is left out."""


@dataclass(frozen=True)
class Reranker:
    """Judges the best candidates of each query again.

    A matcher that sees pictures judges pictures for words, and texts for a picture; one that reads only
    judges texts for words. What it cannot judge, and what lies beyond `top`, keeps its order behind what it judged.
    Of a query with words and pictures, the words are judged. What is believed to contain words that are not wanted is
    left out; how likely that is of the others is the part "without" of a hit.

    Attributes
    ----------
    matcher : Matcher
        What judges.
    contents : Contents
        Reads candidates for it.
    top : int
        How many candidates of each query are judged.
    wrote_index : bool
        Whether the cosines of recall are those of the matcher's own encoder, and need not be computed again.
    """

    matcher: Matcher
    contents: Contents
    top: int
    wrote_index: bool

    def rerank(
        self,
        queries: Sequence[Query],
        found: Sequence[Sequence[Found]],
        *,
        k: int,
        min_score: float | None = None,
        progress: Progress | None = None,
    ) -> list[list[Hit]]:
        """Put what was found for each query into the matcher's order.

        What several queries have found is read once, and judged with those alone that have found it.

        Parameters
        ----------
        queries : sequence of Query
            What was asked.
        found : sequence of sequences of Found
            For each query, by descending cosine.
        k : int
            How many hits for each.
        min_score : float or None
            Lowest score of a match; hits without one are then left out.
        progress : callable or None
            Called with how many contents have been judged and how many there are.

        Raises
        ------
        QueryError
            If the matcher can judge nothing of what was found for a query, with the reason.
        """
        asked = [
            _Asked(n, place, found[n][place], query.words)
            for n, query in enumerate(queries)
            for place in self._judgeable(query, found[n])
        ]
        by_words = [one for one in asked if one.words]
        by_picture = [one for one in asked if not one.words]
        unwanted = [one for n, query in enumerate(queries) for one in self._unwanted(n, query, found[n])]
        matches: list[dict[int, Hit]] = [{} for _ in queries]
        contained: list[dict[int, float]] = [{} for _ in queries]
        if by_words or unwanted:
            judged = self._judge_for_words([*by_words, *unwanted], progress)
            _note(matches, by_words, judged)
            _note_contained(contained, unwanted, judged.probabilities[len(by_words) :])
        if by_picture:
            _note(matches, by_picture, self._judge_for_pictures(queries, by_picture))
        _tell_rejected(contained, queries, found)
        return [_ordered(*one, k, min_score) for one in zip(found, matches, contained, strict=True)]

    def _judgeable(self, query: Query, found: Sequence[Found]) -> list[int]:
        """Which of the candidates can be judged for a query."""
        name, sees = self.matcher.card.name, "image" in self.matcher.card.modalities
        if not query.words and not sees:
            raise QueryError(f"{name} reads texts only and cannot judge for a picture; ask in words, or do not rerank")
        wanted = self._judged_for_words if query.words else "text"
        places = self._places(found, wanted)
        if found and not places and not self._unwanted(0, query, found):
            asked, kind = ("words", wanted) if query.words else ("a picture", "text")
            raise QueryError(
                f"for {asked}, {name} can judge items of the modality {kind!r} only, and none of the "
                f"{len(found[: self.top])} candidates is one; ask otherwise, or do not rerank"
            )
        return places

    @property
    def _judged_for_words(self) -> Modality:
        return "image" if "image" in self.matcher.card.modalities else "text"

    def _places(self, found: Sequence[Found], modality: Modality) -> list[int]:
        return [n for n, one in enumerate(found[: self.top]) if one.record["modality"] == modality]

    def _unwanted(self, number: int, query: Query, found: Sequence[Found]) -> list[_Asked]:
        """List what is to be judged for words that are not wanted."""
        texts = [term.text for term in query.without if term.text]
        places = self._places(found, self._judged_for_words)
        return [_Asked(number, place, found[place], text) for text in texts for place in places]

    def _judge_for_words(self, asked: Sequence[_Asked], progress: Progress | None) -> Judgement:
        """Judge contents for words: each is read once, however many queries have found it."""
        contents = {one.found.content: one.found for one in asked}
        numbers = {content: n for n, content in enumerate(contents)}
        texts = {words: n for n, words in enumerate(dict.fromkeys(one.words for one in asked))}
        pairs = np.array([(texts[one.words], numbers[one.found.content]) for one in asked])
        blocks = self.contents.blocks(list(contents.values()), progress)
        judged = judge_pairs(self.matcher, list(texts), pairs, blocks, cosines=not self.wrote_index)
        if not self.wrote_index:
            return judged
        return replace(judged, cosines=np.array([one.found.cosine for one in asked], dtype=np.float32))

    def _judge_for_pictures(self, queries: Sequence[Query], asked: Sequence[_Asked]) -> Judgement:
        """Judge texts for the first picture of each query: the picture's features serve all its candidates."""
        texts = {one.found.content: one.found.record["text"] for one in asked}
        numbers = {content: n for n, content in enumerate(texts)}
        pairs = np.array([(numbers[one.found.content], one.query) for one in asked])
        pictures = sorted({one.query for one in asked})
        features = self.matcher.features(
            [load_picture(queries[n].pictures[0], self.matcher.decode_at_least) for n in pictures]
        )
        return judge_pairs(self.matcher, list(texts.values()), pairs, [(pictures, features)])


@dataclass(frozen=True, slots=True)
class _Asked:
    """A candidate to be judged: of which query, in which place, and for which words, if not for a picture."""

    query: int
    place: int
    found: Found
    words: str


def _note(matches: list[dict[int, Hit]], asked: Sequence[_Asked], judged: Judgement) -> None:
    """Make hits of the first judgements, for each query by their places; what was not judged gets none."""
    scores = judged.scores.tolist()
    for n, one in enumerate(asked):
        if np.isnan(scores[n]):
            continue
        parts = {"logit": float(judged.logits[n]), "probability": float(judged.probabilities[n])}
        if judged.cosines is not None:
            parts["itc"] = float(judged.cosines[n])
        matches[one.query][one.place] = one.found.hit(scores[n], "match", parts)


def _note_contained(contained: list[dict[int, float]], unwanted: Sequence[_Asked], judged: Scores) -> None:
    """Note, for each query by places, how likely the likeliest of what is not wanted is there."""
    for one, probability in zip(unwanted, judged.tolist(), strict=True):
        if not np.isnan(probability):
            here = contained[one.query]
            here[one.place] = max(probability, here.get(one.place, 0.0))


def _tell_rejected(
    contained: Sequence[dict[int, float]], queries: Sequence[Query], found: Sequence[Sequence[Found]]
) -> None:
    """Warn that candidates are left out, in one line for all queries: they may be what was looked for."""
    rejected = [sum(probability >= REJECTED for probability in one.values()) for one in contained]
    if any(rejected):
        unwanted = dict.fromkeys(
            term.text for query, count in zip(queries, rejected, strict=True) if count for term in query.without
        )
        logger.warning(
            "%s of %s candidates are left out, as they seem to contain what is not wanted: %s",
            f"{sum(rejected):,}",
            f"{sum(map(len, found)):,}",
            ", ".join(text for text in unwanted if text),
        )


def _ordered(
    found: Sequence[Found], matches: dict[int, Hit], contained: dict[int, float], k: int, min_score: float | None
) -> list[Hit]:
    """Put the matches first, by score, and what was not judged behind them, as recall has ordered it."""
    kept = [place for place in range(len(found)) if contained.get(place, 0.0) < REJECTED]
    best = sorted((place for place in kept if place in matches), key=lambda place: -matches[place].score)
    rest = [place for place in kept if place not in matches] if min_score is None else []
    least = -np.inf if min_score is None else min_score
    shown = [place for place in best if matches[place].score >= least] + rest
    return ranked(_hit(place, found, matches, contained) for place in shown[:k])


def _hit(place: int, found: Sequence[Found], matches: dict[int, Hit], contained: dict[int, float]) -> Hit:
    hit = matches.get(place) or found[place].hit()
    return replace(hit, parts={**hit.parts, "without": contained[place]}) if place in contained else hit
