"""A copy of many vectors in a byte per dimension, which narrows a search down without ever losing a hit.

The copy is a quarter of the vectors, and a scan is as fast as memory can be read. What a byte per dimension leaves
out of a vector is measured when it is made. By the inequality of Cauchy and Schwarz that bounds how far the cosine of
a row can be from what its bytes say, so that all rows that may be among the best k are found.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from mmrag.machine import usable_cores
from mmrag.roles import Vectors
from mmrag.stores.files import sync_to_disk

Bytes = npt.NDArray[np.int8]
Rows = npt.NDArray[np.int64]

MOST_QUERIES = 16
"""That are compared in one pass."""

_ROWS_AT_ONCE = 1 << 14
_GROUP = 32
_FEW = 0.4
"""Where fewer rows than this share of them count, those are picked out instead of all being compared."""
_SLACK = 1e-5  # sums of 32 bits are rounded
_UNIT = 1.001  # length of a row
_NONE = np.finfo(np.float32).min
_ONE_BYTE_LEAVES = 0.02
_TILED = 4
_MOST = 127


@dataclass(frozen=True)
class Codes:
    """Vectors in bytes: row n is about ``factors[n] * weights * codes[n]``.

    Attributes
    ----------
    weights : float32 ``(dimension,)``
        What is usual in each dimension: some are larger than others in all rows.
    factors : float32 ``(rows,)``
        Of each row.
    errors : float32 ``(rows,)``
        At least the length of what is left out of each row.
    codes : int8 ``(rows, dimension)``
        From -127 to 127.
    """

    weights: Vectors
    factors: Vectors
    errors: Vectors
    codes: Bytes

    @classmethod
    def open(cls, path: Path) -> Codes:
        """Map a file into memory."""
        with path.open("rb") as file:
            weights = np.lib.format.read_array(file)
            factors, errors = _mapped(file, path)
            codes = _mapped(file, path)
        as_made = weights.dtype == factors.dtype == np.float32 and codes.dtype == np.int8
        if not as_made or codes.shape != (len(factors), len(weights)):
            raise ValueError(f"{path.name} holds no vectors in bytes")
        return cls(weights, factors, errors, codes)

    def are_of(self, vectors: Vectors) -> bool:
        """Tell whether this is, byte for byte, what `write_codes` makes of vectors ``(rows, dimension)``."""
        if not np.array_equal(self.weights, _usual(vectors)):
            return False
        return all(self._are_of(vectors, start) for start in range(0, len(vectors), _ROWS_AT_ONCE))

    def _are_of(self, vectors: Vectors, start: int) -> bool:
        chunk = slice(start, start + _ROWS_AT_ONCE)
        codes, factors, errors = _coded(np.asarray(vectors[chunk]), self.weights)
        return (
            np.array_equal(self.codes[chunk], codes)
            and np.array_equal(self.factors[chunk], factors)
            and np.array_equal(self.errors[chunk], errors)
        )

    def candidates(self, query_vectors: Vectors, k: int, wanted: npt.NDArray[np.bool_]) -> list[Rows]:
        """Find, for each query, all rows that may be among its k best.

        Parameters
        ----------
        query_vectors : float32 ``(queries, dimension)``
            At most `MOST_QUERIES`.
        k : int
            How many are looked for.
        wanted : bool ``(rows,)``
            Which rows count.

        Returns
        -------
        list of int64 arrays
            Ascending; those that count, if they are not more than k.
        """
        asked = _Asked.of(query_vectors, self.weights)
        starts = range(0, len(wanted), _ROWS_AT_ONCE)
        found = list(_threads().map(lambda start: self._look(asked, k, wanted, start), starts))
        return [_narrowed([block[query] for block in found], k) for query in range(len(query_vectors))]

    def _look(self, asked: _Asked, k: int, wanted: npt.NDArray[np.bool_], start: int) -> list[_Block]:
        """Compare a block of rows, and keep those whose cosine may be among the block's k highest."""
        chunk = slice(start, start + _ROWS_AT_ONCE)
        mask, codes = wanted[chunk], self.codes[chunk]
        factors, errors = self.factors[chunk], self.errors[chunk]
        count = np.count_nonzero(mask)
        if not count:
            return [_Block.empty()] * len(asked.units)
        rows, left_out = None, None if count == len(mask) else ~mask
        if count < _FEW * len(mask):
            rows, left_out = np.flatnonzero(mask), None
            codes, factors, errors = codes[rows], factors[rows], errors[rows]
        found = []
        for query, cosines in enumerate(asked.compare(codes, factors)):
            if left_out is not None:
                cosines[left_out] = -np.inf
            most = asked.margins(query, errors.max())  # one for all is quicker to find than each
            kept = np.flatnonzero(cosines >= max(_kth_highest(cosines, k) - 2 * most, _NONE))
            places = kept if rows is None else rows[kept]
            found.append(_Block(places + start, cosines[kept], asked.margins(query, errors[kept])))
        return found


@dataclass(frozen=True)
class _Block:
    """Rows, their cosines with one query as far as bytes say, and how far off these may be."""

    rows: Rows
    cosines: Vectors
    margins: Vectors

    @classmethod
    def empty(cls) -> _Block:
        return cls(np.empty(0, np.int64), np.empty(0, np.float32), np.empty(0, np.float32))


@dataclass(frozen=True)
class _Asked:
    """Queries in bytes.

    Attributes
    ----------
    codes : int8 ``(queries · p, dimension)``
        One for each; or two, a coarse and a fine one, where a byte per dimension would leave out too much.
    units : float32 ``(queries,)``
        What one of the last byte stands for.
    lengths : float32 ``(queries,)``
        Of the vectors.
    rounding : float32 ``(queries,)``
        Length of what the bytes leave out of a query.
    """

    codes: Bytes
    units: Vectors
    lengths: Vectors
    rounding: Vectors

    @classmethod
    def of(cls, query_vectors: Vectors, weights: Vectors) -> _Asked:
        weighted = query_vectors.astype(np.float32) * weights
        lengths = np.linalg.norm(query_vectors, axis=1)
        units = np.maximum(np.abs(weighted).max(axis=1), 1e-30) / _MOST
        coarse = np.rint(weighted / units[:, None])
        left = weighted - units[:, None] * coarse
        rounding = np.linalg.norm(left / weights, axis=1)
        if (rounding <= _ONE_BYTE_LEAVES * lengths).all():
            return cls(coarse.astype(np.int8), units, lengths, rounding)
        units /= 256
        fine = np.clip(np.rint(left / units[:, None]), -_MOST, _MOST)
        rounding = np.linalg.norm((left - units[:, None] * fine) / weights, axis=1)
        both = np.stack([coarse, fine], axis=1).reshape(-1, len(weights))
        return cls(both.astype(np.int8), units, lengths, rounding)

    def compare(self, codes: Bytes, factors: Vectors) -> Iterator[Vectors]:
        """Give for each query the cosines of rows, as far as bytes say."""
        products = _products(codes, self.codes)
        each = len(self.codes) // len(self.units)
        for query, unit in enumerate(self.units):
            cosines = products[:, each * query].astype(np.float32)
            if each == 2:
                cosines *= 256
                cosines += products[:, 2 * query + 1]
            cosines *= unit
            cosines *= factors
            yield cosines

    def margins(self, query: int, errors: Any) -> Any:
        """Say how far off cosines are at most.

        Of the product q · x of a query and a row, bytes give q' · x' with x = x' + e and q = q' + r: what is missing
        is q · e + r · x', and x' is no longer than x and e are together. Rows are of unit length.
        """
        length, rounding = float(self.lengths[query]), float(self.rounding[query])
        return (length + rounding) * errors + np.float32(rounding * _UNIT + _SLACK)


def _products(codes: Bytes, queries: Bytes) -> npt.NDArray[np.int32]:
    """Multiply bytes: int32 ``(rows, queries)``. A few queries are quicker row by row, many in tiles."""
    import numkong

    if len(queries) < _TILED:
        return np.asarray(numkong.cdist(codes, queries, "dot", dtype="int8"))
    return np.asarray(numkong.dots_packed(codes, numkong.dots_pack(queries, dtype="int8")))


def write_codes(path: Path, vectors: Vectors) -> None:
    """Write vectors of shape ``(rows, dimension)`` in bytes, some at once."""
    weights = _usual(vectors)
    about = np.empty((2, len(vectors)), dtype=np.float32)
    with path.open("wb") as file:
        np.lib.format.write_array(file, weights)
        place = file.tell()
        np.lib.format.write_array(file, about)
        _write_header(file, vectors.shape)
        for start in range(0, len(vectors), _ROWS_AT_ONCE):
            chunk = slice(start, start + _ROWS_AT_ONCE)
            codes, about[0, chunk], about[1, chunk] = _coded(np.asarray(vectors[chunk]), weights)
            file.write(codes.data)
        file.seek(place)
        np.lib.format.write_array(file, about)
    sync_to_disk(path)


def _usual(vectors: Vectors) -> Vectors:
    """Say how large the numbers of each dimension usually are, going by the first rows: float32 ``(dimension,)``."""
    usual = np.sqrt(np.square(vectors[:_ROWS_AT_ONCE], dtype=np.float32).mean(axis=0))
    weights: Vectors = np.maximum(usual, usual.max(initial=0) / 1000 + 1e-12).astype(np.float32)
    return weights


def _coded(vectors: Vectors, weights: Vectors) -> tuple[Bytes, Vectors, Vectors]:
    """Vectors → bytes, the factor of each row, and the length of what that leaves out."""
    even = vectors / weights
    factors = np.maximum(np.abs(even).max(axis=1, initial=0), 1e-30) / _MOST
    even /= factors[:, None]
    codes = np.rint(even, out=even).astype(np.int8)
    even *= factors[:, None] * weights
    left = np.linalg.norm(vectors - even, axis=1)
    return codes, factors, left * (1 + 1e-5) + 1e-6  # these are sums of 32 bits, too


def _kth_highest(cosines: Vectors, k: int) -> float:
    """Give a value that at least k of the cosines reach, close to the k-th highest, or -inf if there are fewer.

    The k-th highest of the highest of groups is such a value, and far quicker to find than the k-th highest of all.
    """
    groups = len(cosines) // _GROUP
    highest = cosines[: groups * _GROUP].reshape(groups, _GROUP).max(axis=1) if groups >= 2 * k else cosines
    return float(np.partition(highest, -k)[-k]) if 0 < k <= len(highest) else -np.inf


def _narrowed(blocks: list[_Block], k: int) -> Rows:
    """Keep the rows whose cosine may reach the k-th highest of what all reach."""
    rows = np.concatenate([block.rows for block in blocks])
    if k == 0 or k >= len(rows):
        return rows
    cosines = np.concatenate([block.cosines for block in blocks])
    margins = np.concatenate([block.margins for block in blocks])
    found: Rows = rows[cosines + margins >= np.partition(cosines - margins, -k)[-k]]
    return found


def _mapped(file: BinaryIO, path: Path) -> npt.NDArray[Any]:
    """Map the array that begins here, and go to its end."""
    np.lib.format.read_magic(file)
    shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    array = np.memmap(path, dtype=dtype, mode="r", offset=file.tell(), shape=shape)
    file.seek(array.nbytes, os.SEEK_CUR)
    return array


def _write_header(file: BinaryIO, shape: tuple[int, ...]) -> None:
    np.lib.format.write_array_header_1_0(file, {"descr": "|i1", "fortran_order": False, "shape": tuple(shape)})


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(usable_cores(), thread_name_prefix="mmrag-scan")
