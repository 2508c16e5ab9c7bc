"""Vectors → the most similar contents, and hits that show them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from mmrag.roles import Vectors
from mmrag.sources.uri import shown_name
from mmrag.stores.records import to_item
from mmrag.types import Hit

if TYPE_CHECKING:
    from mmrag.stores.view import Allowed, Candidates, View

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
    score : float or None
        What it was ranked by, if not by its cosine.
    kind : str
        What that score is.
    parts : mapping of str to float
        What it was made from beside the cosine.
    matched : tuple of str
        Which of its words have those that were asked for.
    """

    cosine: float
    record: dict[str, Any]
    others: tuple[dict[str, Any], ...] = ()
    score: float | None = None
    kind: str = "cosine"
    parts: Mapping[str, float] = field(default_factory=dict)
    matched: tuple[str, ...] = ()

    @property
    def content(self) -> str:
        """What tells it from other contents."""
        return str(self.record["content_hash"] or self.record["id"])

    def hit(self, score: float | None = None, kind: str | None = None, parts: Mapping[str, float] | None = None) -> Hit:
        """Show it, by what it was ranked by unless it has another score; it gets its rank in a list."""
        own = self.cosine if self.score is None else self.score
        return Hit(
            rank=0,
            score=own if score is None else score,
            kind=kind or self.kind,
            item=to_item(self.record),
            parts={"cosine": self.cosine, **self.parts, **(parts or {})},
            duplicates=tuple(shown_name(other["uri"], other["part"]) for other in self.others),
            matched=self.matched,
        )


def find(
    view: View,
    query_vectors: Vectors,
    *,
    k: int,
    min_score: float = -1.0,
    fold_duplicates: bool = True,
    allowed: Allowed | None = None,
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
    allowed : sequence of bool arrays, or None
        Which rows may be found, as for `View.search`.

    Returns
    -------
    list of list of Found
        For each query, by descending cosine.
    """
    groups = best_contents(
        view, lambda wanted: view.search(query_vectors, wanted, allowed=allowed), k, fold_duplicates=fold_duplicates
    )
    return [[found for group in some if (found := _found(group)).cosine >= min_score] for some in groups]


def best_contents(
    view: View, search: Callable[[int], Candidates], k: int, *, fold_duplicates: bool
) -> list[list[list[Candidate]]]:
    """Search for more and more rows until there are k contents for each query.

    Parameters
    ----------
    view : View
        What the rows are of.
    search : callable
        Gives as many candidates for each query as it is asked for, or all there are.
    k : int
        How many contents.
    fold_duplicates : bool
        Whether rows with equal content are one.

    Returns
    -------
    list of list of list of Candidate
        For each query, contents by their best row's score, and of each its rows.
    """
    wanted = 2 * k + 1
    while True:
        candidates = search(wanted)
        found = [
            list(zip(scores.tolist(), view.records(refs), strict=True))
            for scores, refs in zip(candidates.scores, candidates.refs, strict=True)
        ]
        groups = [_grouped(one, fold_duplicates) for one in found]
        exhausted = candidates.scores.shape[1] < wanted
        if exhausted or all(len(group) > k for group in groups):
            return [group[:k] for group in groups]
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
    return Found(min(1.0, group[0][0]), record, tuple(others))
