"""All items of a corpus that are the same as others, or look or read nearly the same."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from mmrag.search.near import SURE_BITS, Refs, are_similar, near_pairs
from mmrag.sources.fingerprint import PLAIN
from mmrag.stores.records import to_item
from mmrag.stores.segment import Segment, damage_told
from mmrag.stores.view import SEGMENT_SHIFT
from mmrag.types import Copy, Duplicates

if TYPE_CHECKING:
    from mmrag.stores.view import View

Kind = Literal["exact", "near"]

_NAMES = ("content_hash", "fingerprint", "modality")


@dataclass(frozen=True)
class _Rows:
    """The items of a view that can be found.

    Attributes
    ----------
    refs : int64 ``(n,)``
        Where they are.
    contents : int64 ``(n,)``
        Numbers, equal of equal contents.
    fingerprints : int64 ``(n,)``
        `PLAIN` where there is none.
    known : bool ``(n,)``
        Whether there is one.
    texts : bool ``(n,)``
        Which are texts.
    """

    refs: Refs
    contents: npt.NDArray[np.int64]
    fingerprints: npt.NDArray[np.int64]
    known: npt.NDArray[np.bool_]
    texts: npt.NDArray[np.bool_]


def find_duplicates(view: View, kind: Kind | None = None) -> Duplicates:
    """Group the items of a view by content, and contents that are near to each other.

    What is near to something near is in the same group.

    Parameters
    ----------
    view : View
        The corpus.
    kind : {"exact", "near"} or None
        Only items with the very same content, or only groups of different contents; by default both.
    """
    rows = _read(view)
    groups = rows.contents if kind == "exact" else _joined(view, rows)
    order = np.argsort(groups, kind="stable")
    borders = np.flatnonzero(np.diff(groups[order])) + 1
    found = [some for some in np.split(order, borders) if len(some) > 1]
    if kind == "near":
        found = [some for some in found if len(np.unique(rows.contents[some])) > 1]
    copies = [_copies(view, rows.refs[some].tolist()) for some in found]
    unknown = 0 if kind == "exact" else int((~rows.known).sum())
    return Duplicates(tuple(sorted(copies, key=lambda one: (-len(one), one[0].item.uri))), unknown)


def _read(view: View) -> _Rows:
    refs = [
        np.flatnonzero(one.alive[: len(one.vectors)]) | (number << SEGMENT_SHIFT)
        for number, one in enumerate(view.segments)
    ]
    with damage_told(view.folder):
        columns = pa.concat_tables([_EMPTY, *(_searchable(one) for one in view.segments)]).combine_chunks()
    hashes = pc.dictionary_encode(columns["content_hash"]).combine_chunks()
    contents = pc.fill_null(hashes.indices, -1).to_numpy().astype(np.int64)
    lacking = contents < 0
    contents[lacking] = len(hashes.dictionary) + np.arange(lacking.sum())  # equal to nothing
    return _Rows(
        np.concatenate([np.empty(0, np.int64), *refs]),
        contents,
        pc.fill_null(columns["fingerprint"], PLAIN).to_numpy(),
        columns["fingerprint"].is_valid().to_numpy(),
        pc.equal(columns["modality"], "text").to_numpy(),
    )


_EMPTY = pa.table(
    {
        "content_hash": pa.array([], pa.string()),
        "fingerprint": pa.array([], pa.int64()),
        "modality": pa.array([], pa.string()),
    }
)


def _searchable(segment: Segment) -> pa.Table:
    rows = segment.sound_columns.select(_NAMES).slice(0, len(segment.vectors))
    return (
        rows.filter(pa.array(segment.alive[: len(segment.vectors)])).replace_schema_metadata(None).cast(_EMPTY.schema)
    )


def _joined(view: View, rows: _Rows) -> npt.NDArray[np.int64]:
    """Give rows a number, the same to those that belong together."""
    parents = np.arange(rows.contents.max(initial=-1) + 1)
    for texts in (False, True):
        compared = np.flatnonzero((rows.fingerprints != PLAIN) & (rows.texts == texts))
        for one, other in _near(view, rows, compared):
            parents[_root(parents, one)] = _root(parents, other)
    roots = np.array([_root(parents, one) for one in range(len(parents))], dtype=np.int64)
    return roots[rows.contents]


def _near(view: View, rows: _Rows, compared: npt.NDArray[np.intp]) -> Iterator[tuple[int, int]]:
    """Give pairs of near contents: those of one fingerprint in a chain, and those whose fingerprints are near."""
    fingerprints, first, which = np.unique(rows.fingerprints[compared], return_index=True, return_inverse=True)
    contents = rows.contents[compared]
    yield from zip(contents.tolist(), contents[first][which].tolist(), strict=True)
    refs = rows.refs[compared][first]
    for pairs, bits in near_pairs(fingerprints):
        sound = pairs[(bits <= SURE_BITS) | _are_similar(view, refs, pairs, bits > SURE_BITS)]
        yield from contents[first][sound].tolist()


def _are_similar(
    view: View, refs: Refs, pairs: npt.NDArray[np.int64], doubtful: npt.NDArray[np.bool_]
) -> npt.NDArray[np.bool_]:
    """Tell which of the doubtful pairs have similar vectors; of the others nothing."""
    similar = np.zeros(len(pairs), dtype=bool)
    order = np.flatnonzero(doubtful)[np.argsort(pairs[doubtful, 0], kind="stable")]
    for some in np.split(order, np.flatnonzero(np.diff(pairs[order, 0])) + 1):
        if len(some):
            similar[some] = are_similar(view, int(refs[pairs[some[0], 0]]), refs[pairs[some, 1]])
    return similar


def _root(parents: npt.NDArray[np.int64], one: int) -> int:
    while parents[one] != one:
        parents[one] = parents[parents[one]]
        one = int(parents[one])
    return one


def _copies(view: View, refs: list[int]) -> tuple[Copy, ...]:
    records = view.records(refs)
    copies = [Copy(to_item(one), one["size"], str(one["content_hash"] or one["id"])) for one in records]
    return tuple(sorted(copies, key=lambda one: (-one.pixels, -(one.size or 0), len(one.item.uri), one.item.uri)))
