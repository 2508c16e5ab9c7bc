"""The exact view: every vector is compared. Slowest at a million rows, never wrong: the oracle."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np

from mmrag.roles import Vectors
from mmrag.similarity import cosines
from mmrag.stores.view import SEGMENT_SHIFT, Candidates, Refs, Segment, View

_SCORES_AT_ONCE = 1 << 24
_LEAST_ROWS = 1024


class ExactView(View):
    """Exhaustive cosine search over memory-mapped vectors."""

    kind: ClassVar[str] = "exact"

    def search(self, query_vectors: Vectors, k: int) -> Candidates:
        """Find the rows most similar to each query; equal scores come in the order of the rows."""
        each = math.prod(self.shape[:-1]) * math.prod(query_vectors.shape[1:-1])  # cosines between a query and a row
        at_once = max(1, _SCORES_AT_ONCE // (_LEAST_ROWS * each))
        blocks = [query_vectors[i : i + at_once] for i in range(0, len(query_vectors), at_once)]
        found = [self._search(block, k, _SCORES_AT_ONCE // (each * len(block))) for block in blocks]
        return Candidates(np.concatenate([one.scores for one in found]), np.concatenate([one.refs for one in found]))

    def _search(self, query_vectors: Vectors, k: int, rows_at_once: int) -> Candidates:
        scores = [np.empty((len(query_vectors), 0), dtype=np.float32)]
        refs = [np.empty((len(query_vectors), 0), dtype=np.int64)]
        for number, segment in enumerate(self.segments):
            for start in range(0, len(segment.vectors), rows_at_once):
                chunk_scores, rows = _best(segment, slice(start, start + rows_at_once), query_vectors, k)
                scores.append(chunk_scores)
                refs.append(rows | (number << SEGMENT_SHIFT))
        return _merged(np.concatenate(scores, axis=1), np.concatenate(refs, axis=1), k)


def _best(segment: Segment, chunk: slice, query_vectors: Vectors, k: int) -> tuple[Vectors, Refs]:
    """Score a chunk and keep its k best per query: ``(queries, ≤ k)`` scores and row numbers."""
    texts = segment.texts[chunk] if query_vectors.ndim == 3 else None  # one-vector queries score both alike
    scores = cosines(query_vectors, segment.vectors[chunk], texts=texts)  # (queries, rows)
    alive = segment.alive[: len(segment.vectors)][chunk]
    if not alive.all():
        scores[:, ~alive] = -np.inf
    rows = np.stack([_top(row, min(k, int(alive.sum()))) for row in scores])
    return np.take_along_axis(scores, rows, axis=1), rows + chunk.start


def _top(scores: Vectors, k: int) -> Refs:
    """Positions of the k highest of ``(n,)`` scores, k ≤ n, the first of equals preferred; unordered."""
    if k in (0, len(scores)):
        return np.arange(k)
    lowest_kept = np.partition(scores, -k)[-k]
    above = np.flatnonzero(scores > lowest_kept)
    level = np.flatnonzero(scores == lowest_kept)
    return np.concatenate([above, level[: k - len(above)]])


def _merged(scores: Vectors, refs: Refs, k: int) -> Candidates:
    order = np.lexsort((refs, -scores), axis=1)[:, :k]
    return Candidates(np.take_along_axis(scores, order, axis=1), np.take_along_axis(refs, order, axis=1))
