"""Candidates → hits in the order of a matcher, which looks at a text and an item together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from mmrag.errors import QueryError
from mmrag.roles import Judgement, Matcher
from mmrag.search.judge import judge_pairs
from mmrag.search.queries import load_picture
from mmrag.search.recall import Found, ranked
from mmrag.types import Hit, Query

if TYPE_CHECKING:
    from mmrag.search.contents import Contents

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Reranker:
    """Judges the best candidates of each query again.

    A matcher that sees pictures judges pictures for words, and texts for a picture; one that reads only
    judges texts for words. What it cannot judge, and what lies beyond `top`, keeps its order behind what it judged.

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
            _Asked(n, place, found[n][place])
            for n, query in enumerate(queries)
            for place in self._judgeable(query, found[n])
        ]
        by_words = [one for one in asked if queries[one.query].text is not None]
        by_picture = [one for one in asked if queries[one.query].text is None]
        matches: list[dict[int, Hit]] = [{} for _ in queries]
        if by_words:
            _note(matches, by_words, self._judge_for_words(queries, by_words, progress))
        if by_picture:
            _note(matches, by_picture, self._judge_for_pictures(queries, by_picture))
        return [_ordered(one, hits, k, min_score) for one, hits in zip(found, matches, strict=True)]

    def _judgeable(self, query: Query, found: Sequence[Found]) -> list[int]:
        """Which of the candidates can be judged for a query."""
        name, sees = self.matcher.card.name, "image" in self.matcher.card.modalities
        if query.text is None and not sees:
            raise QueryError(f"{name} reads texts only and cannot judge for a picture; ask in words, or do not rerank")
        wanted = "image" if sees and query.text is not None else "text"
        places = [n for n, one in enumerate(found[: self.top]) if one.record["modality"] == wanted]
        if found and not places:
            asked, kind = ("a picture", "text") if query.text is None else ("words", wanted)
            raise QueryError(
                f"for {asked}, {name} can judge items of the modality {kind!r} only, and none of the "
                f"{len(found[: self.top])} candidates is one; ask otherwise, or do not rerank"
            )
        return places

    def _judge_for_words(
        self, queries: Sequence[Query], asked: Sequence[_Asked], progress: Progress | None
    ) -> Judgement:
        """Judge contents for words: each is read once, however many queries have found it."""
        contents = {one.found.content: one.found for one in asked}
        numbers = {content: n for n, content in enumerate(contents)}
        pairs = np.array([(one.query, numbers[one.found.content]) for one in asked])
        blocks = self.contents.blocks(list(contents.values()), progress)
        texts = [query.text or "" for query in queries]
        judged = judge_pairs(self.matcher, texts, pairs, blocks, cosines=not self.wrote_index)
        if not self.wrote_index:
            return judged
        return replace(judged, cosines=np.array([one.found.cosine for one in asked], dtype=np.float32))

    def _judge_for_pictures(self, queries: Sequence[Query], asked: Sequence[_Asked]) -> Judgement:
        """Judge texts for pictures that are asked: the picture's features serve all its candidates."""
        texts = {one.found.content: one.found.record["text"] for one in asked}
        numbers = {content: n for n, content in enumerate(texts)}
        pairs = np.array([(numbers[one.found.content], one.query) for one in asked])
        pictures = sorted({one.query for one in asked})
        features = self.matcher.features([load_picture(queries[n], self.matcher) for n in pictures])
        return judge_pairs(self.matcher, list(texts.values()), pairs, [(pictures, features)])


@dataclass(frozen=True, slots=True)
class _Asked:
    """A candidate to be judged: of which query, and in which place."""

    query: int
    place: int
    found: Found


def _note(matches: list[dict[int, Hit]], asked: Sequence[_Asked], judged: Judgement) -> None:
    """Make hits of judgements, for each query by their places; what was not judged gets none."""
    for n, (one, score) in enumerate(zip(asked, judged.scores.tolist(), strict=True)):
        if np.isnan(score):
            continue
        parts = {"logit": float(judged.logits[n]), "probability": float(judged.probabilities[n])}
        if judged.cosines is not None:
            parts["itc"] = float(judged.cosines[n])
        matches[one.query][one.place] = one.found.hit(score, "match", parts)


def _ordered(found: Sequence[Found], matches: dict[int, Hit], k: int, min_score: float | None) -> list[Hit]:
    """Put the matches first, by score, and what was not judged behind them, as recall has ordered it."""
    best = sorted(matches.values(), key=lambda hit: -hit.score)
    if min_score is not None:
        return ranked([hit for hit in best if hit.score >= min_score][:k])
    return ranked([*best, *(one.hit() for place, one in enumerate(found) if place not in matches)][:k])
