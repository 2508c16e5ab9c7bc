"""Vectors → the most similar contents, and hits that show them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from mmrag.roles import Vectors
from mmrag.sources.uri import shown_name
from mmrag.stores.records import to_item
from mmrag.types import Hit

if TYPE_CHECKING:
    from mmrag.stores.view import View

Candidate = tuple[float, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Found:
    """A content that was found for a query.

    Attributes
    ----------
    cosine : float
        With the query, from -1 to 1.
    record : dict
        Columns of the item that is shown.
    others : tuple of dict
        Columns of further items with the same content, folded into it.
    """

    cosine: float
    record: dict[str, Any]
    others: tuple[dict[str, Any], ...] = ()

    @property
    def content(self) -> str:
        """What tells it from other contents."""
        return str(self.record["content_hash"] or self.record["id"])

    def hit(self, score: float | None = None, kind: str = "cosine", parts: Mapping[str, float] | None = None) -> Hit:
        """Show it, by its cosine unless it has another score; it gets its rank in a list."""
        return Hit(
            rank=0,
            score=self.cosine if score is None else score,
            kind=kind,
            item=to_item(self.record),
            parts={"cosine": self.cosine, **(parts or {})},
            duplicates=tuple(shown_name(other["uri"], other["part"]) for other in self.others),
        )


def find(
    view: View, query_vectors: Vectors, *, k: int, min_score: float = -1.0, fold_duplicates: bool = True
) -> list[list[Found]]:
    """Find the k most similar contents for each query.

    Parameters
    ----------
    view : View
        Where to look.
    query_vectors : float32 ``(queries, dimension)`` or ``(queries, vectors, dimension)``
        Of unit length.
    k : int
        How many for each; all there are if the view holds fewer.
    min_score : float
        Lowest cosine.
    fold_duplicates : bool
        Make one of items with equal content.

    Returns
    -------
    list of list of Found
        For each query, by descending cosine.
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
            return [[_found(one) for one in group[:k] if one[0][0] >= min_score] for group in groups]
        wanted *= 2


def ranked(hits: Iterable[Hit]) -> list[Hit]:
    """Give hits their ranks, from 1."""
    return [replace(hit, rank=rank) for rank, hit in enumerate(hits, start=1)]


def _grouped(candidates: list[Candidate], fold_duplicates: bool) -> list[list[Candidate]]:
    groups: dict[Any, list[Candidate]] = {}
    for position, candidate in enumerate(candidates):
        content = candidate[1]["content_hash"] if fold_duplicates else None
        groups.setdefault(content or position, []).append(candidate)
    return list(groups.values())


def _found(group: list[Candidate]) -> Found:
    record, *others = sorted((record for _, record in group), key=lambda one: (one["uri"], one["part"] or ""))
    return Found(group[0][0], record, tuple(others))
