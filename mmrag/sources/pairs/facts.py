"""What a row says beside its picture and its texts → facts that JSON can hold."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from typing import Any

_WHOLE = re.compile(r"-?(0|[1-9]\d{0,17})")
_DECIMAL = re.compile(r"-?(0|[1-9]\d*)\.\d+([eE][-+]?\d+)?")
_DEEPEST = 8
_LONGEST = 256  # a longer list is a vector of some model


def facts_of(row: Mapping[str, Any], *, without: Collection[str]) -> dict[str, Any]:
    """Take the facts out of a row: all its columns but some; what is empty, bytes or a long list is left out."""
    facts = {str(name): _plain(value) for name, value in row.items() if name and name not in without}
    return {name: value for name, value in facts.items() if value not in (None, "", [], {})}


def as_number(cell: str) -> str | int | float:
    """Read the cell of a table that knows only text: a number where it is written as one, ``007`` is none.

    Examples
    --------
    >>> as_number("42"), as_number("-0.5"), as_number("007"), as_number("1.")
    (42, -0.5, '007', '1.')
    """
    if _WHOLE.fullmatch(cell):
        return int(cell)
    return float(cell) if _DECIMAL.fullmatch(cell) and math.isfinite(float(cell)) else cell


def _plain(value: Any, depth: int = 0) -> Any:
    """Make what JSON can hold of a value; None of what it cannot."""
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()  # no half characters
    if isinstance(value, (bytes, bytearray, memoryview)) or depth == _DEEPEST:
        return None
    if isinstance(value, (list, tuple)) and len(value) > _LONGEST:
        return None
    if isinstance(value, Mapping):
        return {str(name): _plain(one, depth + 1) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one, depth + 1) for one in value]
    return value.isoformat() if hasattr(value, "isoformat") else str(value)
