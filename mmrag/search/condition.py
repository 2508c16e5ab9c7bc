"""The language of filters: text such as ``"year >= 2022 and width > 2000"`` → a tree of conditions.

What SQL writes after WHERE, of one table: comparisons (= != < <= > >=), ``in (…)``, ``between … and …``, ``like`` and
``ilike`` (the same without case) with % and _, ``is null``, ``and``, ``or``, ``not``, parentheses, texts in '…',
numbers, true and false. Beside SQL: ``contains``, for lists, and ``near(latitude, longitude, '5km')``. Words of the
language may be written in any case; names are as they are, in "…" if they are not plain words.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NoReturn

from mmrag.errors import QueryError

LONGEST = 100_000
"""Characters of a filter."""

DEEPEST = 100
"""Parentheses within parentheses."""

_EXCERPT = 60
_LARGEST = 2**63  # of 64 bits; greater whole numbers are compared as floats
_METRES = {"m": 1.0, "km": 1000.0, "mi": 1609.344}
_RESERVED = {*("and", "or", "not", "in", "between", "like", "ilike", "is", "null", "contains", "true", "false")}
_TOKEN = re.compile(
    r"""(?P<space>\s+)
      | (?P<text>'(?:[^']|'')*')
      | (?P<quoted>"(?:[^"]|"")+")
      | (?P<number>[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?(?![\w.]))
      | (?P<word>[^\W\d]\w*(?:\.\w+)*)
      | (?P<symbol><=|>=|<>|!=|==|[=<>(),])""",
    re.VERBOSE,
)
_COMPARISONS = {"=": "=", "==": "=", "!=": "!=", "<>": "!=", "<": "<", "<=": "<=", ">": ">", ">=": ">="}

Comparison = Literal["=", "!=", "<", "<=", ">", ">="]


@dataclass(frozen=True, slots=True)
class Name:
    """A fact or column, by its name."""

    text: str
    at: int


@dataclass(frozen=True, slots=True)
class Value:
    """A number, a text, or true or false."""

    value: float | str | bool
    at: int


Operand = Name | Value


@dataclass(frozen=True, slots=True)
class Compare:
    """``left operator right``; one of them is a name at least."""

    left: Operand
    operator: Comparison
    right: Operand


@dataclass(frozen=True, slots=True)
class In:
    """Whether what the name stands for is one of `values`."""

    name: Name
    values: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class Like:
    """Whether a text has the form of a pattern, in which % stands for any characters and _ for one."""

    name: Name
    pattern: str
    ignore_case: bool


@dataclass(frozen=True, slots=True)
class Contains:
    """Whether a text is in a list."""

    name: Name
    value: Value


@dataclass(frozen=True, slots=True)
class IsNull:
    """Whether there is no such fact."""

    name: Name


@dataclass(frozen=True, slots=True)
class Near:
    """Whether it was taken within so many metres of a place, on the great circle."""

    latitude: float
    longitude: float
    metres: float
    at: int


@dataclass(frozen=True, slots=True)
class Not:
    """The contrary; of what is not known, not known."""

    condition: Condition


@dataclass(frozen=True, slots=True)
class Every:
    """Conditions joined by ``and``."""

    conditions: tuple[Condition, ...]


@dataclass(frozen=True, slots=True)
class Some:
    """Conditions joined by ``or``."""

    conditions: tuple[Condition, ...]


Condition = Compare | In | Like | Contains | IsNull | Near | Not | Every | Some


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    at: int


def parse(where: str) -> Condition:
    """Read a filter.

    Raises
    ------
    QueryError
        With the place, if it is not one, or is too long or too deep.
    """
    if len(where) > LONGEST:
        raise QueryError(f"a filter has at most {LONGEST:,} characters, and this one {len(where):,}")
    return _Parser(where).whole()


def both(*conditions: str | None) -> str | None:
    """Join filters by ``and``; those that are None count as passed, and None comes back if all are.

    Raises
    ------
    QueryError
        If one of them alone is no filter.
    """
    given = [condition for condition in conditions if condition is not None]
    for condition in given:
        parse(condition)
    return " and ".join(f"({condition})" for condition in given) if len(given) > 1 else next(iter(given), None)


def metres(radius: str) -> float:
    """Read a distance such as 5km, 500m or 3mi.

    Raises
    ------
    QueryError
        If it is none, or not above 0.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*(km|mi|m)\s*", radius)
    length = float(found[1]) * _METRES[found[2]] if found else 0.0
    if not 0 < length < math.inf:
        raise QueryError(f"a radius is a length above 0 with its unit, such as 5km, 500m or 3mi, not {radius!r:.40}")
    return length


def check_place(latitude: float, longitude: float) -> None:
    """Refuse what is nowhere on the earth.

    Raises
    ------
    QueryError
        With the ranges.
    """
    if not -90 <= latitude <= 90:
        raise QueryError(f"a latitude is from -90 to 90 degrees, not {latitude:g}")
    if not -180 <= longitude <= 180:
        raise QueryError(f"a longitude is from -180 to 180 degrees, not {longitude:g}")


def mistake(where: str, at: int, problem: str) -> QueryError:
    """Make an error that shows the place in a filter."""
    start = max(0, at - _EXCERPT // 2)
    excerpt = "".join(char if char.isprintable() else " " for char in where[start : start + _EXCERPT])
    before, after = "… " if start else "", " …" if start + _EXCERPT < len(where) else ""
    caret = " " * (len(before) + at - start) + "^"
    return QueryError(f"the filter is wrong at character {at + 1}: {problem}\n  {before}{excerpt}{after}\n  {caret}")


def _tokens(where: str) -> list[_Token]:
    tokens, at = [], 0
    while at < len(where):
        found = _TOKEN.match(where, at)
        if found is None:
            raise mistake(where, at, _unreadable(where[at]))
        kind = found.lastgroup or ""
        if kind != "space":
            tokens.append(_Token(kind, found.group(), at))
        at = found.end()
    return [*tokens, _Token("end", "", len(where.rstrip()))]


def _unreadable(char: str) -> str:
    if char in "'\"":
        kind = "text" if char == "'" else "name"
        return f"this {kind} has no end; close it with {char}, and write {char}{char} for one inside"
    if char.isdigit():
        return "this is no number; a name that begins with a digit stands in double quotes"
    return f"{char!r} means nothing here; texts stand in '…', names that are not plain words in \"…\""


class _Parser:
    """Recursive descent; ``or`` binds least, then ``and``, then ``not``."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.tokens = _tokens(where)
        self.position = 0
        self.depth = 0

    @property
    def next(self) -> _Token:
        return self.tokens[self.position]

    def whole(self) -> Condition:
        if self.next.kind == "end":
            raise QueryError("the filter is empty; write a condition such as \"year >= 2022 and camera like 'Canon%'\"")
        condition = self.some()
        if self.next.kind != "end":
            self.fail("'and', 'or' or the end of the filter")
        return condition

    def some(self) -> Condition:
        conditions = self.joined("or", self.every)
        return conditions[0] if len(conditions) == 1 else Some(conditions)

    def every(self) -> Condition:
        conditions = self.joined("and", self.negated)
        return conditions[0] if len(conditions) == 1 else Every(conditions)

    def joined(self, word: str, read: Callable[[], Condition]) -> tuple[Condition, ...]:
        conditions = [read()]
        while self.accept(word):
            conditions.append(read())
        return tuple(conditions)

    def negated(self) -> Condition:
        negations = 0
        while self.accept("not"):
            negations += 1
        condition = self.simple()
        return Not(condition) if negations % 2 else condition

    def simple(self) -> Condition:
        if self.accept("("):
            return self.enclosed()
        following = self.tokens[min(self.position + 1, len(self.tokens) - 1)]
        if self.next.kind == "word" and self.next.text.lower() == "near" and following.text == "(":
            return self.near()
        return self.predicate()

    def enclosed(self) -> Condition:
        self.depth += 1
        if self.depth > DEEPEST:
            problem = f"there are more than {DEEPEST} parentheses within each other; leave some out"
            raise mistake(self.where, self.next.at, problem)
        condition = self.some()
        self.expect(")")
        self.depth -= 1
        return condition

    def near(self) -> Condition:
        at = self.take().at
        self.expect("(")
        latitude = self.number()
        self.expect(",")
        longitude = self.number()
        self.expect(",")
        radius = self.text("a radius such as '5km'")
        self.expect(")")
        try:
            check_place(latitude, longitude)
            return Near(latitude, longitude, metres(radius), at)
        except QueryError as error:
            raise mistake(self.where, at, str(error)) from error

    def predicate(self) -> Condition:
        operand = self.operand()
        if self.next.text in _COMPARISONS and self.next.kind == "symbol":
            return self.comparison(operand)
        if isinstance(operand, Value):
            self.fail("a comparison such as = or <")
        if self.accept("is"):
            negated = self.accept("not")
            self.expect("null")
            return Not(IsNull(operand)) if negated else IsNull(operand)
        negated = self.accept("not")
        condition = self.test(operand)
        if condition is None and negated:
            self.fail("in, like, ilike, between or contains")
        condition = condition or Compare(operand, "=", Value(value=True, at=operand.at))
        return Not(condition) if negated else condition

    def comparison(self, left: Operand) -> Condition:
        operator = self.take()
        right = self.operand()
        if isinstance(left, Value) and isinstance(right, Value):
            raise mistake(self.where, left.at, "both sides are values; compare the name of a fact with one")
        return Compare(left, _COMPARISONS[operator.text], right)  # type: ignore[arg-type]

    def test(self, name: Name) -> Condition | None:
        """Read what follows a name in words; None if nothing does."""
        if self.accept("in"):
            return In(name, self.values())
        if self.accept("between"):
            least = self.operand()
            self.expect("and")
            return Every((Compare(name, ">=", least), Compare(name, "<=", self.operand())))
        if self.accept("contains"):
            return Contains(name, self.value())
        if self.accept("like"):
            return Like(name, self.text("a pattern such as '%beach%'"), ignore_case=False)
        if self.accept("ilike"):
            return Like(name, self.text("a pattern such as '%beach%'"), ignore_case=True)
        return None

    def values(self) -> tuple[Value, ...]:
        self.expect("(")
        values = [self.value()]
        while self.accept(","):
            values.append(self.value())
        self.expect(")")
        return tuple(values)

    def operand(self) -> Operand:
        token = self.next
        if token.kind == "quoted":
            return Name(self.take().text[1:-1].replace('""', '"'), token.at)
        if token.kind == "word" and token.text.lower() not in _RESERVED:
            return Name(self.take().text, token.at)
        return self.value("a name or a value")

    def value(self, wanted: str = "a value") -> Value:
        token, word = self.next, self.next.text.lower()
        if token.kind == "text":
            return Value(self.text(wanted), token.at)
        if token.kind == "number":
            return Value(self.number(), token.at)
        if token.kind == "word" and word in ("true", "false"):
            return Value(self.take().text.lower() == "true", token.at)
        if word == "null":
            raise mistake(self.where, token.at, "nothing equals null; write: is null, or: is not null")
        return self.fail(wanted)

    def text(self, wanted: str) -> str:
        if self.next.kind != "text":
            self.fail(f"{wanted}, in '…'")
        return self.take().text[1:-1].replace("''", "'")

    def number(self) -> float:
        if self.next.kind != "number":
            self.fail("a number")
        text = self.take().text
        number = float(text)
        whole = text.lstrip("+-").isdecimal() and abs(number) < _LARGEST
        return int(text) if whole else number

    def take(self) -> _Token:
        self.position += 1
        return self.tokens[self.position - 1]

    def accept(self, text: str) -> bool:
        """Go past a word or symbol, if it is the next."""
        found = self.next.kind in ("word", "symbol") and self.next.text.lower() == text
        self.position += found
        return found

    def expect(self, text: str) -> None:
        if not self.accept(text):
            self.fail(f"{text!r}")

    def fail(self, wanted: str) -> NoReturn:
        found = "the end" if self.next.kind == "end" else f"{self.next.text:.40}"
        raise mistake(self.where, self.next.at, f"expected {wanted}, found {found}")
