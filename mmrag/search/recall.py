"""Vectors → the most similar contents, and hits that show them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from mmrag.roles import Vectors
from mmrag.search.near import fold
from mmrag.sources.uri import shown_name
from mmrag.stores.records import to_item
from mmrag.types import Hit

if TYPE_CHECKING:
    from mmrag.stores.view import Allowed, Candidates, View

Candidate = tuple[float, dict[str, Any], int]
"""Score, columns and ref of a row."""


@dataclass(frozen=True, slots=True)
class Found:
    """A content that was found for a query.

    Attributes
    ----------
    cosine : float
        With the query, from -1 to 1.
    record : dict
        Columns of the item that is shown.
    ref : int
        Of its row in the view.
    others : tuple of dict
        Columns of further items with the same content, folded into it.
    near : tuple of dict
        Columns of items with other contents that look or read nearly the same, folded into it.
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
    ref: int
    others: tuple[dict[str, Any], ...] = ()
    near: tuple[dict[str, Any], ...] = ()
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
            duplicates=_shown(self.others),
            near_duplicates=_shown(self.near),
            matched=self.matched,
        )


def find(
    view: View,
    query_vectors: Vectors,
    *,
    k: int,
    min_score: float = -1.0,
    fold_duplicates: bool = True,
    fold_near: bool = False,
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
    fold_near : bool
        Make one of items that look or read nearly the same, as far as they are among some twice as many.
    allowed : sequence of bool arrays, or None
        Which rows may be found, as for `View.search`.

    Returns
    -------
    list of list of Found
        For each query, by descending cosine.
    """

    def search(wanted: int) -> Candidates:
        return view.search(query_vectors, wanted, allowed=allowed)

    contents = k
    while True:
        groups = best_contents(view, search, contents, fold_duplicates=fold_duplicates)
        found = [[_found(group) for group in some] for some in groups]
        shown = [fold_found(view, some) for some in found] if fold_near else found
        if all(len(some) >= k or len(every) <= contents for some, every in zip(shown, found, strict=True)):
            return [[one for one in some[:k] if one.cosine >= min_score] for some in shown]
        contents = 2 * max(map(len, found))


def fold_found(view: View, found: Sequence[Found]) -> list[Found]:
    """Fold what looks or reads nearly the same as something before it into that."""
    folded = fold(view, [one.ref for one in found], [one.record for one in found])
    return [
        replace(found[first], near=tuple(record for n in rest for record in (found[n].record, *found[n].others)))
        for first, *rest in folded
    ]


def best_contents(
    view: View, search: Callable[[int], Candidates], k: int, *, fold_duplicates: bool
) -> list[list[list[Candidate]]]:
    """Search for more and more rows until there are more than k contents for each query, or no more rows.

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
            list(zip(scores.tolist(), view.records(refs), refs.tolist(), strict=True))
            for scores, refs in zip(candidates.scores, candidates.refs, strict=True)
        ]
        groups = [_grouped(one, fold_duplicates) for one in found]
        exhausted = candidates.scores.shape[1] < wanted
        if exhausted or all(len(group) > k for group in groups):
            return groups
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
    (_, record, ref), *others = sorted(group, key=lambda one: (one[1]["uri"], one[1]["part"] or ""))
    return Found(min(1.0, group[0][0]), record, ref, tuple(other for _, other, _ in others))


def _shown(records: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    return tuple(shown_name(record["uri"], record["part"]) for record in records)
