"""Hard negatives out of a whole corpus: what a model takes for a query's own, and is not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mmrag.errors import InputError
from mmrag.roles import Scores, Vectors

if TYPE_CHECKING:
    from mmrag.stores.view import View

Integers = npt.NDArray[np.int64]

NONE = -1
"""Instead of a negative, where there are fewer."""

QUERIES_AT_ONCE = 256


@dataclass(frozen=True)
class Guard:
    """What is too similar to be a negative: it may well be an unlabelled positive.

    A candidate's cosine must be below ``ratio · own − margin``, `own` being the query's with its own item: the
    positive-aware mining of NV-Retriever (https://arxiv.org/abs/2407.15831, section 3.2).

    Attributes
    ----------
    ratio : float
        .95 served that paper best.
    margin : float
        In cosine.
    """

    ratio: float = 0.95
    margin: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what would let everything through, or nothing."""
        if not (0 < self.ratio <= 1 and 0 <= self.margin < 1):
            raise InputError(f"ratio must be above 0 and at most 1, and margin from 0 to below 1, not {self}")

    def ceiling(self, own: Scores) -> Scores:
        """Give what a negative's cosine must be below."""
        ceiling: Scores = self.ratio * own - self.margin
        return ceiling


def mine(
    query_vectors: Vectors,
    item_vectors: Vectors,
    query_groups: Integers,
    item_groups: Integers,
    *,
    k: int,
    guard: Guard | None = None,
) -> Integers:
    """Find for each query the k most similar items that are not its own.

    Parameters
    ----------
    query_vectors, item_vectors : float32 ``(n, d)`` and ``(m, d)`` of unit length
        Such as of texts and of pictures.
    query_groups, item_groups : int64 ``(n,)`` and ``(m,)``
        An item of a query's group is its own.
    k : int
        How many negatives a query gets.
    guard : Guard or None
        None takes ``Guard()``. `own` is a query's best cosine with an item of its group; a query without one is
        not guarded.

    Returns
    -------
    int64 ``(n, k)``
        Numbers of items, the most similar first; `NONE` where there are fewer.
    """
    guard = guard or Guard()
    parts = [np.empty((0, k), dtype=np.int64)]
    for first in range(0, len(query_vectors), QUERIES_AT_ONCE):
        some = slice(first, first + QUERIES_AT_ONCE)
        scores = query_vectors[some] @ item_vectors.T  # (some, m)
        is_own = query_groups[some, None] == item_groups[None, :]
        best = np.where(is_own, scores, -np.inf).max(axis=1, initial=-np.inf)
        ceiling = np.where(np.isfinite(best), guard.ceiling(best), np.inf)
        parts.append(_highest(np.where(is_own | (scores >= ceiling[:, None]), -np.inf, scores), k))
    return np.concatenate(parts)


def mine_view(
    view: View, query_vectors: Vectors, own: Sequence[str], *, k: int, depth: int = 100, guard: Guard | None = None
) -> list[list[dict[str, Any]]]:
    """Find hard negatives in an index: items that are most similar to a query and are not its own.

    Parameters
    ----------
    view : View
        Of the index; the exact one finds the same as `mine`.
    query_vectors : float32 ``(n, d)`` of unit length
        By the index's model.
    own : sequence of n str
        Id of each query's own item. Items of the same contents are its own too.
    k : int
        How many negatives a query gets at most.
    depth : int
        How many of the most similar items are looked at.
    guard : Guard or None
        None takes ``Guard()``.

    Returns
    -------
    list of n lists
        Records of the view's rows, the most similar first.

    Raises
    ------
    InputError
        If the view has no vector of an own item.
    """
    guard = guard or Guard()
    refs = view.find("id", sorted(set(own)))
    records = zip(refs, view.records(refs), strict=True)
    owners = {record["id"]: (ref, record) for ref, record in records if record["failure"] is None}
    for item_id in own:
        if item_id not in owners:
            raise InputError(f"the index has no vector of the item {item_id!r}; index its file, or leave its query out")
    found = view.search(query_vectors, depth)
    mined = []
    for query, item_id, scores, row in zip(query_vectors, own, found.scores, found.refs, strict=True):
        ref, record = owners[item_id]
        below = scores < guard.ceiling(query @ view.vector(ref))
        others = [one for one in view.records(row[below].tolist()) if not _same(one, record)]
        mined.append(others[:k])
    return mined


def _same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Tell whether two records are of one item, or of two files of the same contents."""
    alike = one["content_hash"] is not None and one["content_hash"] == other["content_hash"]
    return bool(alike or one["id"] == other["id"])


def _highest(scores: Scores, k: int) -> Integers:
    """Give the columns of the k highest of each row ``(n, m)``, descending; `NONE` for what is -inf."""
    columns = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    found = np.where(np.isfinite(np.take_along_axis(scores, columns, axis=1)), columns, NONE)
    return np.pad(found, ((0, 0), (0, k - found.shape[1])), constant_values=NONE)
