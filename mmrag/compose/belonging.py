"""Scores → how likely it is that a picture belongs to a sentence."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from mmrag import recipe
from mmrag.roles import Matcher

_FITTED = Path(__file__).with_name("belonging.toml")


@dataclass(frozen=True)
class Belonging:
    """A logistic regression for one matcher, as ``benchmarks/illustrate.py`` fits it.

    Attributes
    ----------
    bias : float
        What is added.
    cosine : float
        What the cosine of the matcher's own encoder counts.
    margin : float
        What counts by how much the matcher's logit is above the mean of the sentence's other candidates. The logit
        itself says more of the sentence than of the picture, and is left out: with it, sentences that depict nothing
        got pictures.
    revision : str
        Of the matcher that it was fitted for.
    data : str
        What it was fitted on.
    """

    bias: float
    cosine: float
    margin: float
    revision: str
    data: str

    def probability(self, parts: Mapping[str, float]) -> float:
        """Tell how likely it is, from 0 to 1, by the "cosine" and the "margin"."""
        evidence = self.bias + self.cosine * parts["cosine"] + self.margin * parts["margin"]
        return 0.5 * (1 + math.tanh(evidence / 2))  # the logistic function, which overflows nowhere so


@dataclass(frozen=True)
class _Fits:
    """By the name of the matcher."""

    matcher: dict[str, Belonging]


@cache
def _fitted() -> dict[str, Belonging]:
    return recipe.load(_FITTED, _Fits).matcher


def belonging_of(matcher: Matcher) -> Belonging | None:
    """Give what was fitted for a matcher, if anything was; of others, their own probability holds."""
    return _fitted().get(matcher.card.name)
