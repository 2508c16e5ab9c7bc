"""How likely it is that a picture belongs to a sentence, by the matcher that judged it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from mmrag import recipe
from mmrag.compose.odds import Odds
from mmrag.roles import Matcher

BELONGING_FILE = Path(__file__).with_name("belonging.toml")
"""Written by ``python -m benchmarks.illustrate … --fit``."""


@dataclass(frozen=True)
class Belonging:
    """What was fitted for one matcher.

    Attributes
    ----------
    odds : Odds
        Of the cosine of the matcher's own encoder, and of the margin. The logit itself says more of the sentence than
        of the picture, and is left out: with it, sentences that depict nothing got pictures.
    revision : str
        Of the matcher that it was fitted for.
    data : str
        What it was fitted on.
    """

    odds: Odds
    revision: str
    data: str


@dataclass(frozen=True)
class _Fits:
    """By the name of the matcher."""

    matcher: dict[str, Belonging]


@cache
def _fitted() -> dict[str, Belonging]:
    return recipe.load(BELONGING_FILE, _Fits).matcher


def belonging_of(matcher: Matcher) -> Odds | None:
    """Give what was fitted for a matcher of this name and revision; of others, their own probability holds."""
    fit = _fitted().get(matcher.card.name)
    return fit.odds if fit is not None and fit.revision == matcher.card.revision else None
