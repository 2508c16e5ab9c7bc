"""Words and vectors together: what is found by BM25 and what is found by cosine become one list."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from mmrag.roles import Vectors
from mmrag.search.recall import Found, best_contents, find, fold_found
from mmrag.similarity import cosines
from mmrag.stores.exact import wanted_rows
from mmrag.stores.segment import Refs
from mmrag.stores.view import SEGMENT_SHIFT, Allowed, Candidates

if TYPE_CHECKING:
    from mmrag.stores.view import View
    from mmrag.stores.words import Stamps, WordsView

Fusion = Literal["rrf", "weights"]

_RANK_CONSTANT = 60
_LEAST_SHARE = 0.01
_STOP_WORDS = frozenset(
    "a an and are as at be but by for if in into is it no not of on or such that the their then there these they "  # noqa: SIM905
    "this to was will with".split()
)


@dataclass(frozen=True)
class Hybrid:
    """Finds contents by their words and by their vectors, and fuses both lists.

    Attributes
    ----------
    view : View
        Where vectors are.
    full_text : WordsView
        Where words are.
    depth : int
        How many contents of each list count, but at least as many as are asked for.
    fusion : {"rrf", "weights"}
        By reciprocal ranks, Σ 1/(60 + rank) (Cormack et al. 2009); or by weighted scores, where cosines are scaled so
        that the lowest is 0 and the highest 1, and BM25 so that the highest is 1 (Bruch et al. 2023, section 3).
    words_weight : float
        What BM25 counts, from 0 to 1, if weighted; the cosine counts the rest.
    fold_duplicates : bool
        Make one of items with equal content.
    fold_near : bool
        Make one of items that look or read nearly the same.
    """

    view: View
    full_text: WordsView
    depth: int
    fusion: Fusion
    words_weight: float
    fold_duplicates: bool
    fold_near: bool = False

    def find(
        self,
        query_vector: Vectors,
        words: str,
        *,
        k: int,
        min_score: float = -1.0,
        allowed: Allowed | None = None,
    ) -> list[Found]:
        """Find the k best contents for one query.

        Parameters
        ----------
        query_vector : float32 ``(1, dimension)`` or ``(1, vectors, dimension)``
            Of unit length.
        words : str
            What BM25 looks for.
        k : int
            How many; fewer if fewer rows are allowed, or most of what counts is folded.
        min_score : float
            Lowest score, of the kind that `fusion` makes.
        allowed : sequence of bool arrays, or None
            Which rows may be found, as for `View.search`.

        Returns
        -------
        list of Found
            By descending score, of the kind "rrf" or "weighted"; their parts have "bm25", "bm25_rank" and
            "cosine_rank" as far as they are among the best by words or by vectors.
        """
        mine = wanted_rows(self.view.segments, allowed)
        asked = content_words(words)
        depth = max(2 * k if self.fold_near else k, self.depth)
        by_vector = find(self.view, query_vector, k=depth, fold_duplicates=self.fold_duplicates, allowed=allowed)[0]
        by_words = self._by_words(query_vector, asked, depth, mine)
        fused = self._fused(self._united(by_vector, by_words))
        fused = (fold_found(self.view, fused) if self.fold_near else fused)[:k]
        kinds = self.full_text.kinds_with(asked, [one.record["stamp"] for one in fused])
        return [
            replace(self._with_copies(one, mine), matched=kinds.get(one.record["stamp"], ()))
            for one in fused
            if (one.score or 0.0) >= min_score
        ]

    def _by_words(self, query_vector: Vectors, words: str, k: int, mine: Allowed) -> list[Found]:
        def search(wanted: int) -> Candidates:
            scores, refs = self._best(words, wanted, mine)
            return Candidates(scores[None, :wanted], refs[None, :wanted])

        groups = best_contents(self.view, search, k, fold_duplicates=self.fold_duplicates)[0][:k]
        if not groups:
            return []
        records = [group[0][1] for group in groups]
        refs = [group[0][2] for group in groups]
        vectors = np.stack([self.view.vector(ref) for ref in refs])
        texts = np.array([record["modality"] == "text" for record in records])
        similar = np.minimum(cosines(query_vector, vectors, texts=texts)[0], 1).tolist()
        return [
            Found(cosine, record, ref, tuple(other for _, other, _ in group[1:]), parts={"bm25": group[0][0]})
            for cosine, record, ref, group in zip(similar, records, refs, groups, strict=True)
        ]

    def _best(self, words: str, wanted: int, mine: Allowed) -> tuple[Vectors, Refs]:
        """Find at least as many rows as wanted, or all there are; of equal scores either all or none.

        More are asked for than may be found: were the stamps of those named, scores would depend on which these are.
        """
        share = sum(int(mask.sum()) for mask in mine) / max(1, sum(map(len, mine)))
        asked = int(wanted / max(share, _LEAST_SHARE))
        while True:
            scores, stamps = self.full_text.search(words, asked + 1)
            exhausted = len(scores) <= asked
            if not exhausted:
                stamps = stamps[scores > scores[-1]]
                scores = scores[: len(stamps)]
            refs = _refs(self.view, stamps, mine)
            if exhausted or (refs >= 0).sum() >= wanted:
                return scores[refs >= 0], refs[refs >= 0]
            asked *= 4

    def _united(self, by_vector: Sequence[Found], by_words: Sequence[Found]) -> list[Found]:
        """Join what both have found; the item whose words were found is the one that is shown."""
        united = {self._key(one): _with_part(one, "cosine_rank", rank) for rank, one in enumerate(by_vector, start=1)}
        for rank, one in enumerate(by_words, start=1):
            found = _with_part(one, "bm25_rank", rank)
            same = united.get(self._key(one))
            if same is not None:
                others = _others(one.record, [same.record, *same.others, *one.others])
                found = replace(found, cosine=same.cosine, others=others, parts={**same.parts, **found.parts})
            united[self._key(one)] = found
        return list(united.values())

    def _key(self, found: Found) -> str:
        return found.content if self.fold_duplicates else str(found.record["id"])

    def _fused(self, found: Sequence[Found]) -> list[Found]:
        if self.fusion == "rrf":
            scores, kind = _by_rank(found), "rrf"
        else:
            scores, kind = _by_score(found, self.words_weight), "weighted"
        scored = [replace(one, score=score, kind=kind) for one, score in zip(found, scores, strict=True)]
        return sorted(scored, key=lambda one: (-(one.score or 0.0), -one.cosine))

    def _with_copies(self, found: Found, mine: Allowed) -> Found:
        """Fold in the copies of what was found by its words alone, which other words may belong to."""
        content = found.record["content_hash"]
        if "cosine_rank" in found.parts or not self.fold_duplicates or not content:
            return found
        refs = [ref for ref in self.view.find("content_hash", [content]) if _is_in(ref, mine)]
        return replace(found, others=_others(found.record, self.view.records(refs)))


def content_words(text: str) -> str:
    """Leave out the English words that stand in nearly every sentence, unless there are no others.

    Examples
    --------
    >>> content_words("A dog on the beach")
    'dog beach'
    """
    words = text.split()
    return " ".join([word for word in words if word.lower() not in _STOP_WORDS] or words)


def _by_rank(found: Sequence[Found]) -> list[float]:
    ranks = [[one.parts[name] for name in ("cosine_rank", "bm25_rank") if name in one.parts] for one in found]
    return [sum(1 / (_RANK_CONSTANT + rank) for rank in some) for some in ranks]


def _by_score(found: Sequence[Found], words_weight: float) -> list[float]:
    similar = [one.cosine for one in found]
    lowest, highest = min(similar, default=0.0), max(similar, default=0.0)
    most = max((one.parts.get("bm25", 0.0) for one in found), default=0.0) or 1.0
    return [
        (1 - words_weight) * ((one.cosine - lowest) / (highest - lowest) if highest > lowest else 1.0)
        + words_weight * one.parts.get("bm25", 0.0) / most
        for one in found
    ]


def _with_part(found: Found, name: str, value: float) -> Found:
    return replace(found, parts={**found.parts, name: float(value)})


def _others(shown: dict[str, Any], records: Sequence[dict[str, Any]]) -> tuple[dict[str, Any], ...]:
    others = {record["id"]: record for record in records if record["id"] != shown["id"]}
    return tuple(sorted(others.values(), key=lambda one: str(one["uri"])))


def _refs(view: View, stamps: Stamps, mine: Allowed) -> Refs:
    """Find rows by their stamps; -1 where a stamp is of a row that may not be found."""
    refs = np.full(len(stamps), -1, dtype=np.int64)
    order = np.argsort(stamps)
    ascending = stamps[order]
    for number, (segment, mask) in enumerate(zip(view.segments, mine, strict=True)):
        rows = np.flatnonzero(mask)
        places = np.minimum(np.searchsorted(ascending, segment.stamps[rows]), len(stamps) - 1)
        here = ascending[places] == segment.stamps[rows] if len(stamps) else np.zeros(len(rows), dtype=bool)
        refs[order[places[here]]] = rows[here] | (number << SEGMENT_SHIFT)
    return refs


def _is_in(ref: int, mine: Allowed) -> bool:
    mask, row = mine[ref >> SEGMENT_SHIFT], ref & ((1 << SEGMENT_SHIFT) - 1)
    return bool(row < len(mask) and mask[row])
