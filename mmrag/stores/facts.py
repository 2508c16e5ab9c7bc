"""Facts of rows, as typed columns: the metadata of items, a column for each name, for filters to look at."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

MOST_NAMES = 1000
"""Facts of further names can be read back, but are no columns."""

_LARGEST = 2**63


def facts_of(metadata: pa.ChunkedArray | pa.Array) -> pa.Table:
    """Make a column for each name in a column of JSON objects.

    Names in objects within objects are joined by a dot. A column holds int64, float64, bool, string, or lists of
    strings, whichever holds all its values: numbers are float64 if one of them is no whole number, and whatever
    differs is text. Where `taken_at` is an ISO 8601 time, `year`, `month` and `day` are its numbers.

    Parameters
    ----------
    metadata : pyarrow array of string
        JSON objects, or null.

    Returns
    -------
    pyarrow table
        As many rows, with the columns sorted by name; null where a row has no such fact.
    """
    rows = [dict(_flattened(json.loads(one))) if one else {} for one in metadata.to_pylist()]
    for row in rows:
        row |= _date_parts(row.get("taken_at"))
    names = sorted({name for row in rows for name in row})[:MOST_NAMES]
    columns = {name: _column([row.get(name) for row in rows]) for name in names}
    # a table without columns knows no number of rows
    return pa.table({"": pa.nulls(len(rows))} | columns)


def joint_schema(tables: Sequence[pa.Table]) -> pa.Schema:
    """Find the columns of several tables of facts together, as `facts_of` would have made them of all rows."""
    kinds: dict[str, set[pa.DataType]] = {}
    for table in tables:
        for name in table.column_names[1:]:
            column = table[name]
            kinds.setdefault(name, set()).update([column.type] if column.null_count < len(column) else [])
    names = sorted(kinds)[:MOST_NAMES]
    return pa.schema([pa.field("", pa.null()), *(pa.field(name, _joint(kinds[name])) for name in names)])


def as_said(facts: pa.Table, schema: pa.Schema) -> pa.Table:
    """Give facts the columns of a `joint_schema`."""
    names = set(facts.column_names)
    columns = [
        _converted(facts[field.name], field.type) if field.name in names else pa.nulls(len(facts), field.type)
        for field in schema
    ]
    return pa.table(columns, schema=schema)


def _joint(kinds: set[pa.DataType]) -> pa.DataType:
    """Find the type that holds what columns of these types do."""
    strings = pa.list_(pa.string())
    if len(kinds) < 2:
        return next(iter(kinds), pa.bool_())
    if kinds == {pa.int64(), pa.float64()}:
        return pa.float64()
    return strings if kinds == {strings, pa.string()} else pa.string()


def _converted(column: pa.ChunkedArray, to: pa.DataType) -> pa.ChunkedArray | pa.Array:
    if column.type == to:
        return column
    if column.null_count == len(column):
        return pa.nulls(len(column), to)
    if to == pa.float64():
        return column.cast(to)
    convert: Callable[[Any], Any] = _text if to == pa.string() else lambda value: list(_strings(value))
    return pa.array([None if value is None else convert(value) for value in column.to_pylist()], to)


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
    kinds = {_kind(value) for value in values if value is not None}
    if kinds <= {"bool"}:
        return pa.array(values, pa.bool_())
    if kinds == {"int"}:
        return pa.array(values, pa.int64())
    if kinds <= {"int", "float"}:
        return pa.array([None if value is None else float(value) for value in values], pa.float64())
    if kinds <= {"list", "string"} and "list" in kinds:
        return pa.array([None if value is None else list(_strings(value)) for value in values], pa.list_(pa.string()))
    return pa.array([None if value is None else _text(value) for value in values], pa.string())


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        return "int" if -_LARGEST <= value < _LARGEST else "float"
    kinds: dict[type, str] = {float: "float", list: "list"}
    return kinds.get(type(value), "string")


def _strings(value: Any) -> Iterable[str]:
    return map(_text, value) if isinstance(value, list) else [_text(value)]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
