"""What a GGUF file says of itself, read before native code is given it.

https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmrag.errors import ModelError

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_FORMATS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9

_MOST_ENTRIES = 1_000_000  # of metadata, and of an array of texts: the largest vocabularies have a quarter of that
_MOST_BYTES = 16 << 20  # of a text: chat templates have some thousands


def read_metadata(path: Path) -> Mapping[str, Any]:
    """Read the metadata of a GGUF file; arrays, such as the vocabulary, are left out.

    Raises
    ------
    ModelError
        If it is no GGUF file, or one that ends within its metadata, or is written for machines of another byte order.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return _Reader(content).read()
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, struct.error) as error:  # mmap refuses an empty file with a ValueError
        raise ModelError(
            f"{path} is no GGUF file that can be read here, or a damaged one ({error}); fetch it again, or convert the "
            "model with llama.cpp's convert_hf_to_gguf.py"
        ) from error


class _Reader:
    """Reads one value after the other; what lies beyond the end of the file is a `struct.error`."""

    def __init__(self, content: mmap.mmap) -> None:
        self._content, self._at = content, 0

    def read(self) -> dict[str, Any]:
        if self._content[:4] != _MAGIC:
            raise ValueError("it does not begin with GGUF")
        self._at = 4
        version = self._number("I")
        if version not in _VERSIONS:
            raise ValueError(f"its version is {version}, and {' and '.join(map(str, _VERSIONS))} are known")
        self._number("Q")  # how many tensors there are
        found = {}
        for _ in range(self._count(_MOST_ENTRIES)):
            name = self._text()
            kind = self._number("I")
            if kind == _ARRAY:
                self._skip_array()
            else:
                found[name] = self._text() if kind == _STRING else self._number(_format(kind))
        return found

    def _number(self, code: str) -> Any:
        (value,) = struct.unpack_from(f"<{code}", self._content, self._at)
        self._at += struct.calcsize(f"<{code}")
        return value

    def _count(self, most: int) -> int:
        count = int(self._number("Q"))
        if count > most:
            raise ValueError(f"it speaks of {count:,} where {most:,} would be many")
        return count

    def _text(self) -> str:
        length = self._count(_MOST_BYTES)
        (value,) = struct.unpack_from(f"{length}s", self._content, self._at)
        self._at += length
        return str(value, "utf-8", "replace")

    def _skip_array(self) -> None:
        kind, count = self._number("I"), self._count(len(self._content))
        if kind != _STRING:
            self._at += count * struct.calcsize(_format(kind))
            return
        if count > _MOST_ENTRIES:
            raise ValueError(f"it has an array of {count:,} texts")
        for _ in range(count):
            length = self._count(_MOST_BYTES)
            self._at += length


def _format(kind: int) -> str:
    if kind not in _FORMATS:
        raise ValueError(f"it has a value of the unknown kind {kind}")
    return _FORMATS[kind]
