"""Arrow ↔ Python and NumPy, without pandas: pyarrow's own ways import it where it is installed, half a second."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc


def array_of(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    """Make an array of bool, int64, float64 or string, without nulls."""
    if kind == pa.string():
        encoded = [value.encode() for value in values]
        offsets = np.cumsum([0, *map(len, encoded)], dtype=np.int32)
        return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(offsets), pa.py_buffer(b"".join(encoded))])
    if kind == pa.bool_():
        return truths(np.array(values, dtype=bool))
    numbers = np.array(values, dtype=np.int64 if kind == pa.int64() else np.float64)
    return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(numbers)])


def truths(values: npt.NDArray[np.bool_], known: npt.NDArray[np.bool_] | None = None) -> pa.Array:
    """Make an array of bool, null where a value is not known."""
    bits = [None if one is None else pa.py_buffer(np.packbits(one, bitorder="little")) for one in (known, values)]
    return pa.Array.from_buffers(pa.bool_(), len(values), bits)


def to_numpy(column: pa.Array, null: float | bool = False) -> npt.NDArray[Any]:
    """Give the numbers or truths of an array, with `null` for what is null."""
    if column.null_count:
        column = pc.fill_null(column, array_of([null], column.type)[0])
    if column.type == pa.bool_():
        return np.asarray(np.from_dlpack(column.cast(pa.uint8()))).view(bool)
    return np.asarray(np.from_dlpack(column))
