"""Near duplicates: what looks or reads nearly the same as something else.

Two items are near if their fingerprints differ in at most `SURE_BITS` bits, or in at most `MOST_BITS` and the cosine of
their vectors is at least `LEAST_COSINE`. The scale of cosines is each model's own. A model for which everything is
similar only loses a second opinion, and one for which little is similar only finds fewer: what differs in `SURE_BITS`
bits is near whatever the model says. Measured on 1,000 photographs of Flickr8k, no two of them differ in `MOST_BITS`
bits or less, and what is encoded again, scaled, marked or a little brighter differs in `SURE_BITS` at most.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mmrag.similarity import cosines
from mmrag.sources.fingerprint import PLAIN

if TYPE_CHECKING:
    from mmrag.stores.view import View

Fingerprints = npt.NDArray[np.int64]
Pairs = npt.NDArray[np.int64]
Refs = npt.NDArray[np.int64]

SURE_BITS = 4
MOST_BITS = 8
LEAST_COSINE = 0.85

_BANDS = 3
_BITS_OF_A_BAND = 2  # where eight bits differ, there is one of three bands in which two at most do
_BAND_SIZE = 22
_MOST_NEIGHBOURS = 256
_PAIRS_AT_ONCE = 1 << 22


def fold(view: View, refs: Sequence[int], records: Sequence[Mapping[str, Any]]) -> list[list[int]]:
    """Group ranked rows with the first that each is near to.

    Parameters
    ----------
    view : View
        Where the vectors are.
    refs, records : sequence of int, sequence of dict
        Of the rows, the best first.

    Returns
    -------
    list of list of int
        Places of the rows, group by group: first the one that the others are near to.
    """
    groups: dict[int, list[int]] = {}
    is_first = np.zeros(len(refs), dtype=bool)
    where = np.asarray(refs, dtype=np.int64)
    texts = np.array([record["modality"] == "text" for record in records], dtype=bool)
    fingerprints = np.array([record["fingerprint"] or PLAIN for record in records], dtype=np.int64)
    for place in range(len(refs)):
        firsts = np.flatnonzero(is_first[:place] & (texts[:place] == texts[place]))
        near = _near_to(view, refs[place], fingerprints[place], where[firsts], fingerprints[firsts])
        if near.any():
            groups[int(firsts[near.argmax()])].append(place)
        else:
            groups[place], is_first[place] = [place], True
    return list(groups.values())


def are_similar(view: View, ref: int, refs: Refs) -> npt.NDArray[np.bool_]:
    """Tell which of some rows have a vector like that of one."""
    vectors = np.stack([view.vector(one) for one in refs.tolist()])
    return np.asarray(cosines(view.vector(ref)[None], vectors)[0] >= LEAST_COSINE)


def near_pairs(fingerprints: Fingerprints) -> Iterator[tuple[Pairs, npt.NDArray[np.uint8]]]:
    """Find all pairs that differ in at most `MOST_BITS` bits, without comparing all with all.

    The bits are dealt out to three bands; of two fingerprints that differ in eight bits, at least one band differs in
    two at most (multi-index hashing, Norouzi et al. 2012). Of a band that very many share, each is compared with some
    hundreds of the others only; where so many look alike, they are found one by another.

    Parameters
    ----------
    fingerprints : int64 ``(n,)``
        All different.

    Yields
    ------
    int64 ``(m, 2)``, uint8 ``(m,)``
        Places of both, and in how many bits they differ. A pair may come up to three times.
    """
    bits = np.unpackbits(fingerprints.view(np.uint8).reshape(-1, 8), axis=1)
    for number in range(_BANDS):
        own = bits[:, number::_BANDS]
        values = own.astype(np.int64) @ (1 << np.arange(own.shape[1], dtype=np.int64))
        order = np.argsort(values, kind="stable")
        for left, right in _joined(values[order]):
            pairs = np.stack([order[left], order[right]], axis=1)
            differing = _differing(fingerprints[pairs[:, 0]], fingerprints[pairs[:, 1]])
            chosen = differing <= MOST_BITS
            if chosen.any():
                yield pairs[chosen], differing[chosen]


def _near_to(view: View, ref: int, fingerprint: np.int64, refs: Refs, others: Fingerprints) -> npt.NDArray[np.bool_]:
    bits = np.where((others == PLAIN) | (fingerprint == PLAIN), 64, _differing(others, fingerprint))
    near = bits <= SURE_BITS
    doubtful = np.flatnonzero((bits > SURE_BITS) & (bits <= MOST_BITS))
    if len(doubtful):
        near[doubtful] = are_similar(view, ref, refs[doubtful])
    return near


def _differing(some: Fingerprints, others: Fingerprints | np.int64) -> npt.NDArray[np.uint8]:
    differences = np.asarray(some ^ others)
    return np.bitwise_count(differences.view(np.uint64))  # of a negative number, it counts other bits


def _joined(values: npt.NDArray[np.int64]) -> Iterator[tuple[Pairs, Pairs]]:
    """Pair the places of ascending values that differ in two bits at most."""
    starts = np.concatenate([[0], np.cumsum(np.bincount(values, minlength=1 << _BAND_SIZE))])
    places = np.arange(len(values))
    yield from _spread(places, places + 1, starts[values + 1])
    for count in range(1, _BITS_OF_A_BAND + 1):
        for chosen in combinations(range(_BAND_SIZE), count):
            mask = sum(1 << bit for bit in chosen)
            left = np.flatnonzero(values & (1 << chosen[-1]) == 0)  # each pair once: from its lower value
            partners = values[left] ^ mask
            yield from _spread(left, starts[partners], starts[partners + 1])


def _spread(left: Pairs, first: Pairs, last: Pairs) -> Iterator[tuple[Pairs, Pairs]]:
    """Pair each place with those from its first to before its last, some millions at once."""
    counts = np.minimum(last - first, _MOST_NEIGHBOURS)
    some = np.flatnonzero(counts > 0)
    left, first, counts = left[some], first[some], counts[some]
    ends = np.cumsum(counts)
    cuts = np.searchsorted(ends, np.arange(_PAIRS_AT_ONCE, ends[-1] if len(ends) else 0, _PAIRS_AT_ONCE))
    for here in np.split(np.arange(len(left)), cuts):
        if len(here):
            many = counts[here]
            begins = np.cumsum(many) - many
            yield np.repeat(left[here], many), np.arange(many.sum()) + np.repeat(first[here] - begins, many)
