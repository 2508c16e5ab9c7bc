"""The columns of a row, and rows → Arrow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from mmrag.errors import IndexFormatError
from mmrag.roles import Vectors
from mmrag.types import Modality

COLUMNS = pa.schema(
    [
        pa.field("stamp", pa.int64(), nullable=False),
        pa.field("id", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("part", pa.string()),
        pa.field("modality", pa.string(), nullable=False),
        pa.field("content_hash", pa.string()),
        pa.field("size", pa.int64()),
        pa.field("mtime_ns", pa.int64()),
        pa.field("fingerprint", pa.int64()),
        pa.field("text", pa.string()),
        pa.field("tags", pa.string()),
        pa.field("generated", pa.string()),
        pa.field("ocr", pa.string()),
        pa.field("origins", pa.string()),
        pa.field("metadata", pa.string()),
        pa.field("given", pa.string()),
        pa.field("beside", pa.string()),
        pa.field("failure", pa.string()),
    ]
)


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the table, without its stamp.

    Attributes
    ----------
    part : str or None
        Which part of the file, as of an item.
    content_hash : str or None
        Of the picture's bytes or the text; equal content has equal hashes.
    size, mtime_ns : int or None
        Of the file; None for what lives only in memory.
    fingerprint : int or None
        64 bits, few of which differ between items that look or read nearly the same; 0 of what is too plain to be
        compared. None of what an older mmrag wrote, and of failures.
    text, tags, generated, ocr : str or None
        The text, or a picture's caption, and what else of words belongs to it, as `mmrag.types.WORDS` says.
    origins : str or None
        JSON: where each of these comes from.
    metadata : str or None
        JSON: facts by name.
    given : str or None
        JSON: what of the words and facts a caller has said, where the rest can be read again from a file.
    beside : str or None
        What lay beside the file of a picture when its words were read. None of all others.
    failure : str or None
        Why the item has no vector.
    vector : float32 ``(dimension,)`` or ``(vectors, dimension)``, or None
        Of unit length.
    """

    id: str
    uri: str
    modality: Modality
    part: str | None = None
    content_hash: str | None = None
    size: int | None = None
    mtime_ns: int | None = None
    fingerprint: int | None = None
    text: str | None = None
    tags: str | None = None
    generated: str | None = None
    ocr: str | None = None
    origins: str | None = None
    metadata: str | None = None
    given: str | None = None
    beside: str | None = None
    failure: str | None = None
    vector: Vectors | None = None


def table_schema(shape: tuple[int, ...]) -> pa.Schema:
    """All columns of the table, the vector among them; several of a row are what Lance calls a multivector."""
    one = pa.list_(pa.float32(), shape[-1])
    return COLUMNS.append(pa.field("vector", one if len(shape) == 1 else pa.list_(one)))


def to_arrow(rows: Sequence[Row], first_stamp: int, shape: tuple[int, ...]) -> pa.Table:
    """Rows → Arrow, stamped in order from `first_stamp`."""
    names = [name for name in COLUMNS.names if name != "stamp"]
    columns: list[pa.Array] = [pa.array(range(first_stamp, first_stamp + len(rows)), pa.int64())]
    columns += [pa.array([getattr(row, name) for row in rows], COLUMNS.field(name).type) for name in names]
    columns.append(_to_lists([row.vector for row in rows], shape))
    return pa.Table.from_arrays(columns, schema=table_schema(shape))


def _to_lists(vectors: Sequence[Vectors | None], shape: tuple[int, ...]) -> pa.Array:
    empty = np.zeros(shape, dtype=np.float32)
    flat = np.stack([empty if one is None else one for one in vectors]).reshape(-1)
    mask = pa.array([one is None for one in vectors])
    if len(shape) == 1:
        return pa.FixedSizeListArray.from_arrays(pa.array(flat), shape[0], mask=mask)
    each = pa.FixedSizeListArray.from_arrays(pa.array(flat), shape[1])
    offsets = pa.array(np.arange(len(vectors) + 1, dtype=np.int32) * shape[0])
    return pa.ListArray.from_arrays(offsets, each, mask=mask)


def from_lists(column: pa.Array, shape: tuple[int, ...]) -> Vectors:
    """Read the vectors of the rows that have one, float32 ``(n, *shape)``.

    Raises
    ------
    IndexFormatError
        If a row has another number of vectors.
    """
    values = column.drop_null()
    if len(shape) == 2:
        if len(values) and set(np.diff(np.asarray(values.offsets)).tolist()) != {shape[0]}:
            raise IndexFormatError(f"the table holds a row that has another number of vectors than {shape[0]}")
        values = values.flatten()
    found: Vectors = values.flatten().to_numpy().reshape(-1, *shape)
    return found
