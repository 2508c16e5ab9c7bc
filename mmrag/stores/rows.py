"""The columns of a row, and rows → Arrow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from mmrag.roles import Vectors
from mmrag.types import Modality

COLUMNS = pa.schema(
    [
        pa.field("stamp", pa.int64(), nullable=False),
        pa.field("id", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("modality", pa.string(), nullable=False),
        pa.field("content_hash", pa.string()),
        pa.field("size", pa.int64()),
        pa.field("mtime_ns", pa.int64()),
        pa.field("text", pa.string()),
        pa.field("metadata", pa.string()),
        pa.field("failure", pa.string()),
    ]
)


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the table, without its stamp.

    Attributes
    ----------
    content_hash : str or None
        Of the picture's bytes or the text; equal content has equal hashes.
    size, mtime_ns : int or None
        Of the file; None for what lives only in memory.
    metadata : str or None
        JSON.
    failure : str or None
        Why the item has no vector.
    vector : float32 ``(dimension,)`` or None
        Of unit length.
    """

    id: str
    uri: str
    modality: Modality
    content_hash: str | None = None
    size: int | None = None
    mtime_ns: int | None = None
    text: str | None = None
    metadata: str | None = None
    failure: str | None = None
    vector: Vectors | None = None


def table_schema(dimension: int) -> pa.Schema:
    """All columns of the table, the vector among them."""
    return COLUMNS.append(pa.field("vector", pa.list_(pa.float32(), dimension)))


def to_arrow(rows: Sequence[Row], first_stamp: int, dimension: int) -> pa.Table:
    """Rows → Arrow, stamped in order from `first_stamp`."""
    names = [name for name in COLUMNS.names if name != "stamp"]
    columns: list[pa.Array] = [pa.array(range(first_stamp, first_stamp + len(rows)), pa.int64())]
    columns += [pa.array([getattr(row, name) for row in rows], COLUMNS.field(name).type) for name in names]
    empty = np.zeros(dimension, dtype=np.float32)
    vectors = np.stack([empty if row.vector is None else row.vector for row in rows])
    columns.append(
        pa.FixedSizeListArray.from_arrays(
            pa.array(vectors.reshape(-1)),
            dimension,
            mask=pa.array([row.vector is None for row in rows]),
        )
    )
    return pa.Table.from_arrays(columns, schema=table_schema(dimension))
