"""Vectors → the most similar items."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mmrag.roles import Vectors
from mmrag.stores.records import to_item
from mmrag.types import Hit

if TYPE_CHECKING:
    from mmrag.stores.view import View

Candidate = tuple[float, dict[str, Any]]


def recall(
    view: View, query_vectors: Vectors, *, k: int, min_score: float = -1.0, fold_duplicates: bool = True
) -> list[list[Hit]]:
    """Find the k most similar items for each query.

    Parameters
    ----------
    view : View
        Where to look.
    query_vectors : float32 ``(queries, dimension)`` or ``(queries, vectors, dimension)``
        Of unit length.
    k : int
        How many hits for each; all there are if the view holds fewer.
    min_score : float
        Lowest cosine of a hit.
    fold_duplicates : bool
        Make one hit of items with equal content.

    Returns
    -------
    list of list of Hit
        For each query, by descending score.
    """
    wanted = 2 * k + 1
    while True:
        candidates = view.search(query_vectors, wanted)
        found = [
            [(min(1.0, float(score)), record) for score, record in zip(scores, view.records(refs), strict=True)]
            for scores, refs in zip(candidates.scores, candidates.refs, strict=True)
        ]
        groups = [_grouped(one, fold_duplicates) for one in found]
        exhausted = candidates.scores.shape[1] < wanted
        if exhausted or all(len(group) > k for group in groups):
            return [_hits(group[:k], min_score) for group in groups]
        wanted *= 2


def _grouped(candidates: list[Candidate], fold_duplicates: bool) -> list[list[Candidate]]:
    groups: dict[Any, list[Candidate]] = {}
    for position, candidate in enumerate(candidates):
        content = candidate[1]["content_hash"] if fold_duplicates else None
        groups.setdefault(content or position, []).append(candidate)
    return list(groups.values())


def _hits(groups: list[list[Candidate]], min_score: float) -> list[Hit]:
    hits: list[Hit] = []
    for group in groups:
        score = group[0][0]
        record, *others = sorted((record for _, record in group), key=lambda one: str(one["uri"]))
        if score >= min_score:
            hits.append(
                Hit(
                    rank=len(hits) + 1,
                    score=score,
                    kind="cosine",
                    item=to_item(record),
                    parts={"cosine": score},
                    duplicates=tuple(other["uri"] for other in others),
                )
            )
    return hits
