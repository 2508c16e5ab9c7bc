"""Facts of rows, as typed columns: the metadata of items, a column for each name, for filters to look at."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

MOST_NAMES = 1000
"""Facts of further names can be read back, but are no columns."""

TRUTHS = pa.bool_()
WHOLE_NUMBERS = pa.int64()
NUMBERS = pa.float64()
TEXTS = pa.string()
LISTS = pa.list_(pa.string())

_LARGEST = 2**63


def facts_of(metadata: pa.ChunkedArray | pa.Array) -> pa.Table:
    """Make a column for each name in a column of JSON objects.

    Names in objects within objects are joined by a dot. A column holds int64, float64, bool, string, or lists of
    strings, whichever holds all its values, as `common_type` says. Where `taken_at` is an ISO 8601 time, `year`,
    `month` and `day` are its numbers.

    Parameters
    ----------
    metadata : pyarrow array of string
        JSON objects, or null.

    Returns
    -------
    pyarrow table
        As many rows, with the columns sorted by name; null where a row has no such fact.
    """
    rows = _rows(metadata)
    names = sorted({name for row in rows for name in row})[:MOST_NAMES]
    columns = {name: _column([row.get(name) for row in rows]) for name in names}
    # a table without columns knows no number of rows
    return pa.table({"": pa.nulls(len(rows))} | columns)


def facts_as(metadata: pa.ChunkedArray | pa.Array, name: str, kind: pa.DataType) -> pa.Array:
    """Make the column of one name, of a type that holds more than its values: those of other rows too."""
    return _of_type([row.get(name) for row in _rows(metadata)], kind)


def common_type(types: Collection[pa.DataType]) -> pa.DataType:
    """Choose the type that holds values of several.

    Numbers are float64 if one of them is no whole number, whatever else differs is text, and beside a list all are.
    """
    if len(types) == 1:
        return next(iter(types))
    if LISTS in types:
        return LISTS
    return NUMBERS if set(types) == {WHOLE_NUMBERS, NUMBERS} else TEXTS


def _rows(metadata: pa.ChunkedArray | pa.Array) -> list[dict[str, Any]]:
    rows = [dict(_flattened(json.loads(one))) if one else {} for one in metadata.to_pylist()]
    for row in rows:
        row |= _date_parts(row.get("taken_at"))
    return rows


def joint_schema(tables: Sequence[pa.Table]) -> pa.Schema:
    """Find the columns of several tables of facts together, as `facts_of` would have made them of all rows."""
    kinds: dict[str, set[pa.DataType]] = {}
    for table in tables:
        for name in table.column_names[1:]:
            if table[name].null_count < len(table):
                kinds.setdefault(name, set()).add(table[name].type)
    fields = [pa.field(name, common_type(kinds[name])) for name in sorted(kinds)[:MOST_NAMES]]
    return pa.schema([pa.field("", pa.null()), *fields])


def as_said(facts: pa.Table, metadata: pa.ChunkedArray, schema: pa.Schema) -> pa.Table:
    """Give the facts of rows, whose metadata is at hand, the columns of a `joint_schema`."""
    return pa.table([_as_said(facts, metadata, field) for field in schema], schema=schema)


def _as_said(facts: pa.Table, metadata: pa.ChunkedArray, field: pa.Field) -> pa.ChunkedArray | pa.Array:
    if field.name not in facts.column_names or facts[field.name].null_count == len(facts):
        return pa.nulls(len(facts), field.type)
    if facts[field.name].type == field.type:
        return facts[field.name]
    return facts_as(metadata, field.name, field.type)


def _flattened(facts: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in facts.items():
        if isinstance(value, dict):
            yield from _flattened(value, f"{prefix}{name}.")
        elif value is not None:
            yield f"{prefix}{name}", value


def _date_parts(taken_at: Any) -> dict[str, int]:
    text = taken_at if isinstance(taken_at, str) else ""
    parts = text[:10].split("-")
    if len(parts) != 3 or not all(part.isdecimal() and part.isascii() for part in parts):
        return {}
    return dict(zip(("year", "month", "day"), map(int, parts), strict=True))


def _column(values: list[Any]) -> pa.Array:
    return _of_type(values, common_type({_type(value) for value in values if value is not None}))


def _of_type(values: list[Any], kind: pa.DataType) -> pa.Array:
    converters: dict[pa.DataType, Callable[[Any], Any]] = {NUMBERS: float, TEXTS: _text, LISTS: _texts}
    if convert := converters.get(kind):
        values = [None if value is None else convert(value) for value in values]
    return pa.array(values, kind)


def _type(value: Any) -> pa.DataType:
    if isinstance(value, bool):
        return TRUTHS
    if isinstance(value, int) and not -_LARGEST <= value < _LARGEST:
        return NUMBERS if abs(value) < sys.float_info.max else TEXTS
    return {int: WHOLE_NUMBERS, float: NUMBERS, list: LISTS}.get(type(value), TEXTS)


def _texts(value: Any) -> list[str]:
    return [_text(one) for one in value] if isinstance(value, list) else [_text(value)]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
