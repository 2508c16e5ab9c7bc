"""Pictures → features, and pairs of texts and items → a matcher's judgement, with bounded memory."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mmrag.errors import ModelError
from mmrag.roles import Judgement, Matcher

if TYPE_CHECKING:
    from PIL.Image import Image

Pairs = npt.NDArray[np.int64]
Block = tuple[Sequence[int], Any]
"""Numbers of items, ascending, and their features, as `Matcher.features` gives them."""

_FEATURE_BYTES_AT_ONCE = 1 << 28
PIXELS_AT_ONCE = 1 << 26
"""Of the pictures that wait to go through a network together: less than a batch, where they are large."""


def pictures_at_once(matcher: Matcher) -> int:
    """Tell of how many pictures memory may hold the features."""
    shape = matcher.feature_shape
    return max(1, _FEATURE_BYTES_AT_ONCE // (4 * math.prod(shape))) if shape else matcher.batch


def see(matcher: Matcher, images: Iterable[tuple[int, Image]]) -> Iterator[tuple[int, Any]]:
    """Compute the features of numbered pictures, as many at once as go through the network and memory holds."""
    group: list[tuple[int, Image]] = []
    pixels = 0
    for number, image in images:
        group.append((number, image))
        pixels += image.width * image.height
        if len(group) == matcher.batch or pixels >= PIXELS_AT_ONCE:
            yield from _features(matcher, group)
            group, pixels = [], 0
    if group:
        yield from _features(matcher, group)


def _features(matcher: Matcher, group: Sequence[tuple[int, Image]]) -> list[tuple[int, Any]]:
    features = matcher.features([image for _, image in group])
    return [(number, one) for (number, _), one in zip(group, features, strict=True)]


def as_block(matcher: Matcher, seen: Sequence[tuple[int, Any]]) -> Block:
    """Put numbered features, ascending, into the form that `Matcher.match` takes."""
    features: Any = [one for _, one in seen]
    return [number for number, _ in seen], np.stack(features) if matcher.feature_shape else features


def picture_blocks(matcher: Matcher, images: Iterable[tuple[int, Image]]) -> Iterator[Block]:
    """Compute the features of numbered pictures, ascending, block by block."""
    seen = see(matcher, images)
    while some := list(islice(seen, pictures_at_once(matcher))):
        yield as_block(matcher, some)


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

    Raises
    ------
    ModelError
        If the matcher gives no finite number for a pair, as where its precision is too low for it.
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
        if not np.isfinite(logits[mine]).all():
            raise ModelError(f"{matcher.card.name} gave logits that are not finite numbers, in {matcher.precision}")
        if judged.cosines is not None:
            own[mine], told = judged.cosines[at], True
    return Judgement(logits, probabilities, own if told and cosines else None)
