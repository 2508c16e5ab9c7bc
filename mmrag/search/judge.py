"""Pairs of texts and items → a matcher's judgement, with bounded memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mmrag.roles import Judgement, Matcher

Pairs = npt.NDArray[np.int64]
Block = tuple[Sequence[int], Any]
"""Numbers of items, ascending, and their features, as `Matcher.features` gives them."""


def judge_pairs(
    matcher: Matcher, texts: Sequence[str], pairs: Pairs, blocks: Iterable[Block], *, cosines: bool = True
) -> Judgement:
    """Judge some pairs of texts and items, a block of items at a time.

    Parameters
    ----------
    matcher : Matcher
        What judges.
    texts : sequence of str
        All texts that pairs name.
    pairs : int64 ``(pairs, 2)``
        Numbers of a text and of an item.
    blocks : iterable of (numbers, features)
        Items by their numbers, ascending, as `Matcher.features` gives them. They are forgotten before the next block.
    cosines : bool
        As for `Matcher.match`.

    Returns
    -------
    Judgement
        Each array ``(pairs,)``; not a number for pairs whose item is in no block.
    """
    logits, probabilities, own = (np.full(len(pairs), np.nan, dtype=np.float32) for _ in range(3))
    told = False
    for numbers, features in blocks:
        places = np.searchsorted(numbers, pairs[:, 1]).clip(max=len(numbers) - 1)
        mine = np.flatnonzero(np.asarray(numbers)[places] == pairs[:, 1])
        rows, row_of = np.unique(pairs[mine, 0], return_inverse=True)
        at = row_of, places[mine]
        wanted = np.zeros((len(rows), len(numbers)), dtype=bool)
        wanted[at] = True
        judged = matcher.match([texts[row] for row in rows], features, wanted, cosines=cosines)
        logits[mine], probabilities[mine] = judged.logits[at], judged.probabilities[at]
        if judged.cosines is not None:
            own[mine], told = judged.cosines[at], True
    return Judgement(logits, probabilities, own if told and cosines else None)
