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
        rows = np.flatnonzero(mask)
        if len(rows) < _FEW * len(mask):
            codes, factors, errors, mask = codes[rows], factors[rows], errors[rows], np.ones(len(rows), dtype=bool)
        else:
            rows = np.arange(len(mask))
        if not len(rows):
            return [_Block.empty()] * len(asked.lengths)
        found = []
        for cosines, margins in asked.bounds(codes, factors, errors):
            if not mask.all():
                cosines[~mask] = -np.inf
            kept = np.flatnonzero(cosines + margins >= _kth_lowest(cosines - margins, k))
            kept = kept[cosines[kept] > -np.inf]
            found.append(_Block(rows[kept] + start, cosines[kept] - margins[kept], cosines[kept] + margins[kept]))
        return found


@dataclass(frozen=True)
class _Block:
    """Rows, and the bounds of their cosines with one query."""

    rows: Rows
    low: Vectors
    high: Vectors

    @classmethod
    def empty(cls) -> _Block:
        return cls(np.empty(0, np.int64), np.empty(0, np.float32), np.empty(0, np.float32))


@dataclass(frozen=True)
class _Asked:
    """Queries in two bytes per dimension, a coarse and a fine one.

    Attributes
    ----------
    packed : object
        Both bytes of all queries, as the library wants them.
    units : float32 ``(queries,)``
        What one of the fine byte stands for.
    lengths : float32 ``(queries,)``
        Of the vectors.
    rounding : float32 ``(queries,)``
        What the bytes leave out, summed up over the dimensions, times the largest byte of a row.
    """

    packed: Any
    units: Vectors
    lengths: Vectors
    rounding: Vectors

    @classmethod
    def of(cls, query_vectors: Vectors, weights: Vectors) -> _Asked:
        import numkong

        weighted = query_vectors.astype(np.float32) * weights
        units = np.maximum(np.abs(weighted).max(axis=1), 1e-30) / (_MOST * 256)
        whole = np.rint(weighted / units[:, None])
        coarse = np.rint(whole / 256)
        fine = whole - 256 * coarse
        np.clip(fine, -_MOST, _MOST, out=fine)
        left = np.abs(weighted - units[:, None] * (256 * coarse + fine)).sum(axis=1)
        both = np.stack([coarse, fine], axis=1).reshape(-1, len(weights)).astype(np.int8)
        lengths = np.linalg.norm(query_vectors, axis=1)
        return cls(numkong.dots_pack(both, dtype="int8"), units, lengths, _MOST * left)

    def bounds(self, codes: Bytes, factors: Vectors, errors: Vectors) -> Iterator[tuple[Vectors, Vectors]]:
        """Give for each query the cosines of rows as far as bytes say, and how far off they may be at most."""
        import numkong

        products = np.asarray(numkong.dots_packed(np.ascontiguousarray(codes), self.packed))  # (rows, 2 · queries)
        for query in range(len(self.units)):
            cosines = products[:, 2 * query].astype(np.float32)
            cosines *= 256
            cosines += products[:, 2 * query + 1]
            cosines *= self.units[query]
            cosines *= factors
            margins = self.lengths[query] * errors
            margins += self.rounding[query] * factors
            margins += _SLACK
            yield cosines, margins


def write_codes(path: Path, vectors: Vectors) -> None:
    """Write vectors of shape ``(rows, dimension)`` in bytes, some at once."""
    weights = np.sqrt(np.square(vectors[:_ROWS_AT_ONCE], dtype=np.float32).mean(axis=0))
    weights = np.maximum(weights, weights.max(initial=0) / 1000 + 1e-12).astype(np.float32)
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


def _coded(vectors: Vectors, weights: Vectors) -> tuple[Bytes, Vectors, Vectors]:
    """Vectors → bytes, the factor of each row, and the length of what that leaves out."""
    even = vectors / weights
    factors = np.maximum(np.abs(even).max(axis=1, initial=0), 1e-30) / _MOST
    even /= factors[:, None]
    codes = np.rint(even, out=even).astype(np.int8)
    even *= factors[:, None] * weights
    left = np.linalg.norm(vectors - even, axis=1)
    return codes, factors, left * (1 + 1e-5)


def _kth_lowest(low: Vectors, k: int) -> float:
    """Give a value that at least k of the lower bounds reach, close to the k-th highest, or -inf if there are fewer.

    The k-th highest of the highest of groups is such a value, and far quicker to find than the k-th highest of all.
    """
    groups = len(low) // _GROUP
    highest = low[: groups * _GROUP].reshape(groups, _GROUP).max(axis=1) if groups >= 2 * k else low
    return float(np.partition(highest, -k)[-k]) if k <= len(highest) else -np.inf


def _narrowed(blocks: list[_Block], k: int) -> Rows:
    low = np.concatenate([block.low for block in blocks])
    high = np.concatenate([block.high for block in blocks])
    rows = np.concatenate([block.rows for block in blocks])
    if k >= len(low):
        return rows
    return rows[high >= np.partition(low, -k)[-k]]


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
