"""Blocks → chunks that a model reads whole, each with the headings that it stands under.

The headings are the first line of a chunk's text ("Guide › Install"): what is in the middle of a section seldom says
what it is about, and so the vector, the search for words and the reader all see it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from mmrag.errors import InputError
from mmrag.sources.text.block import Block
from mmrag.sources.text.sentences import lines, middle, sentences

OVERLAP = 0.15
"""The share of a chunk that may be what the one before it ends with."""

_HEADINGS_SHARE = 1 / 3
"""Of a chunk, at most, is its headings; longer ones stand in the text of their own section only."""

_CHARACTERS = 8
"""A token is no more than so many characters: a long word that a model does not know may be one, and says nothing."""

CountTokens = Callable[[Sequence[str]], list[int]]


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a document.

    Attributes
    ----------
    text : str
        Its headings in one line, if they are short enough, and below them what it says.
    headings : tuple of str
        What it stands under, the highest first.
    lines : tuple of int
        The first and the last one of the file, from 1.
    """

    text: str
    headings: tuple[str, ...]
    lines: tuple[int, int]


@dataclass(frozen=True, slots=True)
class _Unit:
    """What is not divided, unless it is longer than a chunk: a sentence, or a line of code."""

    text: str
    before: str
    block: int  # its number; below 0 that of a section's heading
    first_line: int
    last_line: int
    is_whole: bool = True
    cost: int = 0


@dataclass(slots=True)
class _Section:
    """What stands between two headings; `head` is the line that its chunks begin with."""

    headings: tuple[str, ...]
    heading: Block | None
    units: list[_Unit]
    head: str = ""
    room: int = 0


@dataclass(frozen=True, slots=True)
class _Draft:
    """A chunk to be; `is_first` of its section, whose heading's line it has."""

    section: _Section
    units: Sequence[_Unit]
    is_first: bool

    @property
    def text(self) -> str:
        body = "".join(f"{unit.before if number else ''}{unit.text}" for number, unit in enumerate(self.units))
        return "\n".join(filter(None, (self.section.head, body)))

    def finished(self) -> Chunk:
        within: list[Block | _Unit] = [*self.units]
        if self.is_first and self.section.heading:
            within.append(self.section.heading)
        span = min(one.first_line for one in within), max(one.last_line for one in within)
        return Chunk(self.text, self.section.headings, span)


def chunk(blocks: Sequence[Block], *, limit: int, count_tokens: CountTokens, overlap: float = OVERLAP) -> list[Chunk]:
    """Divide a document at its headings, then between paragraphs, then between sentences, then anywhere.

    Neighbours of one section are joined while they fit. Every character of the blocks that is no white space is in a
    chunk, and so is every heading.

    Parameters
    ----------
    blocks : sequence of Block
        In the order of the document.
    limit : int
        The tokens that a chunk has at most, special ones included; only a single sign that has more goes beyond.
    count_tokens : callable
        Counts the tokens of texts, as `mmrag.roles.Encoder.count_tokens`; called a few times for all blocks together.
    overlap : float
        The share of a chunk, from 0 to below 1, that may repeat the last sentences of the one before it.

    Raises
    ------
    InputError
        If the limit or the overlap is none.
    """
    if limit < 1 or not 0 <= overlap < 1:
        raise InputError(f"limit is at least 1 and overlap from 0 to below 1, not {limit} and {overlap}")
    sections = _sections(blocks)
    (special,) = count_tokens([""])
    _put_heads(sections, limit, special, count_tokens)
    _fit(sections, special, count_tokens)
    drafts = [draft for section in _with_text(sections) for draft in _drafts(section, overlap)]
    return [draft.finished() for draft in _checked(drafts, limit, count_tokens)]


def _sections(blocks: Sequence[Block]) -> list[_Section]:
    sections: list[_Section] = []
    for number, block in enumerate(blocks):
        is_heading = block.kind == "heading"
        if is_heading or not sections or sections[-1].headings != block.headings:
            sections.append(_Section(block.headings, block if is_heading else None, []))
        if not is_heading:
            sections[-1].units += _units(block, number)
    return sections


def _units(block: Block, number: int) -> Iterator[_Unit]:
    text, last_end, line = block.text, 0, block.first_line
    is_as_in_file = text.count("\n") == block.last_line - block.first_line
    for start, end in (lines if block.kind == "lines" else sentences)(text):
        before = "\n" if not last_end else _separator(text[last_end:start])
        first = line + text.count("\n", last_end, start)
        line = first + text.count("\n", start, end)
        span = (first, line) if is_as_in_file else (block.first_line, block.last_line)
        yield _Unit(text[start:end], before, number, *span)
        last_end = end


def _separator(gap: str) -> str:
    return "\n" if "\n" in gap else " " if gap else ""


def _put_heads(sections: list[_Section], limit: int, special: int, count_tokens: CountTokens) -> None:
    """Choose the line that each section's chunks begin with: all headings, the last one, or none where it is long."""
    lines = {line for one in sections if one.headings for line in (_path(one.headings), one.headings[-1])}
    short = [line for line in lines if len(line) <= limit * _CHARACTERS]
    costs = dict(zip(short, count_tokens([f"{line}\n" for line in short]), strict=True)) if short else {}
    for number, section in enumerate(sections):
        choice = (_path(section.headings), section.headings[-1]) if section.headings else ()
        section.head = next(
            (line for line in choice if costs.get(line, limit + 1) - special <= limit * _HEADINGS_SHARE), ""
        )
        section.room = max(1, limit - (costs[section.head] if section.head else special))
        if section.heading and not (section.head and section.heading.text == section.headings[-1]):
            section.units[:0] = _units(replace(section.heading, kind="paragraph"), -1 - number)


def _with_text(sections: Sequence[_Section]) -> Iterator[_Section]:
    """Leave out headings with nothing below them that the next section's chunks begin with."""
    for section, following in zip(sections, [*sections[1:], None], strict=True):
        shown = following is not None and following.head == _path(following.headings)
        depth = len(section.headings)
        if section.units or not (following and shown and following.headings[:depth] == section.headings):
            yield section


def _path(headings: Sequence[str]) -> str:
    return " › ".join(headings)


def _fit(sections: list[_Section], special: int, count_tokens: CountTokens) -> None:
    """Count the tokens of all units, and halve those that have too many until none has."""
    for section in sections:
        section.units = [part for unit in section.units for part in _cut(unit, section.room * _CHARACTERS)]
    while uncounted := [unit for section in sections for unit in section.units if not unit.cost]:
        costs = iter(count_tokens([unit.text for unit in uncounted]))
        for section in sections:
            section.units = [
                part
                for unit in section.units
                for part in ([unit] if unit.cost else _costed(unit, next(costs) - special, section.room))
            ]


def _cut(unit: _Unit, longest: int) -> Iterator[_Unit]:
    """Divide what has more characters than a chunk may have, so that nothing longer is ever tokenized."""
    waiting = [unit]
    while waiting:
        one = waiting.pop()
        halves = _halves(one) if len(one.text) > longest else []
        waiting += reversed(halves)
        if not halves:
            yield one


def _costed(unit: _Unit, tokens: int, room: int) -> list[_Unit]:
    """Note what a unit costs, or halve it: what its halves cost is not known yet."""
    cost = max(1, tokens, -(-len(unit.text) // _CHARACTERS))
    return (_halves(unit) if cost > room else []) or [replace(unit, cost=cost)]


def _halves(unit: _Unit) -> list[_Unit]:
    """Divide a unit in two, or give nothing where it is a single sign."""
    at = middle(unit.text)
    if not at:
        return []
    left, right = unit.text[:at], unit.text[at:]
    first, last = unit.first_line, unit.last_line
    if unit.text.count("\n") == last - first:
        ends, begins = first + left.rstrip().count("\n"), last - right.lstrip().count("\n")
    else:
        ends, begins = last, first
    parts = (
        replace(unit, text=left.strip(), last_line=ends, is_whole=False),
        replace(unit, text=right.strip(), before=_separator(_gap(left, right)), first_line=begins, is_whole=False),
    )
    return [part for part in parts if part.text]


def _gap(left: str, right: str) -> str:
    return left[len(left.rstrip()) :] + right[: len(right) - len(right.lstrip())]


def _drafts(section: _Section, overlap: float) -> Iterator[_Draft]:
    packed = list(_packed(section.units, section.room, int(section.room * overlap))) or [[]]
    for number, units in enumerate(packed):
        yield _Draft(section, units, is_first=number == 0)


def _packed(units: Sequence[_Unit], room: int, shared: int) -> Iterator[list[_Unit]]:
    """Join units while they fit; a paragraph is begun anew where it fits whole and half of the room is used."""
    current: list[_Unit] = []
    size = 0
    for _, group in groupby(units, key=lambda unit: unit.block):
        paragraph = list(group)
        whole = sum(unit.cost for unit in paragraph)
        breaks = whole <= room < size + whole and 2 * size >= room
        for number, unit in enumerate(paragraph):
            needed = whole if breaks and not number else unit.cost
            if current and size + needed > room:
                yield current
                current = _repeated(current, min(shared, room - needed))
                size = sum(one.cost for one in current)
            current.append(unit)
            size += unit.cost
    if current:
        yield current


def _repeated(units: Sequence[_Unit], room: int) -> list[_Unit]:
    """Give the last whole sentences that cost no more than `room`, and never all."""
    start = len(units)
    while start > 1 and units[start - 1].is_whole and units[start - 1].cost <= room:
        start -= 1
        room -= units[start].cost
    return list(units[start:])


def _checked(drafts: Iterable[_Draft], limit: int, count_tokens: CountTokens) -> list[_Draft]:
    """Halve those that have more tokens together than one by one, until none has too many."""
    counted: list[tuple[_Draft, bool]] = [(draft, False) for draft in drafts]
    while waiting := [draft for draft, is_right in counted if not is_right]:
        counts = iter(count_tokens([draft.text for draft in waiting]))
        counted = [
            part
            for draft, is_right in counted
            for part in ([(draft, True)] if is_right or next(counts) <= limit else _divided(draft))
        ]
    return [draft for draft, _ in counted]


def _divided(draft: _Draft) -> list[tuple[_Draft, bool]]:
    """Halve a draft; what is a single sign stays."""
    units, half = draft.units, len(draft.units) // 2
    parts = [units[:half], units[half:]] if half else [[one] for unit in units for one in _halves(unit)]
    if not parts:
        return [(draft, True)]
    return [
        (replace(draft, units=part, is_first=draft.is_first and not number), False) for number, part in enumerate(parts)
    ]
