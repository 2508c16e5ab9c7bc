"""What candidates are compared by: the vectors themselves, or a copy in fewer bytes, as a view's settings say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mmrag.roles import Vectors
from mmrag.stores.files import sync_to_disk
from mmrag.stores.segment import Segment
from mmrag.stores.view_settings import Rescore

_DTYPES: dict[str, np.dtype[Any]] = {"fp16": np.dtype("<f2"), "int8": np.dtype("i1")}
_ROWS_AT_ONCE = 1 << 16
_LARGEST = 127


def copy_suffix(rescore: Rescore) -> str | None:
    """Suffix of the file that holds the copy; None where there is none, since the vectors themselves serve."""
    return f".{rescore}" if rescore in _DTYPES else None


def write_copy(path: Path, vectors: Vectors, rescore: Rescore) -> None:
    """Write vectors in fewer bytes, as an ``.npy`` file, a block at a time."""
    header = {"descr": _DTYPES[rescore].str, "fortran_order": False, "shape": vectors.shape}
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for start in range(0, len(vectors), _ROWS_AT_ONCE):
            file.write(_smaller(vectors[start : start + _ROWS_AT_ONCE], rescore).data)
    sync_to_disk(path)


def open_copy(segment: Segment, folder: Path, rescore: Rescore) -> npt.NDArray[Any]:
    """Map what candidates of a segment are compared by.

    Raises
    ------
    ValueError
        If it is not what `write_copy` writes.
    """
    suffix = copy_suffix(rescore)
    if suffix is None:
        return np.asarray(segment.vectors)
    path = folder / f"{segment.state.name}{suffix}"
    copy = np.asarray(np.load(path, mmap_mode="r"))
    if copy.shape != segment.vectors.shape or copy.dtype != _DTYPES[rescore]:
        raise ValueError(f"{path.name} is no copy of the vectors of {segment.state.name}")
    return copy


def is_copy(copied: npt.NDArray[Any], vectors: Vectors, rescore: Rescore) -> bool:
    """Tell whether a copy is, number for number, what `write_copy` makes of vectors."""
    blocks = (slice(start, start + _ROWS_AT_ONCE) for start in range(0, len(vectors), _ROWS_AT_ONCE))
    return all(np.array_equal(copied[block], _smaller(vectors[block], rescore)) for block in blocks)


def restored(copied: npt.NDArray[Any]) -> Vectors:
    """Give rows of a copy back as unit vectors, float32."""
    vectors = copied.astype(np.float32)
    if copied.dtype != np.float32:
        vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors


def _smaller(vectors: Vectors, rescore: Rescore) -> npt.NDArray[Any]:
    """Round; the length of an int8 vector is lost, and it is one."""
    if rescore == "int8":
        vectors = np.rint(vectors * (_LARGEST / np.abs(vectors).max(axis=-1, keepdims=True)))
    copied: npt.NDArray[Any] = vectors.astype(_DTYPES[rescore], order="C")
    return copied
