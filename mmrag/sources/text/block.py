"""What a text file consists of, whatever its format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["heading", "paragraph", "lines"]
"""A heading, sentences that may go over several lines, or lines that stand for themselves: code, rows of a table."""


@dataclass(frozen=True, slots=True)
class Block:
    """A heading, a paragraph, a point of a list, a table or a piece of code.

    Attributes
    ----------
    text : str
        Without what only marks it up. Not blank.
    headings : tuple of str
        What it stands under, the highest first; of a heading, itself is the last. Very long ones are cut.
    first_line, last_line : int
        Of the file, from 1.
    """

    text: str
    headings: tuple[str, ...]
    first_line: int
    last_line: int
    kind: Kind = "paragraph"


@dataclass(frozen=True, slots=True)
class Document:
    """A text file that was read.

    Attributes
    ----------
    blocks : list of Block
        In the order of the file.
    title : str
        Its own, or empty.
    facts : mapping
        What it says of itself by name, such as the front matter of Markdown: anything JSON can hold.
    guessed : str
        The encoding that its bytes were read in, if neither they nor the file say which it is; else empty.
    """

    blocks: list[Block]
    title: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    guessed: str = ""


_LONGEST_HEADING = 200


def shortened(heading: str) -> str:
    """Cut a heading or title that is no such thing: every chunk below it bears it."""
    return heading if len(heading) <= _LONGEST_HEADING else f"{heading[:_LONGEST_HEADING].rstrip()} …"


class Outline:
    """The headings above the place that is being read."""

    def __init__(self) -> None:
        self._levels: list[int] = []
        self.path: tuple[str, ...] = ()

    def enter(self, level: int, heading: str) -> tuple[str, ...]:
        """Go on below a heading; those of its level and of deeper ones end. Gives the path to it."""
        above = next((i for i, other in enumerate(self._levels) if other >= level), len(self._levels))
        self._levels = [*self._levels[:above], level]
        self.path = (*self.path[:above], shortened(heading))
        return self.path
