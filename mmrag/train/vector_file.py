"""Vectors that are computed once and read in every epoch."""

from __future__ import annotations

import hashlib
import os
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mmrag.errors import ItemError

Vectors = npt.NDArray[np.float32]


class VectorFile:
    """Vectors by key, in half precision, in a file without a name: it vanishes with the process, however that ends.

    What is read often stays in memory as long as the system has room for it; 1,000,000 vectors of 512 take 1 GB.
    Any number of threads may read.
    """

    def __init__(self) -> None:
        self._file, path = tempfile.mkstemp(prefix="mmrag-")
        Path(path).unlink()
        weakref.finalize(self, os.close, self._file)
        self._rows: dict[int, int] = {}
        self._bytes = 0

    def __contains__(self, key: int) -> bool:
        return key in self._rows

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, keys: Sequence[int], vectors: npt.NDArray[np.floating]) -> None:
        """Append vectors ``(n, d)``; keys that are there already keep theirs."""
        new = {key: row for row, key in enumerate(keys) if key not in self._rows}
        if not new:
            return
        content = np.ascontiguousarray(vectors[list(new.values())], dtype=np.float16)
        self._bytes = content[0].nbytes
        os.pwrite(self._file, content.tobytes(), len(self._rows) * self._bytes)
        first = len(self._rows)
        self._rows |= {key: first + place for place, key in enumerate(new)}

    def __getitem__(self, key: int) -> Vectors:
        """Give a vector, float32 ``(d,)``.

        Raises
        ------
        ItemError
            If there is none.
        """
        if key not in self._rows:
            raise ItemError("it has no vector of the frozen tower: it could not be read when they were computed")
        content = os.pread(self._file, self._bytes, self._rows[key] * self._bytes)
        return np.frombuffer(content, dtype=np.float16).astype(np.float32)


def text_key(text: str) -> int:
    """Give the key of a text: 63 bits of its hash."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) >> 1
