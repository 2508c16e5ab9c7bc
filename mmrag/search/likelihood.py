"""How likely it is that a hit matches, and whether anything here does."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from mmrag.models.tokens import has_han
from mmrag.types import Hit, Query

if TYPE_CHECKING:
    from mmrag.models.cards import Calibration

PROBABILITY = "probability"
"""The part of a hit that says how likely it is that it matches: by a matcher, or by the card of the encoder."""


def probability(calibration: Calibration, cosine: float, words: int) -> float:
    """Tell how likely it is that a picture matches words.

    Parameters
    ----------
    calibration : Calibration
        Of the encoder.
    cosine : float
        Of the picture with the words.
    words : int
        How many words those are; at least 1.

    Returns
    -------
    float
        From 0 to 1.

    Examples
    --------
    >>> from mmrag.models.cards import Calibration
    >>> round(probability(Calibration(bias=-4, cosine=10, words=0, least=0.1), 0.4, 3), 2)
    0.5
    """
    evidence = calibration.bias + calibration.cosine * cosine + calibration.words * math.log(words)
    return 0.5 * (1 + math.tanh(evidence / 2))  # the logistic function, which overflows nowhere so


def with_probabilities(
    query: Query, hits: Sequence[Hit], calibration: Calibration | None, *, matched: bool = False
) -> list[Hit]:
    """Give the hits that are pictures found by nothing but words a probability, but those that a matcher has given one.

    What words of its own speak for has none either, unless `matched`: the calibration is of cosines, and tells only how
    likely the picture itself is. Words with a Chinese character have none: a calibration is of words that spaces part,
    and of the tower for them.
    """
    asked = query.plain_words
    if calibration is None or asked is None or has_han(asked):
        return list(hits)
    words = len(asked.split())
    return [
        replace(hit, parts={**hit.parts, PROBABILITY: probability(calibration, hit.parts["cosine"], words)})
        if hit.item.modality == "image" and PROBABILITY not in hit.parts and (matched or not hit.matched)
        else hit
        for hit in hits
    ]


def nothing_likely(hits: Sequence[Hit], calibration: Calibration | None) -> bool:
    """Tell whether there are hits, and none of them is likely to match.

    It takes an encoder that is calibrated, and hits that are pictures by cosine alone: what a matcher has judged, what
    has the words that were asked for, and texts, may match for all that is known.
    """
    if calibration is None or not hits:
        return False
    least = calibration.least
    return all(hit.kind != "match" and not hit.matched and hit.parts.get(PROBABILITY, 1.0) < least for hit in hits)
