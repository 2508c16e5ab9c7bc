"""reStructuredText → blocks: titles by their adornment, paragraphs by blank lines. Nothing is run or included."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from mmrag.sources.text.block import Block, Document, Outline
from mmrag.sources.text.markup import plain_rst
from mmrag.sources.text.plain import paragraphs

_ADORNMENT = re.compile(r"([!-/:-@\[-`{-~])\1*\s*")
_SHORTEST = 3


def read_rst(text: str) -> Document:
    """Read the sections of a text; their levels are in the order in which kinds of adornment are first seen."""
    blocks = list(_blocks(text.split("\n")))
    title = next((block.text for block in blocks if block.kind == "heading"), "")
    return Document(blocks, title)


def _blocks(lines: Sequence[str]) -> Iterator[Block]:
    outline, kinds = Outline(), dict[tuple[str, bool], int]()
    done = number = 0
    while number < len(lines):
        height, overlined = _title(lines, number)
        if height:
            yield from _body(lines, done, number, outline.path)
            adornment = lines[number + height - 1][0]
            level = kinds.setdefault((adornment, overlined), len(kinds))
            heading = " ".join(plain_rst(lines[number + overlined]).split())
            path = outline.enter(level, heading)
            yield Block(heading, path, number + 1, number + height, "heading")
            done = number + height
        number += height or 1
    yield from _body(lines, done, len(lines), outline.path)


def _title(lines: Sequence[str], number: int) -> tuple[int, bool]:
    """Tell how many lines a title that begins here takes, 0 if none does, and whether it has a line above it."""
    here, below, third = (lines[at] if at < len(lines) else "" for at in range(number, number + 3))
    if (number and lines[number - 1].strip()) or not here.strip():
        return 0, False
    if _is_adornment(here, below.strip()) and third.rstrip() == here.rstrip():
        return 3, True
    titled = not here[0].isspace() and not _ADORNMENT.fullmatch(here)
    return (2, False) if titled and _is_adornment(below, here.strip()) else (0, False)


def _is_adornment(line: str, title: str) -> bool:
    """Tell whether a line is drawn below, or above, a title: it may be somewhat shorter, as docutils allows."""
    marks = line.rstrip()
    return bool(title and len(marks) >= min(len(title), _SHORTEST) and _ADORNMENT.fullmatch(line))


def _body(lines: Sequence[str], first: int, end: int, headings: tuple[str, ...]) -> Iterator[Block]:
    some = ["" if _ADORNMENT.fullmatch(line) else line for line in lines[first:end]]
    for block in paragraphs(some, headings=headings, first_line=first + 1):
        text = plain_rst(block.text)
        yield Block(text, headings, block.first_line, block.last_line, "paragraph")
