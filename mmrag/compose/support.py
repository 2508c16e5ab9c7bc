"""Whether sources say what a sentence says, and which of them may answer a question."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from mmrag.compose.answer import Evidence, Source, Span, Support
from mmrag.compose.comparison import Comparison
from mmrag.compose.odds import fitted_odds
from mmrag.compose.wording import stem, wording
from mmrag.roles import Matcher

if TYPE_CHECKING:
    from mmrag.index import Index

_ABOUT_ITSELF = frozenset(
    stem(word)
    for word in (  # noqa: SIM905
        "here following find found source sources answer question information context picture image photo corpus "
        "itself sorry sure yes know unable cannot based according provided given"
    ).split()
)
_CLOSING = "\"'»”’)]"
_LEAST_CHANCE = 1e-6  # a matcher that is quite sure has finite odds


class Grounding:
    """Scores sentences against sources: by words and meaning, and pictures by a matcher that looks at them.

    Text supports a sentence by its likest sentence: how many content words of the sentence it has, the cosine of both,
    whether numbers, colours and who it is agree, and whether one of them is negated. A picture supports it by its
    words, if it has some, and as far as a matcher finds that it shows what the sentence says. The better counts, but
    where the words contradict they alone do: matchers hardly count, and confuse colours. Probabilities are those of
    `mmrag.compose.odds`, fitted on captions of photographs; benchmarks/grounding.py says how far they can be trusted.

    Parameters
    ----------
    index : Index
        Holds the pictures, and the encoder that compares texts. Where this is not the built-in model, whose cosines
        the probabilities are fitted for, words alone are compared.
    matcher : Matcher or None
        Looks at pictures; without one, their words tell all.
    """

    def __init__(self, index: Index, matcher: Matcher | None) -> None:
        self._index = index
        self._matcher = matcher if matcher is not None and "image" in matcher.card.modalities else None
        self._comparison = Comparison(index.encoder)
        self._unread: set[str] = set()  # a picture that cannot be read is warned of once
        self._looks: dict[tuple[str, str], tuple[float, float | None]] = {}

    def check(self, sentence: str, span: Span, citations: Sequence[int], sources: Sequence[Source]) -> Evidence:
        """Score a sentence against the sources that it cites.

        Parameters
        ----------
        sentence : str
            Without its citations.
        span : Span
            Where it stands in the answer.
        citations : sequence of int
            Numbers of some of the sources.
        sources : sequence of Source
            All that there are.
        """
        cited = [source for source in sources if source.number in citations]
        supports = tuple(self._supports(sentence, cited))
        supported = any(one.probability >= fitted_odds().least_support for one in supports)
        return Evidence(sentence, span, tuple(citations), supports, supported if claims(sentence) else None)

    def best(self, sentence: str, sources: Sequence[Source]) -> Support | None:
        """Find the source that supports a sentence; None if none is likely to, or the sentence claims nothing."""
        if not claims(sentence):
            return None
        supports = self._supports(sentence, sources)
        return supports[0] if supports and supports[0].probability >= fitted_odds().least_support else None

    def likely(self, question: str, sources: Sequence[Source]) -> tuple[Source, ...]:
        """Leave out the sources whose words are not likely to answer a question.

        Parameters
        ----------
        question : str
            As the user asked it: "how many" and "what colour" say what an answer has.
        sources : sequence of Source
            What was found. A picture without words is never likely by them.
        """
        answering = self._comparison.answering(question, sources)
        numbers = {one.source.number for one in answering if self._comparison.is_likely(one)}
        return tuple(source for source in sources if source.number in numbers)

    def _supports(self, sentence: str, sources: Sequence[Source]) -> list[Support]:
        """Score a sentence against sources, the best first."""
        by_words = self._comparison.supports(sentence, sources)
        by_look = self._looked_at(sentence, sources)
        each = [_better(by_words.get(source.number), by_look.get(source.number)) for source in sources]
        return sorted((one for one in each if one is not None), key=lambda one: (-one.probability, one.number))

    def _looked_at(self, sentence: str, sources: Sequence[Source]) -> dict[int, Support]:
        """Have the matcher look at those that are pictures; what it cannot judge is left out."""
        if self._matcher is None:
            return {}
        pictures = [one for one in sources if one.item.modality == "image" and one.item.id not in {"", *self._unread}]
        unjudged = [one.item.id for one in pictures if (sentence, one.item.id) not in self._looks]
        self._look(self._matcher, sentence, unjudged)
        return {
            one.number: self._shown(one.number, *self._looks[sentence, one.item.id])
            for one in pictures
            if one.item.id not in self._unread
        }

    def _look(self, matcher: Matcher, sentence: str, ids: Sequence[str]) -> None:
        """Judge pictures, all at once; what was judged is kept, as sources are first chosen from and then cited."""
        if not ids:
            return
        judged = self._index.match([sentence], ids, matcher=matcher)
        for place, name in enumerate(ids):
            probability = float(judged.probabilities[0, place])
            if math.isnan(probability):
                self._unread.add(name)
            else:
                cosine = None if judged.cosines is None else float(judged.cosines[0, place])
                self._looks[sentence, name] = probability, cosine

    def _shown(self, number: int, probability: float, cosine: float | None) -> Support:
        """Make support of a matcher's judgement: as it was fitted, or of another matcher the probability itself."""
        odds = fitted_odds()
        chance = min(max(probability, _LEAST_CHANCE), 1 - _LEAST_CHANCE)
        parts = {"log_odds": math.log(chance / (1 - chance))} | ({} if cosine is None else {"cosine": cosine})
        fits = self._matcher is not None and self._matcher.card.name == odds.matcher and cosine is not None
        return Support(
            number, "match", odds.shows.probability(parts) if fits else probability, None, tuple(parts.items())
        )


def claims(sentence: str) -> bool:
    """Tell whether a sentence claims something; not so what asks, announces, or speaks of the answer alone.

    Examples
    --------
    >>> claims("Two dogs play."), claims("Here is what I found:"), claims("Sorry, I could not find the answer.")
    (True, False, False)
    """
    ending = sentence.rstrip().rstrip(_CLOSING)
    return not ending.endswith((":", "：", "?", "？")) and bool(wording(sentence).stems - _ABOUT_ITSELF)


def contradicted(parts: Mapping[str, float]) -> bool:
    """Tell by the scores of words whether they say something else, or nothing of a number: no look mends that."""
    return parts["contradictions"] + parts["unsaid"] > 0


def _better(words: Support | None, look: Support | None) -> Support | None:
    if words is None or look is None or contradicted(dict(words.parts)):
        return words or look
    return max(words, look, key=lambda one: one.probability)
