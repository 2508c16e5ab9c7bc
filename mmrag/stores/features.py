"""What matchers see in pictures, kept on disk: bounded, shared by processes, and never the only copy of anything."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import uuid
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from mmrag.roles import Identity

Features = npt.NDArray[np.float32]
Precision = Literal["fp16", "int8"]

logger = logging.getLogger("mmrag")

_FORMAT = 1
_CHECKSUM_BYTES = 4
_LARGEST_FP16 = 65504.0
_FILLED_AGAIN = 0.9  # trimmed to this part of the limit, so that not every new entry looks at all files


class FeatureCache:
    """Features of one matcher, by the content that they were computed from.

    An entry is a file: a checksum and numbers, in half precision or in 8 bits with a scale for each token.
    The longest unused go first. Files come and go in one step, so that processes need not wait for
    each other; what is damaged counts as absent.

    Parameters
    ----------
    folder : path
        May hold the features of other matchers too; the limit is for all of them.
    identity : Identity
        Of the matcher.
    computed_in : str
        The precision that the matcher computes in: others give other features.
    shape : tuple of int
        Of one item's features.
    limit : int
        In bytes.
    precision : {"fp16", "int8"}
        Of what is kept. Half precision is off by a relative 2^-11 at most; 8 bits by 1/254 of a token's
        largest value, and take half the room.
    """

    def __init__(
        self,
        folder: Path,
        identity: Identity,
        *,
        computed_in: str,
        shape: tuple[int, ...],
        limit: int,
        precision: Precision = "fp16",
    ) -> None:
        key = json.dumps([_FORMAT, asdict(identity), computed_in, shape, precision])
        self._all = folder
        self._own = folder / hashlib.sha256(key.encode()).hexdigest()[:16]
        self._shape = shape
        self._limit = limit
        self._precision = precision
        self._size: int | None = None

    def get(self, content: str) -> Features | None:
        """Give the features of a content, named by its hash; None if they are not here."""
        path = self._path(content)
        try:
            data = path.read_bytes()
        except OSError:
            return None
        with suppress(OSError):  # as where nothing may be written
            os.utime(path)
        checksum, body = data[:_CHECKSUM_BYTES], data[_CHECKSUM_BYTES:]
        if len(body) != self._body_bytes or checksum != _checksum(body):
            return None
        return self._decoded(body)

    def keep(self, content: str, features: Features) -> Features:
        """Keep the features of a content, and give them as `get` will: a search finds the same the first time."""
        body = self._encoded(features)
        size = len(body) + _CHECKSUM_BYTES
        if size <= self._limit:
            try:
                self._make_room(size)
                self._write(self._path(content), _checksum(body) + body)
            except OSError as error:
                logger.info("features are not kept in %s: %s", self._all, error.strerror)
        return self._decoded(body)

    @property
    def _body_bytes(self) -> int:
        count = math.prod(self._shape)
        return 2 * count if self._precision == "fp16" else count + 4 * math.prod(self._shape[:-1])

    def _encoded(self, features: Features) -> bytes:
        if self._precision == "fp16":
            return bytes(features.clip(-_LARGEST_FP16, _LARGEST_FP16).astype("<f2").data)
        scales = np.abs(features).max(axis=-1, keepdims=True) / 127
        numbers = np.rint(features / np.maximum(scales, np.finfo(np.float32).tiny)).astype(np.int8)
        return bytes(scales.astype("<f4").data) + bytes(numbers.data)

    def _decoded(self, body: bytes) -> Features:
        if self._precision == "fp16":
            return np.frombuffer(body, "<f2").reshape(self._shape).astype(np.float32)
        tokens = math.prod(self._shape[:-1])
        scales = np.frombuffer(body, "<f4", tokens).reshape(*self._shape[:-1], 1)
        return np.asarray(np.frombuffer(body, np.int8, offset=4 * tokens).reshape(self._shape) * scales, np.float32)

    def _path(self, content: str) -> Path:
        return self._own / hashlib.sha256(content.encode()).hexdigest()[:40]

    def _write(self, path: Path, data: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f"{uuid.uuid4().hex}.tmp")  # if it is left behind, it is soon the longest unused
        try:
            aside.write_bytes(data)
            os.replace(aside, path)
        except OSError:
            aside.unlink(missing_ok=True)
            raise

    def _make_room(self, size: int) -> None:
        """Count `size` more bytes; where they are too many, look at what is there and remove the longest unused."""
        if self._size is None:
            self._size = sum(about.st_size for _, about in self._entries())
        self._size += size
        if self._size <= self._limit:
            return
        entries = sorted(self._entries(), key=lambda entry: entry[1].st_mtime_ns)
        self._size = size + sum(about.st_size for _, about in entries)
        for path, about in entries:
            if self._size <= max(size, _FILLED_AGAIN * self._limit):
                break
            path.unlink(missing_ok=True)
            self._size -= about.st_size

    def _entries(self) -> Iterator[tuple[Path, os.stat_result]]:
        for path in self._all.glob("*/*"):
            with suppress(FileNotFoundError):  # another process has removed it
                yield path, path.stat()


def _checksum(body: bytes) -> bytes:
    return zlib.crc32(body).to_bytes(_CHECKSUM_BYTES, "little")
