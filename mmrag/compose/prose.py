"""Text → the sentences that a picture may belong to, and the places where one may stand.

Markdown is read as such, and plain text as Markdown without marks. Headings, code, tables, HTML, link definitions,
front matter and sentences that have a picture already are no places.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mmrag.compose.answer import Span
from mmrag.sources.text.markdown import commonmark, front_matter
from mmrag.sources.text.markup import plain_markdown
from mmrag.sources.text.sentences import sentences

if TYPE_CHECKING:
    from markdown_it.token import Token

_QUOTE_MARKS = re.compile(r"^(?:[ \t]*>)+", re.MULTILINE)
_LIST_MARKS = re.compile(r"\A(?:\s*(?:>|[-*+](?=\s)|\d{1,9}[.)](?=\s)))+")


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence of a text.

    Attributes
    ----------
    text : str
        As it is read: on one line, and without marks.
    span : Span
        Where it stands in the text.
    """

    text: str
    span: Span


@dataclass(frozen=True)
class Prose:
    """What of a text is prose.

    Attributes
    ----------
    sentences : list of Sentence
        In order.
    ends : list of int
        Where the text's blocks end, ascending: a picture may be set there and tears nothing apart. A list or a quote
        is one block, with all that is in it.
    """

    sentences: list[Sentence]
    ends: list[int]

    def end_of(self, span: Span) -> int:
        """Where the block ends that something stands in."""
        at = bisect_left(self.ends, span[1])
        return self.ends[at] if at < len(self.ends) else span[1]


def read_prose(text: str) -> Prose:
    """Find the sentences and the blocks of a text in Markdown, or in none."""
    lines = text.replace("\r\n", " \n")  # of the same length, so that places stay
    starts = [0, *(found.end() for found in re.finditer("\n", lines)), len(text)]
    first_line = front_matter(lines)[1]
    tokens: list[Token] = []
    reader = commonmark()
    reader.block.parse(lines[starts[first_line] :], reader, {}, tokens)
    ends: list[int] = []
    found: list[Sentence] = []
    for token in tokens:
        if token.map is None:
            continue
        start, end = (starts[first_line + line] for line in token.map)
        if token.level == 0:
            ends.append(_end_of_line(text, start + len(text[start:end].rstrip())))
        if token.type == "paragraph_open":
            found += _sentences(text, start, end)
    return Prose(found, ends)


def _sentences(text: str, start: int, end: int) -> Iterator[Sentence]:
    body = _QUOTE_MARKS.sub(lambda marks: " " * len(marks.group()), text[start:end])
    for first, last in sentences(_LIST_MARKS.sub(lambda marks: " " * len(marks.group()), body)):
        words = " ".join(plain_markdown(body[first:last]).split())
        if "![" not in body[first:last] and any(sign.isalpha() for sign in words):
            yield Sentence(words, (start + first, start + last))


def _end_of_line(text: str, at: int) -> int:
    end = text.find("\n", at)
    end = len(text) if end < 0 else end
    return end - 1 if text[at:end].endswith("\r") else end
