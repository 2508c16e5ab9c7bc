"""Queries → candidates: what a pipeline recalls, by vectors or by words and vectors, among the rows that may answer."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from mmrag.roles import Vectors
from mmrag.search.recall import Found, find
from mmrag.types import Query

if TYPE_CHECKING:
    from mmrag.search.pipeline import Recall
    from mmrag.stores.view import Allowed, View
    from mmrag.stores.words import WordsView


def recall_candidates(
    recall: Recall,
    queries: Sequence[Query],
    query_vectors: Vectors,
    k: int,
    view: View,
    full_text: WordsView | None = None,
) -> list[list[Found]]:
    """Find k candidates for each query; those with the same filter and phrases are searched for together.

    Parameters
    ----------
    recall : Recall
        How; its own k is not looked at.
    queries : sequence of Query
        What was asked.
    query_vectors : float32 ``(queries, dimension)`` or ``(queries, vectors, dimension)``
        Of unit length.
    k : int
        How many candidates.
    view : View
        Where to look.
    full_text : WordsView or None
        The words of the view's rows, if `recall` looks at words.

    Returns
    -------
    list of list of Found
        For each query, the best first.
    """
    together: dict[tuple[str | None, tuple[str, ...]], list[int]] = defaultdict(list)
    for place, query in enumerate(queries):
        together[query.where, query.phrases].append(place)
    found: list[list[Found]] = [[] for _ in queries]
    for (where, phrases), places in together.items():
        allowed = _allowed(view, where, phrases)
        words = [queries[place].words for place in places]
        some = _find(recall, words, query_vectors[places], k, view, full_text, allowed)
        for place, one in zip(places, some, strict=True):
            found[place] = _with_matched(one, phrases)
    return found


def _find(
    recall: Recall,
    words: Sequence[str],
    query_vectors: Vectors,
    k: int,
    view: View,
    full_text: WordsView | None,
    allowed: Allowed | None,
) -> list[list[Found]]:
    least = recall.min_score
    by_vector = partial(
        find,
        view,
        k=k,
        min_score=least,
        fold_duplicates=recall.fold_duplicates,
        fold_near=recall.fold_near,
        allowed=allowed,
    )
    if full_text is None or recall.words == "off":
        return by_vector(query_vectors)
    from mmrag.search.hybrid import Hybrid

    hybrid = Hybrid(
        view,
        full_text,
        recall.depth,
        recall.words,
        recall.words_weight,
        fold_duplicates=recall.fold_duplicates,
        fold_near=recall.fold_near,
    )
    return [
        hybrid.find(query_vectors[n : n + 1], asked, k=k, min_score=least, allowed=allowed)
        if asked
        else by_vector(query_vectors[n : n + 1])[0]
        for n, asked in enumerate(words)
    ]


def _allowed(view: View, where: str | None, phrases: Sequence[str]) -> Allowed | None:
    """Which rows pass the filter and have the phrases, by segment; None if all may be found."""
    masks = []
    if where is not None:
        from mmrag.search.where import masks as passing  # imports pyarrow.compute, which most searches do without

        masks.append(passing(view, where))
    if phrases:
        from mmrag.search.phrases import rows_with

        masks.append(rows_with(view, phrases))
    if len(masks) < 2:
        return masks[0] if masks else None
    return [one & other for one, other in zip(*masks, strict=True)]


def _with_matched(found: list[Found], phrases: Sequence[str]) -> list[Found]:
    if not phrases:
        return found
    from mmrag.search.phrases import with_matched

    return with_matched(found, phrases)
