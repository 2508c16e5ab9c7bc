"""The FAISS view: an index of FAISS beside each large segment finds candidates, and their cosines rank them.

Segments with few rows are compared whole, as in the exact view, and so is everything where FAISS is not installed.
Files of FAISS are parsed by native code that does not expect harm: they are read only if they are, byte for byte,
what this view has built. That finds damage; who may change ``view.json`` too may feed FAISS anything.
"""

from __future__ import annotations

import functools
import logging
import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from mmrag.errors import MissingExtraError
from mmrag.machine import usable_cores
from mmrag.roles import Vectors
from mmrag.similarity import cosines
from mmrag.stores.exact import ExactView, wanted_rows
from mmrag.stores.files import checksum, disk_errors, sync_to_disk
from mmrag.stores.rescore import copy_suffix, open_copy, restored, write_copy
from mmrag.stores.segment import Refs, Segment, damage_told
from mmrag.stores.view import SEGMENT_SHIFT, Allowed, Candidates, best_of
from mmrag.stores.view_settings import ViewSettings

logger = logging.getLogger("mmrag")

SUFFIX = ".faiss"

_ROWS_AT_ONCE = 1 << 16
_SAMPLE = 1 << 16
_SAMPLE_PER_LIST = 64
_QUERIES_AT_ONCE = 64
_MOST_LISTS, _MOST_NEIGHBOURS = 16, 4
"""How many times as hard a filtered search looks at the most."""


@functools.cache
def load_faiss() -> Any:
    """Import FAISS, and let it use the processors that this process may run on.

    Raises
    ------
    MissingExtraError
        If it is not installed.
    """
    try:
        import faiss
    except ImportError as error:
        raise MissingExtraError("faiss", "faiss") from error
    faiss.omp_set_num_threads(usable_cores())
    return faiss


class FaissView(ExactView):
    """Candidates from FAISS, ranked by their cosines."""

    kind: ClassVar[str] = "faiss"

    @classmethod
    def check(cls, settings: ViewSettings, dimension: int) -> None:
        """Check that FAISS is installed and that its index divides vectors of this dimension."""
        load_faiss()
        settings.factory_for(1, dimension)

    @functools.cached_property
    def _opened(self) -> _Opened:
        return _Opened()

    def built(self) -> Self:
        """Build the indexes of the segments that have none and are large enough."""
        if not any(map(self._lacks_index, self.segments)) or not _is_installed():
            return self
        with damage_told(self.folder), disk_errors(self.folder), _faiss_errors():
            segments = [self._with_index(one) if self._lacks_index(one) else one for one in self.segments]
            return self._publish(segments, self.table_version)

    def search(self, query_vectors: Vectors, k: int, *, allowed: Allowed | None = None) -> Candidates:
        """Find nearly always the rows most similar to each query.

        Scores are cosines; where `rescore` is empty and items have one vector, what FAISS estimates. Of a segment in
        which fewer than `build_at` rows may be found, all of these are compared.
        """
        wanted = wanted_rows(self.segments, allowed)
        with damage_told(self.folder), _faiss_errors():
            worthwhile = [n for n, mask in enumerate(wanted) if np.count_nonzero(mask) >= self.settings.build_at]
            indexes = {n: index for n in worthwhile if (index := self._index(self.segments[n])) is not None}
            found = [self._find(n, index, query_vectors, k, wanted) for n, index in indexes.items()]
        if len(found) < len(self.segments) or not found:
            whole = [np.zeros_like(mask) if n in indexes else mask for n, mask in enumerate(wanted)]
            found.append(super().search(query_vectors, k, allowed=whole))
        return best_of(found, k)

    def _find(self, number: int, index: _SegmentIndex, query_vectors: Vectors, k: int, wanted: Allowed) -> Candidates:
        """Search one segment; queries for which its index finds too few are compared with all that is wanted there."""
        k = min(k, int(np.count_nonzero(wanted[number])))
        scores, rows = index.search(query_vectors, k, wanted[number], self.settings)
        found = best_of([Candidates(scores, np.where(rows < 0, rows, rows | (number << SEGMENT_SHIFT)))], k)
        short = np.flatnonzero((found.refs < 0).any(axis=1))
        if len(short):
            only = [mask if n == number else np.zeros_like(mask) for n, mask in enumerate(wanted)]
            whole = super().search(query_vectors[short], k, allowed=only)
            found.scores[short], found.refs[short] = whole.scores, whole.refs
        return found

    def _lacks_index(self, segment: Segment) -> bool:
        return SUFFIX not in segment.state.built and len(segment.vectors) >= self.settings.build_at

    def _with_index(self, segment: Segment) -> Segment:
        """Build the index of a segment, and the copy that its candidates are compared by."""
        stem, suffix = self.folder / segment.state.name, copy_suffix(self.settings.rescore)
        vectors = segment.vectors.reshape(-1, self.shape[-1])
        path = stem.with_suffix(SUFFIX)
        load_faiss().write_index(_build(vectors, self.settings), str(path))
        sync_to_disk(path)
        built = {SUFFIX: checksum(path)}
        if suffix is not None:
            write_copy(stem.with_suffix(suffix), segment.vectors, self.settings.rescore)
            built[suffix] = 0
        return replace(segment, state=replace(segment.state, built=built))

    def _index(self, segment: Segment) -> _SegmentIndex | None:
        """Open the index of a segment; None where it has none, FAISS is missing, or a newer view has replaced it."""
        if SUFFIX not in segment.state.built or not _is_installed():
            return None
        with self._opened.lock:
            if segment.state.name not in self._opened.indexes:
                try:
                    self._opened.indexes[segment.state.name] = _SegmentIndex.open(segment, self.folder, self.settings)
                except FileNotFoundError:
                    return None
            return self._opened.indexes[segment.state.name]


@dataclass(frozen=True)
class _Opened:
    """The indexes that searches have opened, by the names of segments."""

    indexes: dict[str, _SegmentIndex] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)


@dataclass(frozen=True)
class _SegmentIndex:
    """A segment, what FAISS has built of it, and what candidates are compared by."""

    segment: Segment
    index: Any
    rows: npt.NDArray[Any]

    @classmethod
    def open(cls, segment: Segment, folder: Path, settings: ViewSettings) -> _SegmentIndex:
        faiss, path = load_faiss(), folder / f"{segment.state.name}{SUFFIX}"
        if checksum(path) != segment.state.built[SUFFIX]:
            raise ValueError(f"{path.name} is not what was built")
        index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
        if index.ntotal * index.d != segment.vectors.size or index.metric_type != faiss.METRIC_INNER_PRODUCT:
            raise ValueError(f"{path.name} holds other vectors than {segment.state.name}")
        return cls(segment, index, open_copy(segment, folder, settings.rescore))

    def search(
        self, query_vectors: Vectors, k: int, wanted: npt.NDArray[np.bool_], settings: ViewSettings
    ) -> tuple[Vectors, Refs]:
        """Find k rows or more for each query, in no order: scores and rows, -inf and -1 where there are fewer."""
        each = math.prod(self.rows.shape[1:-1])
        one_vector = query_vectors.ndim == self.rows.ndim == 2
        factor = settings.rescore_factor if settings.rescore or not one_vector else 1
        count = min(each * math.ceil(k * factor), self.index.ntotal)
        vectors = np.ascontiguousarray(query_vectors.reshape(-1, query_vectors.shape[-1]), dtype=np.float32)
        parameters = _parameters(settings, count, np.repeat(wanted, each), getattr(self.index, "nlist", 0))
        scores, found = self.index.search(vectors, count, params=parameters)
        if not one_vector:
            return self._whole_items(query_vectors, k, found.reshape(len(query_vectors), -1) // each)
        if settings.rescore:
            scores = self._products(vectors, found)
        return np.where(found < 0, -np.inf, scores).astype(np.float32), found

    def _products(self, vectors: Vectors, found: Refs) -> Vectors:
        """Compare each query with its own candidates: ``(queries, count)``."""
        if self.rows.dtype == np.float32:
            faiss, scores = load_faiss(), np.empty(found.shape, dtype=np.float32)
            pointers = (faiss.swig_ptr(one) for one in (scores, vectors, self.rows, np.ascontiguousarray(found)))
            faiss.fvec_inner_products_by_idx(*pointers, vectors.shape[1], len(vectors), found.shape[1])
            return scores
        blocks = [slice(start, start + _QUERIES_AT_ONCE) for start in range(0, len(found), _QUERIES_AT_ONCE)]
        return np.concatenate(
            [np.einsum("qd,qcd->qc", vectors[one], restored(self.rows[found[one]])) for one in blocks]
        )

    def _whole_items(self, query_vectors: Vectors, k: int, found: Refs) -> tuple[Vectors, Refs]:
        """Compare each query with all vectors of the items that candidates belong to."""
        width = max(k, found.shape[1])
        scores = np.full((len(found), width), -np.inf, dtype=np.float32)
        rows = np.full((len(found), width), -1, dtype=np.int64)
        for number, items in enumerate(found):
            own = np.unique(items[items >= 0])
            texts = self.segment.texts[own] if query_vectors.ndim == 3 else None
            rows[number, : len(own)] = own
            scores[number, : len(own)] = cosines(
                query_vectors[number : number + 1], restored(self.rows[own]), texts=texts
            )
        return scores, rows


def _parameters(settings: ViewSettings, count: int, wanted: npt.NDArray[np.bool_], lists: int) -> Any:
    """Say how hard to look for so many vectors, and among which."""
    faiss = load_faiss()
    selector = None if wanted.all() else faiss.IDSelectorBitmap(np.packbits(wanted, bitorder="little"))
    scarcity = len(wanted) / np.count_nonzero(wanted)  # the best of a tenth lie farther off than the best of all
    if settings.factory.startswith("IVF"):
        nprobe = round(settings.nprobe * min(_MOST_LISTS, scarcity**0.7))
        return faiss.SearchParametersIVF(nprobe=min(nprobe, lists), sel=selector)
    if settings.factory.startswith("HNSW"):
        return faiss.SearchParametersHNSW(
            efSearch=max(round(settings.ef_search * min(_MOST_NEIGHBOURS, scarcity)), count), sel=selector
        )
    return faiss.SearchParameters(sel=selector)


def _build(vectors: Vectors, settings: ViewSettings) -> Any:
    """Train an index on a sample of vectors, and fill it."""
    faiss = load_faiss()
    factory = settings.factory_for(len(vectors), vectors.shape[1])
    index = faiss.index_factory(vectors.shape[1], factory, faiss.METRIC_INNER_PRODUCT)
    if not index.is_trained:
        lists = faiss.try_extract_index_ivf(index)
        if lists is not None:
            _train_on_gpus(lists)
        size = max(_SAMPLE, _SAMPLE_PER_LIST * lists.nlist if lists is not None else 0)
        random = np.random.default_rng(0)
        sample = np.sort(random.choice(len(vectors), min(size, len(vectors)), replace=False))
        index.train(vectors[sample])
    for start in range(0, len(vectors), _ROWS_AT_ONCE):
        index.add(np.ascontiguousarray(vectors[start : start + _ROWS_AT_ONCE]))
    return index


def _train_on_gpus(lists: Any) -> None:
    """Let the graphics cards that there are look for the centres of an index's lists."""
    faiss = load_faiss()
    if hasattr(faiss, "get_num_gpus") and faiss.get_num_gpus() > 0:
        lists.clustering_index = faiss.index_cpu_to_all_gpus(faiss.IndexFlatIP(lists.d))


@contextmanager
def _faiss_errors() -> Iterator[None]:
    """Make a ValueError, which `damage_told` knows, of what FAISS raises."""
    try:
        yield
    except RuntimeError as error:
        raise ValueError(str(error)) from error


@functools.cache
def _is_installed() -> bool:
    """Tell whether FAISS is installed, with a warning if not."""
    try:
        load_faiss()
    except MissingExtraError as error:
        logger.warning("%s. Until then every vector is compared, which finds the same and takes longer", error)
        return False
    return True
