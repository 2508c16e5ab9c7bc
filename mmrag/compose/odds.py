"""What makes probabilities of the scores that sentences, questions and sources have: logistic regressions, fitted."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mmrag import recipe

ODDS_FILE = Path(__file__).with_name("odds.toml")
"""Written by ``python -m benchmarks.grounding --fit``."""


@dataclass(frozen=True)
class Odds:
    """The weights of a logistic regression.

    Attributes
    ----------
    bias : float
        Of one.
    overlap : float
        Of the share of the content words that the other text has, too.
    cosine : float
        Of that of both vectors.
    contradictions : float
        Of the number of ways in which the other text says something else.
    unsaid : float
        Of the number of numbers that the other text does not have.
    gives : float
        Of 1 if the text has the number or colour that a question asks for, and -1 if it has none.
    log_odds : float
        Of ln p/(1 - p) of a matcher's probability.
    margin : float
        Of by how much a matcher's logit of a picture is above the mean of the other candidates.
    """

    bias: float
    overlap: float = 0.0
    cosine: float = 0.0
    contradictions: float = 0.0
    unsaid: float = 0.0
    gives: float = 0.0
    log_odds: float = 0.0
    margin: float = 0.0

    def probability(self, parts: Mapping[str, float]) -> float:
        """Make a probability, from 0 to 1, of scores by their names; those that have no weight count nothing.

        Examples
        --------
        >>> Odds(bias=-1, overlap=2).probability({"overlap": 0.5})
        0.5
        """
        evidence = self.bias + sum(getattr(self, name, 0.0) * value for name, value in parts.items())
        return 0.5 * (1 + math.tanh(evidence / 2))  # the logistic function, which overflows nowhere so


@dataclass(frozen=True)
class FittedOdds:
    """All that was fitted, on what, and with which models.

    Attributes
    ----------
    encoder, matcher : str
        Whose cosines and probabilities these are for, by the names of their cards.
    data : str
        What they were fitted on.
    supports, supports_by_words : Odds
        That a text says what a sentence says: with the encoder's cosine, and without an encoder.
    shows : Odds
        That a picture shows what a sentence says, by the matcher.
    answers, answers_by_words : Odds
        That a text answers a question: with the encoder's cosine, and without an encoder.
    least_support : float
        From this probability on, a sentence counts as supported.
    least_answer, least_answer_by_words : float
        From this probability on, a source is likely to answer.
    """

    encoder: str
    matcher: str
    data: str
    supports: Odds
    supports_by_words: Odds
    shows: Odds
    answers: Odds
    answers_by_words: Odds
    least_support: float
    least_answer: float
    least_answer_by_words: float


@functools.cache
def fitted_odds() -> FittedOdds:
    """Read what ships with mmrag."""
    return recipe.load(ODDS_FILE, FittedOdds)
