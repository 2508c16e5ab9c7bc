"""The Lance view: an index of LanceDB beside each large segment finds candidates, and their cosines rank them.

Each index has a dataset of its own, of rows' numbers and vectors, so that the view can be thrown away and made again
without a change to the table. Segments with few rows are compared whole, as in the exact view, and so is a segment of
which a filter leaves few.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mmrag.errors import StoreError
from mmrag.roles import Vectors
from mmrag.similarity import cosines
from mmrag.stores.exact import ExactView, wanted_rows
from mmrag.stores.files import delete, disk_errors
from mmrag.stores.segment import Refs, Segment, damage_told
from mmrag.stores.view import SEGMENT_SHIFT, Allowed, Candidates, best_of

SUFFIX = ".lance"

_NAME = "vectors"
_ROWS_AT_ONCE = 1 << 15
_MOST_ATTEMPTS = 4


class LanceView(ExactView):
    """Candidates from an index of LanceDB, ranked by their cosines."""

    kind: ClassVar[str] = "lance"

    @functools.cached_property
    def _tables(self) -> dict[int, Any]:
        """The datasets of the segments that have an index, by segment; a newer view may have replaced some."""
        import lancedb

        places = {n: self._place(one) for n, one in enumerate(self.segments) if SUFFIX in one.state.built}
        return {n: lancedb.connect(place).open_table(_NAME) for n, place in places.items() if place.is_dir()}

    def built(self) -> Self:
        """Build the indexes of the segments that have none and are large enough."""
        if not any(map(self._lacks_index, self.segments)):
            return self
        with damage_told(self.folder), disk_errors(self.folder):
            segments = [self._with_index(one) if self._lacks_index(one) else one for one in self.segments]
            return self._publish(segments, self.table_version)

    def search(self, query_vectors: Vectors, k: int, *, allowed: Allowed | None = None) -> Candidates:
        """Find nearly always the rows most similar to each query; scores are cosines."""
        wanted = wanted_rows(self.segments, allowed)
        indexed = [n for n in self._tables if query_vectors.ndim == 2 and wanted[n].sum() >= self.settings.build_at]
        whole = [np.zeros_like(mask) if n in indexed else mask for n, mask in enumerate(wanted)]
        found = [super().search(query_vectors, k, allowed=whole)]
        for number in indexed:
            with damage_told(self.folder):
                found.append(self._find(number, query_vectors, k, wanted))
        return best_of(found, k)

    def _find(self, number: int, query_vectors: Vectors, k: int, wanted: Allowed) -> Candidates:
        """Search one segment; a query for which its index finds too few is compared with all that is wanted there."""
        vectors = self.segments[number].vectors
        k = min(k, int(np.count_nonzero(wanted[number])))
        scores = np.empty((len(query_vectors), k), dtype=np.float32)
        refs = np.empty((len(query_vectors), k), dtype=np.int64)
        for n, query in enumerate(query_vectors):
            rows = self._candidates(number, query, k, wanted[number])
            if len(rows) < k:
                only = [mask if other == number else np.zeros_like(mask) for other, mask in enumerate(wanted)]
                exact = super().search(query[None], k, allowed=only)
                scores[n], refs[n] = exact.scores[0], exact.refs[0]
                continue
            products = cosines(query[None], vectors[rows])[0]
            best = np.lexsort((rows, -products))[:k]
            scores[n], refs[n] = products[best], rows[best] | (number << SEGMENT_SHIFT)
        return Candidates(scores, refs)

    def _candidates(self, number: int, query: Vectors, k: int, wanted: npt.NDArray[np.bool_]) -> Refs:
        """Ask the index for more than is wanted, and for still more while what counts is not enough."""
        share = np.count_nonzero(wanted) / len(wanted)
        asked = int(np.ceil(k * self.settings.rescore_factor / share))
        rows = np.empty(0, dtype=np.int64)
        for _ in range(_MOST_ATTEMPTS):
            found = self._ask(number, query, asked)
            rows = found[wanted[found]]
            if len(rows) >= k or len(found) < asked:
                break
            asked *= 4
        return rows

    def _ask(self, number: int, query: Vectors, count: int) -> Refs:
        """Let LanceDB find rows; none if a newer view has deleted its files meanwhile."""
        search = self._tables[number].search(query, vector_column_name="vector").distance_type("cosine")
        search = search.nprobes(self.settings.nprobe).ef(max(self.settings.ef_search, count)).limit(count)
        try:
            found = search.select(["row", "_distance"]).to_arrow()["row"].to_numpy()
        except (OSError, RuntimeError, ValueError) as error:
            if self._place(self.segments[number]).is_dir():
                raise ValueError(error) from error
            return np.empty(0, dtype=np.int64)
        return np.asarray(found, dtype=np.int64)

    def _lacks_index(self, segment: Segment) -> bool:
        worthwhile = len(self.shape) == 1 and len(segment.vectors) >= self.settings.build_at
        return worthwhile and SUFFIX not in segment.state.built

    def _place(self, segment: Segment) -> Path:
        return self.folder / f"{segment.state.name}{SUFFIX}"

    def _with_index(self, segment: Segment) -> Segment:
        import lancedb

        place = self._place(segment)
        delete(place)
        schema = pa.schema([("row", pa.int64()), ("vector", pa.list_(pa.float32(), self.shape[0]))])
        try:
            table = lancedb.connect(place).create_table(_NAME, _batches(segment.vectors, schema), schema=schema)
            table.create_index("vector", config=_config(self.settings.factory))
        except (RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise StoreError(
                f"LanceDB did not build the index of {place} ({reason}). Where it has too few rows for that, raise "
                "view.build_at"
            ) from error
        return replace(segment, state=replace(segment.state, built={SUFFIX: 0}))


def _batches(vectors: Vectors, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    for start in range(0, len(vectors), _ROWS_AT_ONCE):
        block = np.asarray(vectors[start : start + _ROWS_AT_ONCE])
        numbers = pa.array(np.arange(start, start + len(block)))
        rows = pa.FixedSizeListArray.from_arrays(pa.array(block.reshape(-1)), block.shape[1])
        yield pa.RecordBatch.from_arrays([numbers, rows], schema=schema)


def _config(factory: str) -> Any:
    from lancedb import index

    kinds = {"IVF_PQ": index.IvfPq, "IVF_HNSW_SQ": index.HnswSq, "IVF_RQ": index.IvfRq}
    return kinds[factory](distance_type="cosine")
