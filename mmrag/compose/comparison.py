"""Sentences and questions compared with the passages of sources: by their words, and by what they mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mmrag.compose.answer import Source, Support
from mmrag.compose.odds import Odds, fitted_odds
from mmrag.compose.passages import Passage, passages
from mmrag.compose.wording import Wording, asked, gives, wording
from mmrag.roles import Encoder, Scores, Vectors


@dataclass(frozen=True, slots=True)
class Answering:
    """A passage that may answer a question.

    Attributes
    ----------
    source : Source
        Where it stands.
    passage : Passage
        The passage.
    probability : float
        That its source answers the question.
    parts : mapping of str to float, as pairs
        What that was made from.
    """

    source: Source
    passage: Passage
    probability: float
    parts: tuple[tuple[str, float], ...] = ()


class Comparison:
    """Compares texts with sources; what it has read of these once is kept.

    Parameters
    ----------
    encoder : Encoder or None
        What tells how near two texts are in meaning. None where there is none; one whose cosines are not those that
        probabilities were fitted for is left out, too: words alone tell then.
    """

    def __init__(self, encoder: Encoder | None) -> None:
        fits = encoder is not None and encoder.card.name == fitted_odds().encoder
        self._encoder = encoder if fits else None
        self._passages: dict[tuple[str, str], list[Passage]] = {}
        self._vectors: dict[str, Vectors] = {}

    def is_likely(self, one: Answering) -> bool:
        """Tell whether a passage is likely to answer.

        It is where it is probable enough, and where it has all that the question names, and the number or colour that
        it asks for: short questions have low cosines with long sentences, and were not among those fitted on.
        """
        odds, parts = fitted_odds(), dict(one.parts)
        least = odds.least_answer_by_words if self._encoder is None else odds.least_answer
        return one.probability >= least or (parts["overlap"] == 1 and parts["gives"] >= 0)

    def supports(self, sentence: str, sources: Sequence[Source]) -> dict[int, Support]:
        """Score a sentence against the likest passage of each source that has words, by its number."""
        odds = fitted_odds().supports_by_words if self._encoder is None else fitted_odds().supports
        claim = wording(sentence)
        found: dict[int, Support] = {}
        for source, passage, parts in self._scored(sentence, claim, sources):
            said = self._said(source, passage)
            parts |= {"contradictions": float(claim.contradictions(said)), "unsaid": float(claim.unsaid(said))}
            one = Support(source.number, "words", odds.probability(parts), passage.span, tuple(parts.items()))
            if source.number not in found or one.probability > found[source.number].probability:
                found[source.number] = one
        return found

    def answering(self, question: str, sources: Sequence[Source]) -> list[Answering]:
        """Score the passages of sources, but facts, by how likely they answer a question, the best first."""
        odds = self._answer_odds
        scored = []
        for source, passage, parts in self._scored(question, asked(question), sources):
            if passage.kind == "fact":
                continue
            parts["gives"] = gives(question, passage.wording)
            scored.append(Answering(source, passage, odds.probability(parts), tuple(parts.items())))
        return sorted(scored, key=lambda one: (-one.probability, one.source.number, one.passage.span))

    def cosines(self, texts: Sequence[str], others: Sequence[str]) -> Scores | None:
        """Compare each text with each other one: float32 ``(texts, others)``, or None without an encoder."""
        if self._encoder is None:
            return None
        missing = [text for text in dict.fromkeys((*texts, *others)) if text not in self._vectors]
        if missing:
            self._vectors.update(zip(missing, self._encoder.encode_text(missing), strict=True))
        if not texts or not others:
            return np.empty((len(texts), len(others)), dtype=np.float32)
        mine, theirs = (np.stack([self._vectors[text] for text in some]) for some in (texts, others))
        return np.asarray(mine @ theirs.T, dtype=np.float32)

    @property
    def _answer_odds(self) -> Odds:
        return fitted_odds().answers_by_words if self._encoder is None else fitted_odds().answers

    def _scored(
        self, text: str, named: Wording, sources: Sequence[Source]
    ) -> list[tuple[Source, Passage, dict[str, float]]]:
        """List all passages with the share of words that they have of what a text names, and their cosine with it."""
        each = [(source, passage) for source in sources for passage in self._divided(source)]
        cosines = self.cosines([text], [passage.text for _, passage in each])
        scored = []
        for place, (source, passage) in enumerate(each):
            parts = {"overlap": named.overlap(self._said(source, passage))}
            if cosines is not None:
                parts["cosine"] = float(cosines[0, place])
            scored.append((source, passage, parts))
        return scored

    def _divided(self, source: Source) -> list[Passage]:
        known = source.item.id or source.item.uri, source.text
        if known not in self._passages:
            self._passages[known] = passages(source)
        return self._passages[known]

    def _said(self, source: Source, passage: Passage) -> Wording:
        """Give what counts as said: all words of a picture tell of one thing; a sentence, and a fact, for itself."""
        if source.item.modality == "text" or passage.kind == "fact":
            return passage.wording
        return wording(" ".join(one.text for one in self._divided(source) if one.kind != "fact"))
