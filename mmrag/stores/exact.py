"""The exact view: every vector is compared. Slowest at a million rows, never wrong: the oracle."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from mmrag.roles import Vectors
from mmrag.similarity import cosines
from mmrag.stores.codes import MOST_QUERIES, Codes
from mmrag.stores.segment import Refs, Segment
from mmrag.stores.view import SEGMENT_SHIFT, Allowed, Candidates, View, best_of

_SCORES_AT_ONCE = 1 << 24
_LEAST_ROWS = 1024


class ExactView(View):
    """Exhaustive cosine search over memory-mapped vectors."""

    kind: ClassVar[str] = "exact"

    def search(self, query_vectors: Vectors, k: int, *, allowed: Allowed | None = None) -> Candidates:
        """Find the rows most similar to each query; equal scores come in the order of the rows."""
        wanted = wanted_rows(self.segments, allowed)
        each = math.prod(self.shape[:-1]) * math.prod(query_vectors.shape[1:-1])  # cosines between a query and a row
        at_once = max(1, _SCORES_AT_ONCE // (_LEAST_ROWS * each))
        blocks = [query_vectors[i : i + at_once] for i in range(0, len(query_vectors), at_once)]
        found = [self._search(block, k, wanted, _SCORES_AT_ONCE // (each * len(block))) for block in blocks]
        return Candidates(np.concatenate([one.scores for one in found]), np.concatenate([one.refs for one in found]))

    def _search(self, query_vectors: Vectors, k: int, wanted: Allowed, rows_at_once: int) -> Candidates:
        scores = [np.empty((len(query_vectors), 0), dtype=np.float32)]
        refs = [np.empty((len(query_vectors), 0), dtype=np.int64)]
        for number, segment in enumerate(self.segments):
            if segment.codes is not None:
                chunk_scores, rows = _narrowed(segment, segment.codes, wanted[number], query_vectors, k)
                scores.append(chunk_scores)
                refs.append(rows | (number << SEGMENT_SHIFT))
                continue
            for start in range(0, len(segment.vectors), rows_at_once):
                chunk = slice(start, start + rows_at_once)
                chunk_scores, rows = _best(segment, chunk, wanted[number][chunk], query_vectors, k)
                scores.append(chunk_scores)
                refs.append(rows | (number << SEGMENT_SHIFT))
        return best_of([Candidates(*one) for one in zip(scores, refs, strict=True)], k)


def wanted_rows(segments: Sequence[Segment], allowed: Allowed | None) -> Allowed:
    """Tell which of the rows that have a vector may be found, by segment: bool ``(searchable,)`` of each."""
    alive = [segment.alive[: len(segment.vectors)] for segment in segments]
    if allowed is None:
        return alive
    return [here & mask[: len(here)] for here, mask in zip(alive, allowed, strict=True)]


def _best(
    segment: Segment, chunk: slice, wanted: npt.NDArray[np.bool_], query_vectors: Vectors, k: int
) -> tuple[Vectors, Refs]:
    """Score the rows of a chunk that count and keep the k best per query: ``(queries, ≤ k)`` scores and rows."""
    numbers = np.flatnonzero(wanted) + chunk.start
    few = 2 * len(numbers) < len(wanted)
    rows = numbers if few else chunk
    texts = segment.texts[rows] if query_vectors.ndim == 3 else None  # one-vector queries score both alike
    scores = cosines(query_vectors, segment.vectors[rows], texts=texts)  # (queries, rows)
    if not few and len(numbers) < len(wanted):
        scores[:, ~wanted] = -np.inf
    best = np.stack([_top(row, min(k, len(numbers))) for row in scores])
    return np.take_along_axis(scores, best, axis=1), numbers[best] if few else best + chunk.start


def _narrowed(
    segment: Segment, codes: Codes, wanted: npt.NDArray[np.bool_], query_vectors: Vectors, k: int
) -> tuple[Vectors, Refs]:
    """Find the k best rows that count by their bytes first: ``(queries, ≤ k)`` scores and rows, as `_best` would."""
    k = min(k, int(np.count_nonzero(wanted)))
    found = []
    for start in range(0, len(query_vectors), MOST_QUERIES):
        some = query_vectors[start : start + MOST_QUERIES]
        for query, rows in zip(some, codes.candidates(some, k, wanted), strict=True):
            scores = cosines(query[None], segment.vectors[rows])[0]
            best = _top(scores, k)
            found.append((scores[best], rows[best]))
    return np.stack([scores for scores, _ in found]), np.stack([rows for _, rows in found])


def _top(scores: Vectors, k: int) -> Refs:
    """Positions of the k highest of ``(n,)`` scores, k ≤ n, the first of equals preferred; unordered."""
    if k in (0, len(scores)):
        return np.arange(k)
    lowest_kept = np.partition(scores, -k)[-k]
    above = np.flatnonzero(scores > lowest_kept)
    level = np.flatnonzero(scores == lowest_kept)
    return np.concatenate([above, level[: k - len(above)]])
