"""Filters over a view: which of its rows pass a condition, segment by segment.

It imports pyarrow.compute, and is itself imported where there is a filter.
"""

from __future__ import annotations

import difflib
import threading
from collections.abc import Iterable
from functools import reduce
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from mmrag.errors import QueryError
from mmrag.search.condition import (
    Compare,
    Condition,
    Contains,
    Every,
    In,
    IsNull,
    Like,
    Name,
    Near,
    Not,
    Operand,
    Some,
    Value,
    mistake,
    parse,
)
from mmrag.stores.arrow import array_of, to_numpy, truths
from mmrag.stores.columns import KINDS, FactColumns
from mmrag.stores.facts import LISTS, NUMBERS, TEXTS, TRUTHS, WHOLE_NUMBERS
from mmrag.stores.segment import Segment

if TYPE_CHECKING:
    from mmrag.stores.view import Allowed, View

_REMEMBERED = 8  # conditions of a view; each takes a byte a row
_EARTH_METRES = 6_371_008.8  # mean radius
_NAMES_SHOWN = 30
_FUNCTIONS = {
    "=": "equal",
    "!=": "not_equal",
    "<": "less",
    "<=": "less_equal",
    ">": "greater",
    ">=": "greater_equal",
}
_EXAMPLES = {
    TRUTHS: "{} = true",
    WHOLE_NUMBERS: "{} >= 100",
    NUMBERS: "{} >= 0.5",
    TEXTS: "{} = 'a text'",
    LISTS: "{} contains 'a text'",
}

_known: WeakKeyDictionary[View, dict[str, Allowed]] = WeakKeyDictionary()
_knowing = threading.Lock()


def masks(view: View, where: str) -> Allowed:
    """Tell which rows of a view pass a filter; rows of which that is not known, for want of a fact, do not.

    Parameters
    ----------
    view : View
        Where to look.
    where : str
        As `mmrag.search.condition` says, over the names that `mmrag.stores.columns` knows.

    Returns
    -------
    sequence of bool arrays
        For each segment of the view, for all its rows, deleted ones too.

    Raises
    ------
    QueryError
        With the place, if it is no filter, names no fact of this view, or compares what cannot be compared.
    """
    with _knowing:
        found = _known.setdefault(view, {}).pop(where, None)
    if found is None:
        found = _masks(view, where)
    with _knowing:
        remembered = _known[view]
        remembered[where] = found
        for oldest in list(remembered)[:-_REMEMBERED]:
            del remembered[oldest]
    return found


def passing(view: View, where: str) -> int:
    """Count the items that can be found and pass a filter."""
    pairs = zip(view.segments, masks(view, where), strict=True)
    return sum(int((mask & one.alive)[: len(one.vectors)].sum()) for one, mask in pairs)


def stamps_passing(view: View, where: str) -> list[int]:
    """Give the stamps of the rows that pass a filter, of those too that could not be read; ascending."""
    pairs = zip(view.segments, masks(view, where), strict=True)
    return sorted(stamp for one, mask in pairs for stamp in one.stamps[mask & one.alive].tolist())


def _masks(view: View, where: str) -> Allowed:
    condition, columns = parse(where), FactColumns(view)
    return [to_numpy(_Rows(where, columns, segment).evaluate(condition)) for segment in view.segments]


class _Rows:
    """The rows of a segment, of which conditions are true, false or, where a fact is missing, null."""

    def __init__(self, where: str, columns: FactColumns, segment: Segment) -> None:
        self.where = where
        self.columns = columns
        self.segment = segment

    def evaluate(self, condition: Condition) -> Any:
        """Give a bool array, with nulls, in the logic of SQL."""
        match condition:
            case Every(conditions):
                return reduce(pc.and_kleene, map(self.evaluate, conditions))
            case Some(conditions):
                return reduce(pc.or_kleene, map(self.evaluate, conditions))
            case Not(inner):
                return pc.invert(self.evaluate(inner))
            case Compare():
                return self.compare(condition)
            case In():
                return self.is_in(condition)
            case Like(name, pattern, ignore_case):
                texts = self.column(name, TEXTS, "only a text is like a pattern")
                return pc.match_like(texts, pattern, ignore_case=ignore_case)
            case Contains():
                return self.contains(condition)
            case IsNull(name):
                return pc.is_null(self.any_column(name))
            case Near():
                return self.near(condition)

    def compare(self, one: Compare) -> Any:
        left, right = self.kind(one.left), self.kind(one.right)
        ordered = {left, right}.isdisjoint({TRUTHS, LISTS})
        if LISTS in (left, right) or not _comparable(left, right) or not (ordered or one.operator in ("=", "!=")):
            raise self.mismatch(*((one.left, one.right) if isinstance(one.left, Name) else (one.right, one.left)))
        both = NUMBERS if {left, right} == {WHOLE_NUMBERS, NUMBERS} else left
        return pc.call_function(_FUNCTIONS[one.operator], [self.operand(one.left, both), self.operand(one.right, both)])

    def is_in(self, one: In) -> Any:
        kind = self.kind(one.name)
        kinds = {kind, *map(self.kind, one.values)}
        for value in one.values:
            if kind == LISTS or not _comparable(kind, self.kind(value)):
                raise self.mismatch(one.name, value)
        both = NUMBERS if NUMBERS in kinds else kind
        column = self.operand(one.name, both)
        found = pc.is_in(column, value_set=array_of([value.value for value in one.values], both))
        return pc.if_else(pc.is_valid(column), found, pa.nulls(len(column), TRUTHS))

    def contains(self, one: Contains) -> Any:
        lists = self.column(one.name, LISTS, "only a list contains a text")
        if not isinstance(one.value.value, str):
            raise mistake(self.where, one.value.at, "lists hold texts; write one in '…'")
        equal = pc.equal(pc.list_flatten(lists), array_of([one.value.value], TEXTS)[0])
        found = np.zeros(len(lists), dtype=bool)
        found[to_numpy(pc.list_parent_indices(lists))[to_numpy(equal)]] = True
        return truths(found, to_numpy(pc.is_valid(lists)))

    def near(self, one: Near) -> Any:
        latitude, longitude = self.degrees("latitude", one.at), self.degrees("longitude", one.at)
        found = np.zeros(len(latitude), dtype=bool)
        apart = np.degrees(one.metres / _EARTH_METRES) + 1e-6  # no place further north or south is near
        rows = np.flatnonzero(np.abs(latitude - one.latitude) <= apart)
        found[rows] = _great_circle(latitude[rows], longitude[rows], one.latitude, one.longitude) <= one.metres
        return truths(found, ~(np.isnan(latitude) | np.isnan(longitude)))

    def degrees(self, name: str, at: int) -> npt.NDArray[np.float64]:
        kind = self.kind(Name(name, at))
        if kind not in (WHOLE_NUMBERS, NUMBERS):
            raise mistake(self.where, at, f"near compares degrees, and {name} is {KINDS[kind]} here")
        return to_numpy(self.operand(Name(name, at), NUMBERS), null=np.nan)

    def column(self, name: Name, kind: pa.DataType, wanted: str) -> pa.Array:
        found = self.kind(name)
        if found != kind:
            told = f"{wanted}, and {name.text} is {KINDS[found]} here"
            raise mistake(self.where, name.at, f"{told}; write for instance {_EXAMPLES[found].format(name.text)}")
        return self.any_column(name)

    def any_column(self, name: Name) -> pa.Array:
        self.kind(name)
        return self.columns.read(self.segment, name.text)

    def operand(self, one: Operand, kind: pa.DataType) -> Any:
        if isinstance(one, Value):
            return array_of([one.value], kind)[0]
        column = self.any_column(one)
        return column if column.type == kind else column.cast(kind, safe=False)

    def kind(self, one: Operand) -> pa.DataType:
        if isinstance(one, Value):
            return {bool: TRUTHS, int: WHOLE_NUMBERS, float: NUMBERS}.get(type(one.value), TEXTS)
        kind = self.columns.kinds.get(one.text)
        if kind is None:
            raise mistake(self.where, one.at, _unknown(one.text, self.columns.present))
        return kind

    def mismatch(self, one: Operand, other: Operand) -> QueryError:
        shown, kind = _shown(one), self.kind(one)
        told = f"{shown} is {KINDS[kind]} and {_shown(other)} is {KINDS[self.kind(other)]}, which do not compare so"
        return mistake(self.where, other.at, f"{told}; write for instance {_EXAMPLES[kind].format(shown)}")


def _comparable(left: pa.DataType, right: pa.DataType) -> bool:
    return left == right or {left, right} == {WHOLE_NUMBERS, NUMBERS}


def _shown(one: Operand) -> str:
    if isinstance(one, Name):
        return one.text
    return f"'{one.value:.40}'" if isinstance(one.value, str) else str(one.value).lower()


def _unknown(name: str, known: Iterable[str]) -> str:
    listed = sorted(known)
    close = difflib.get_close_matches(name.lower(), [one.lower() for one in listed], n=1)
    nearest = [one for one in listed if close and one.lower() == close[0]]
    hint = f" (did you mean {nearest[0]}?)" if nearest else ""
    more = f" and {len(listed) - _NAMES_SHOWN:,} more (mmrag info --facts)" if len(listed) > _NAMES_SHOWN else ""
    return f"nothing here has the fact {name:.80}{hint}; there are {', '.join(listed[:_NAMES_SHOWN])}{more}"


def _great_circle(
    latitude: npt.NDArray[np.float64], longitude: npt.NDArray[np.float64], to_latitude: float, to_longitude: float
) -> npt.NDArray[np.float64]:
    """Metres from each of ``(n,)`` places to another, in degrees: the haversine formula on a sphere."""
    south, north = np.radians(latitude), np.radians(to_latitude)
    across = np.sin(np.radians(longitude - to_longitude) / 2) ** 2
    chord = np.sin((south - north) / 2) ** 2 + np.cos(south) * np.cos(north) * across
    return np.asarray(2 * _EARTH_METRES * np.arcsin(np.sqrt(np.clip(chord, 0, 1))))
